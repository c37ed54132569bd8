"""Every example runs on the sample set, from the training to the notebook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tools.run_blocks import blocks

from .run_examples import COMMANDS, PAGES

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the examples ran; result.json holds what they said."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    for number in range(7):
        image = Image.new("RGB", (40 + number, 30), (30 * number, 90, 200))
        image.save(folder / "photos" / f"{number}.png")
    (folder / "docs").symlink_to(ROOT / "docs")
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "SILC_DATA")}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    runner = Path(__file__).with_name("run_examples.py")
    command = [sys.executable, str(runner), str(ROOT), "result.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def said(folder, request) -> dict:
    """What one of COMMANDS printed."""
    return json.loads((folder / "result.json").read_text())[request.param]


def command(text: str) -> pytest.MarkDecorator:
    """The test is about the command that begins so."""
    (index,) = [i for i, words in enumerate(COMMANDS) if " ".join(words).startswith(text)]
    return pytest.mark.parametrize("said", [index], indirect=True, ids=[text.split()[0]])


def test_every_example_is_run():
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert files - {"common.py"} == {name for name, *_ in COMMANDS}


@command("train_in_python")
def test_training(folder, said):
    assert said["error"] is None, said["error"]
    assert "Model(student, ViT of 4 blocks" in said["output"]
    assert "zeroshot_classification" in (folder / "runs/sample/evaluation.json").read_text()


@command("embed_and_search.py --run runs/sample --query")
def test_search_in_the_sample_set(said):
    assert said["error"] is None, said["error"]
    head, *rows = said["output"].splitlines()
    assert head == "16 images; closest to 'a dog':"
    scores = [float(row.split()[0]) for row in rows]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)


@command("embed_and_search.py --run runs/sample/open_clip")
def test_search_in_a_folder_with_an_export(said):
    assert said["error"] is None, said["error"]
    assert said["output"].startswith("7 images; closest")
    assert len(re.findall(r"photos/\d\.png", said["output"])) == 5


@command("zero_shot_classification")
def test_classification(said):
    assert said["error"] is None, said["error"]
    rows = said["output"].splitlines()
    assert len(rows) == 4
    assert all(row.split()[0] in ("dog", "cat", "lion", "cow", "pig", "mouse") for row in rows)


@command("dense_features.py --run runs/sample")
def test_segmentation(folder, said):
    assert said["error"] is None, said["error"]
    shares = [int(share) for share in re.findall(r"(\d+)%", said["output"])]
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(100, abs=3)
    assert Image.open(folder / "overlay.png").size == (96, 96)


@command("dense_features.py --run runs/none")
def test_a_missing_run_names_the_command_that_makes_it(said):
    assert said["error"].startswith("runs/none is missing; train it with `silc train`")


@command("quickstart")
def test_the_notebook(said):
    assert said["error"] is None, said["error"]
    assert said["output"].endswith("overlay (96, 96)\n")


def test_the_notebook_is_valid_and_its_outputs_are_cleared():
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_the_pages_runs(folder, page):
    (found,) = [row for row in json.loads((folder / "result.json").read_text()) if row["command"] == [page]]
    assert found["error"] is None, found["error"]
    assert found["output"].count("ran\n") == len(list(blocks((ROOT / page).read_text(), "python"))) > 0


def test_every_page_with_python_is_run():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    with_python = {str(page.relative_to(ROOT)) for page in pages if any(blocks(page.read_text(), "python"))}
    assert with_python == set(PAGES)  # kernels/README.md is run by tests/kernels, without the trainer
