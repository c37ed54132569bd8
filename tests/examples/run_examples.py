"""Runs every example in this one process, in an empty folder: python run_examples.py EXAMPLES RESULT.json.

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

from silc.data.sample_set import ensure_sample

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


def main(examples: Path, result: Path) -> None:
    assert ensure_sample.__kwdefaults__ is not None
    ensure_sample.__kwdefaults__["scenes_eval"] = 128
    found = []
    for name, *arguments in COMMANDS:
        said, error = io.StringIO(), None
        with contextlib.redirect_stdout(said):
            try:
                run_notebook(examples / name) if name.endswith(".ipynb") else run_script(examples / name, arguments)
            except SystemExit as leaving:
                error = str(leaving.code)
            except Exception:
                error = traceback.format_exc()
        found.append({"command": [name, *arguments], "output": said.getvalue(), "error": error})
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
