"""Readers: one module a format, each to :class:`silc.interchange.source.Source`."""

from silc.interchange.read.detect import is_readable, read

__all__ = ["is_readable", "read"]
