"""`silc compare`: a table and a picture out of run folders, and messages for what it cannot compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc import config_io
from silc.commands import compare
from silc.config import Config
from silc.evaluate.report import dense_maps


def measured(folder: Path, value: float, **options) -> Path:
    folder.mkdir(parents=True)
    metrics = {"miou": {"value": value, "chance": 0.01, "error": 0.003}}
    row = {"task": "zeroshot_segmentation", "model": "student", "data": "mine", "metrics": metrics, "error": None}
    tree = config_io.to_dict(Config())["eval"] | options
    (folder / "evaluation.json").write_text(json.dumps({"step": 3, "results": [row], "eval": tree}))
    return folder


def run(capsys, *words: str | Path) -> tuple[int, str, str]:
    try:
        status = compare.main([str(word) for word in words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_results_without_a_model_give_a_table_alone(tmp_path, capsys):
    one, other = measured(tmp_path / "clip", 0.03), measured(tmp_path / "silc", 0.034)
    status, out, _ = run(capsys, one, other)
    assert status == 0
    assert out.splitlines()[1].split() == (
        ["zeroshot_segmentation", "student", "miou", "0.0100", "0.030", "0.034", "+0.004", "+-", "0.004"]
    )
    said = f"dense_maps.png is drawn of models: {one} and {other} hold figures alone, as silc evaluate --out writes"
    assert out.splitlines()[-1] == said
    assert not (other / "dense_maps.png").exists()


def test_same_names_are_told_apart_by_their_folders(tmp_path, capsys):
    one, other = measured(tmp_path / "a/run", 0.1), measured(tmp_path / "b/run", 0.2)
    assert f"{other} - {one}" in run(capsys, one, other)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{clip}"], "give two runs or more to compare"),
        (["{clip}", "{clip}"], "is given twice"),
        (["{clip}", "{none}"], "none is not a folder"),
        (["{clip}", "{empty}"], "has no evaluation.json; measure it first: silc evaluate "),
        (["{clip}", "{damaged}"], "evaluation.json is damaged; measure the run again"),
        (["{clip}", "{other}"], "not measured alike: eval.limit is 0 and 9"),
        (["{clip}", "{silc}", "--tasks", "fewshots"], "'fewshots' is not a task; did you mean 'fewshot'?"),
        (["{clip}", "{silc}", "--tasks", "fewshot"], "in common: fewshot was not measured on clip and silc; measure"),
        (["{clip}", "{silc}", "--out", "{damaged}/evaluation.json"], "File exists; give another --out"),
        (["{clip}", "{silc}", "--out", "{damaged}/evaluation.json/below"], "evaluation.json/below: Not a directory"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, said):
    for name, value in (("clip", 0.1), ("silc", 0.2)):
        measured(tmp_path / name, value)
    measured(tmp_path / "other", 0.2, limit=9)
    (tmp_path / "empty").mkdir()
    measured(tmp_path / "damaged", 0.2)
    (tmp_path / "damaged/evaluation.json").write_text('{"step": 3}')
    folders = {name: tmp_path / name for name in ("clip", "silc", "other", "empty", "damaged", "none")}
    status, out, err = run(capsys, *(word.format(**folders) for word in words))
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def write_masks(folder: Path) -> None:
    """Two images of two classes each, and one of one class."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, (left, right) in enumerate(((0, 1), (2, 3), (4, 4))):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        mask = np.full((32, 32), 255, np.uint8)
        mask[:, :12], mask[:, 20:] = left, right
        Image.fromarray(pixels).save(folder / f"images/{number}.jpg")
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
    (folder / "classes.txt").write_text("".join(f"thing {number}\n" for number in range(5)))


def test_runs_give_a_picture_of_the_images_that_the_evaluation_names(one_rank, tmp_path, capsys):
    write_masks(tmp_path / "mine")
    for name, value in (("clip", 0.03), ("silc", 0.034)):
        shutil.copytree(one_rank.folder, tmp_path / name)
        made = measured(tmp_path / f"{name}-kept", value, segmentation=f"masks:{tmp_path / 'mine'}")
        shutil.copy(made / "evaluation.json", tmp_path / name)
    status, out, err = run(capsys, tmp_path / "clip", tmp_path / "silc", "--out", tmp_path / "look/at")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split() == ["pairs", "seen", *[str(3 * 16)] * 2]
    assert lines[-1] == f"dense maps: {tmp_path / 'look/at/dense_maps.png'}"
    assert "note: silc: the figures are of step 3, its maps of step " in out
    with Image.open(tmp_path / "look/at/dense_maps.png") as picture:
        assert picture.format == "PNG"
        drawn = np.array(picture)
    assert not (tmp_path / "silc/dense_maps.png").exists()
    # The same weights in both columns: the same maps.
    width = (1 + dense_maps.HEATS) * (dense_maps.CELL + dense_maps.MARGIN)
    start, top = (
        2 * (dense_maps.CELL + dense_maps.MARGIN) + dense_maps.MARGIN,
        2 * (dense_maps.LINE + 6) + dense_maps.MARGIN,
    )
    first, second = (drawn[top:, at : at + width] for at in (start, start + width))
    assert np.array_equal(first[:, : second.shape[1]], second)
    assert first.std() > 10


def test_an_image_of_one_class_alone_is_no_picture(one_rank, tmp_path, capsys):
    write_masks(tmp_path / "mine")
    for number in (0, 1):
        for name in ("images", "masks"):
            next((tmp_path / "mine" / name).glob(f"{number}.*")).unlink()
    for name in ("clip", "silc"):
        shutil.copytree(one_rank.folder, tmp_path / name)
        made = measured(tmp_path / f"{name}-kept", 0.1, segmentation=f"masks:{tmp_path / 'mine'}")
        shutil.copy(made / "evaluation.json", tmp_path / name)
    status, out, _ = run(capsys, tmp_path / "clip", tmp_path / "silc")
    assert status == 0
    assert "no dense_maps.png: mine: of the first 1 images none shows 2 to 4 classes" in out
