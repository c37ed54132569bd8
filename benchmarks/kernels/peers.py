"""Other people's packages that a benchmark compares with: each is left out by name where it is not installed."""

from __future__ import annotations

import functools
import importlib
from importlib.util import find_spec
from types import ModuleType


def peer(module: str) -> ModuleType | None:
    """A module of a peer ("lightly.loss"), or None, said once, where its package is not installed."""
    package = module.partition(".")[0]
    if find_spec(package) is None:
        _say(package)
        return None
    return importlib.import_module(module)


@functools.cache  # once a process
def _say(package: str) -> None:
    print(f"  left out: {package} (the package is not installed)", flush=True)
