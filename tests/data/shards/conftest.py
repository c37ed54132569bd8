"""The servers of tests/storage, and a cache of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage.fixtures import faulty_s3, s3, s3rver, web

__all__ = ["faulty_s3", "s3", "s3rver", "web"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indices are kept that cannot lie beside their shards."""
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
