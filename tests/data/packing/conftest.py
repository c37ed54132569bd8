"""A cache of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where indices are kept that cannot lie beside their shards."""
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))
