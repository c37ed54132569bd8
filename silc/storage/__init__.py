"""Bytes of files on local disks and of objects in remote stores, by ranges."""

from silc.storage.store import Range, Stat, Store

__all__ = ["Range", "Stat", "Store"]
