"""Runs every example, and every Python block of the pages, in this one process, in a folder of its own.

    python run_examples.py ROOT RESULT.json

One process, because each would import torch anew; a small sample set, because rendering the usual one takes longer than
everything else here. What each printed, or its traceback, goes into the result.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path

from silc.commands import export
from tools.run_blocks import blocks

RUN = "runs/sample"
COMMANDS = [
    ("train_in_python.py", "--steps", "4", "--scenes", "64", "--out", RUN),
    ("embed_and_search.py", "--run", RUN, "--query", "a dog", "--count", "16"),
    ("embed_and_search.py", "--run", f"{RUN}/open_clip", "--query", "a dog", "--images", "photos"),
    ("zero_shot_classification.py", "--run", RUN, "--count", "4"),
    ("dense_features.py", "--run", RUN, "--out", "overlay.png"),
    ("dense_features.py", "--run", "runs/none"),
    ("quickstart.ipynb",),
]
# In an order in which each finds what it needs.
PAGES = ["README.md", "docs/training.md", "docs/models.md", "docs/kernels.md"]
SHORTER = ('"steps": 100', '"steps": 2')  # of a training that a page shows


def run_script(path: Path, arguments: list[str]) -> None:
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))  # as `python examples/x.py` does
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.path.remove(str(path.parent))


def run_notebook(path: Path) -> None:
    names: dict = {"__name__": "__main__"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}:{cell['id']}", "exec"), names)
    print(f"overlay {names['overlay'].size}")


def run_page(path: Path) -> None:
    """A page's blocks in one namespace, as a reader would type them in a run's folder with an export beside it."""
    names: dict = {"__name__": "__main__"}
    for number, block in enumerate(blocks(path.read_text(encoding="utf-8"), "python"), 1):
        exec(compile(block.replace(*SHORTER), f"{path.name}, Python block {number}", "exec"), names)
        print(f"block {number} ran")


def main(root: Path, result: Path) -> None:
    found = [one([name, *arguments], root / "examples" / name, arguments) for name, *arguments in COMMANDS]
    with contextlib.redirect_stdout(io.StringIO()):
        assert export.main([RUN, "exported"]) == 0
    found += [one([page], root / page, []) for page in PAGES]
    result.write_text(json.dumps(found))


def one(command: list[str], path: Path, arguments: list[str]) -> dict:
    """What a file printed, and how it failed if it did."""
    run = {".ipynb": run_notebook, ".md": run_page}.get(path.suffix)
    said, error = io.StringIO(), None
    with contextlib.redirect_stdout(said):
        try:
            run_script(path, arguments) if run is None else run(path)
        except SystemExit as leaving:
            error = str(leaving.code)
        except Exception:
            error = traceback.format_exc()
    return {"command": command, "output": said.getvalue(), "error": error}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
