"""Bytes of files on local disks and of objects in remote stores, by ranges.

Importing this package imports neither torch nor obstore; obstore is used at the first remote read, in the process that
reads (see :mod:`silc.storage.connect`).
"""

from silc.errors import StoreFailed
from silc.storage.address import beside, check_address, folder_of, is_remote, join, local_path, name_of, shorten
from silc.storage.board import Board, Notes, Totals, Waiting
from silc.storage.cache import NodeCache
from silc.storage.objects import fetch_apart, list_tars, put, read_whole, stat
from silc.storage.opened import open_store
from silc.storage.store import Limits, Range, Stat, Store

__all__ = [
    "Board",
    "Limits",
    "NodeCache",
    "Notes",
    "Range",
    "Stat",
    "Store",
    "StoreFailed",
    "Totals",
    "Waiting",
    "beside",
    "check_address",
    "fetch_apart",
    "folder_of",
    "is_remote",
    "join",
    "list_tars",
    "local_path",
    "name_of",
    "open_store",
    "put",
    "read_whole",
    "shorten",
    "stat",
]
