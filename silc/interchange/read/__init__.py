"""Readers: one module a format, each to :class:`silc.interchange.source.Source`."""
