"""The servers of tests/storage."""

from tests.storage.fixtures import faulty_s3, s3, s3rver, web

__all__ = ["faulty_s3", "s3", "s3rver", "web"]
