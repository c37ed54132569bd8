"""A cache of each test's own, and the servers of tests/storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage.fixtures import s3, s3rver, web

__all__ = ["s3", "s3rver", "web"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a check keeps what it has found so far, and indices."""
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
