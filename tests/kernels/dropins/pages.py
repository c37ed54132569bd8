"""The code of a page of docs/ops, as a reader would run it."""

import functools
from pathlib import Path
from typing import Any

from tools.run_blocks import blocks

PAGES = Path(__file__).resolve().parents[3] / "docs" / "ops"


@functools.cache
def run(page: str) -> dict[str, Any]:
    """What the Python blocks of docs/ops/`page`.md define, run in order."""
    path = PAGES / f"{page}.md"
    namespace: dict[str, Any] = {"__name__": page}
    for number, body in enumerate(blocks(path.read_text(encoding="utf-8"), "python"), 1):
        exec(compile(body, f"{path}, Python block {number}", "exec"), namespace)
    return namespace
