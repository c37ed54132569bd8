"""`silc compare`: a table and a picture out of run folders, and messages for what it cannot compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silc import config_io
from silc.commands import compare
from silc.config import Config


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
    assert "no dense_maps.png: " in out
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
        (["{clip}", "{silc}", "--tasks", "fewshot"], "have no metric in common"),
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
