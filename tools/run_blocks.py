"""Run the Python blocks of Markdown pages, each page's blocks in order in one namespace.

    python tools/run_blocks.py kernels/README.md docs/kernels.md

Standard library only, so that it can check what a package needs. Exit status 1 where a block raises.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of one language."""
    return (body for name, body in FENCE.findall(text) if name == language)


def run(path: Path) -> bool:
    """Whether every block of a page ran."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, body in enumerate(blocks(path.read_text(encoding="utf-8"), "python"), 1):
        try:
            exec(compile(body, f"{path}, Python block {number}", "exec"), namespace)
        except Exception:  # reported, whatever it is
            traceback.print_exc()
            return False
        print(f"{path}: block {number} ran")
    return True


if __name__ == "__main__":
    sys.exit(sum(not run(Path(name)) for name in sys.argv[1:]) > 0)
