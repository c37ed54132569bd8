"""For all tests: nothing is written to the user's cache."""

from __future__ import annotations

import os
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Commands that tests start inherit it; so do pytest's own processes, which share it."""
    if "SILC_CACHE" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="silc-tests-")
        os.environ["SILC_CACHE"] = folder.name
        config.add_cleanup(folder.cleanup)
