"""`silc evaluate` on what real runs left: the table, the report, and clear words for a user's mistakes."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc import config_io
from silc.commands import evaluate as command
from silc.commands.evaluate import load, main, parse
from silc.config import TASKS
from silc.data.layouts import LAYOUTS
from silc.train import checkpoint, manifest

from .conftest import CLASSES, STEPS


@pytest.fixture(scope="module")
def evaluate():
    """The command, called in this process: (status, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = main([str(word) for word in words])
            except SystemExit as leaving:
                status = leaving.code
        return status, out.getvalue(), err.getvalue()

    return call


@pytest.fixture
def here(data, monkeypatch) -> Path:
    """The folder that relative names in the runs' configuration mean; tests write beside it."""
    monkeypatch.chdir(data)
    return data


@pytest.fixture
def squares(tmp_path) -> Path:
    """ADE20K's layout with images of 32 px and masks of three classes."""
    root = tmp_path / "ade"
    for split, count in (("training", 6), ("validation", 5)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([number, count])
            values = np.kron(rng.integers(0, 4, (2, 2)), np.ones((16, 16))).astype(np.uint8)
            Image.fromarray(np.stack([60 * values] * 3, -1)).save(root / f"images/{split}/{number}.jpg")
            Image.fromarray(values).save(root / f"annotations/{split}/{number}.png")
    (tmp_path / "three.txt").write_text("one\ntwo\nthree\n")
    return root


def test_a_run_is_measured_as_at_its_end(evaluate, here, one_rank, tmp_path):
    """The same metrics, from the checkpoint; the teacher's and the student's."""
    folder = tmp_path / "run"
    shutil.copytree(one_rank.folder, folder)
    (folder / "report.html").unlink()
    at_the_end = json.loads((folder / "evaluation.json").read_text())
    status, out, err = evaluate(folder)
    assert status == 0, err
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["step"] == STEPS
    for was, now in zip(at_the_end["results"], again["results"], strict=True):
        assert was["metrics"] == now["metrics"], was["task"]
    assert {(row["task"], row["model"]) for row in again["results"]} == {
        (task, model)
        for task in ("validation_loss", "zeroshot_classification", "retrieval")
        for model in ("student", "teacher")
    }
    assert "chance" in out
    assert f"{1 / CLASSES:.4f}" in out
    assert f"report: {folder}/report.html" in out
    assert "<polyline" in (folder / "report.html").read_text()  # the curves of the run


def test_every_task_on_named_data(evaluate, here, one_rank, squares, tmp_path):
    """Segmentation on folders of masks, classification from folders of classes, retrieval from the run's own shards."""
    for split in ("train", "val"):
        for number, name in enumerate(("dark", "light")):
            (tmp_path / "folders" / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((16, 16, 3), 40 + 170 * number + i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "folders" / split / name / f"{i}.png")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    words = [f"eval.classification=imagefolder:{tmp_path}/folders", f"eval.segmentation=ade20k:{squares}"]
    words += ["eval.shots=[1]", "eval.probe_steps=3", "eval.decoder_steps=2", "eval.short_side=32", "eval.window=16"]
    status, out, err = evaluate(
        one_rank.folder,
        "--out",
        tmp_path / "out",
        *words,
        "eval.models=[student]",
        "eval.classes=null",
        "eval.shards=[]",
        "eval.retrieval=null",
        f"--tasks={','.join(TASKS)}",
        "data.shards=[x]",
    )
    assert status == 0, err
    rows = json.loads((tmp_path / "out/evaluation.json").read_text())["results"]
    assert [row["task"] for row in rows] == [task for task in TASKS if task not in ("validation_loss", "retrieval")]
    assert "retrieval is left out: no data set (eval.retrieval)" in out
    assert "150 classes" in out
    assert all(0 <= metric["value"] <= 1 for row in rows for metric in row["metrics"].values())


def test_an_export_is_measured_like_its_checkpoint(evaluate, here, one_rank, tmp_path):
    words = [f"eval.shards=[{here}/eval.tar]", f"eval.classes={here}/classes.txt", "eval.templates=['{}', 'a {}']"]
    words += ["eval.batch=4", "eval.report=false"]
    status, out, err = evaluate(one_rank.path("open_clip"), "--out", tmp_path, *words)
    assert status == 0, err
    assert "report" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    mine = {row["task"]: row["metrics"] for row in json.loads((tmp_path / "evaluation.json").read_text())["results"]}
    saved = json.loads(one_rank.path("evaluation.json").read_text())["results"]
    for row in saved:
        if row["model"] == "student":
            found = mine[row["task"]]
            if row["task"] == "validation_loss":  # an export has the logarithm of the scale, which rounds once more
                found["loss"]["value"] = pytest.approx(found["loss"]["value"], rel=1e-6)
            assert row["metrics"] == found


def test_an_export_without_data_is_told_what_to_give(evaluate, here, one_rank, tmp_path, monkeypatch):
    """It does not say what it was trained on: the sample set is neither made nor taken."""
    monkeypatch.setattr("silc.evaluate.datasets.sample_set", _forbidden)
    status, _, err = evaluate(one_rank.path("open_clip"), "--out", tmp_path)
    assert status == 2
    assert "nothing to evaluate on: give eval.classification" in err
    assert "--preset sample" in err


def test_the_advice_works_for_a_model_of_any_size(one_rank):
    export = one_rank.path("open_clip")
    before, *_ = load(parse([str(export)]))
    config, *_ = load(parse([str(export), "--preset", "sample"]))
    sample = config_io.load_config("sample")
    assert config.model == before.model != sample.model
    assert config.eval == sample.eval
    own = {"tokenizer": before.data.tokenizer, "mean": before.data.mean, "std": before.data.std}
    assert config.data == dataclasses.replace(sample.data, **own)


def sample_run(source: Path, folder: Path, unseen: list[str]) -> Path:
    """A copy of a run, as if it had been trained on the sample set without the drawings of some artists."""
    shutil.copytree(checkpoint.find(source), folder)
    saved, held = folder / "config.yaml", manifest.read(folder)
    config = config_io.read_config(saved)
    config.data.shards, config.data.sample_unseen = [], unseen
    saved.write_text(config_io.to_yaml(config))
    manifest.write(folder, held.step, {**held.files, "config.yaml": manifest.record(saved)})
    return folder


@pytest.mark.parametrize(
    ("unseen", "given", "seen"),
    [
        (["emojione"], "twemoji", "twemoji"),
        (["noto", "noto-v1"], "emojione, noto, noto-v1", None),
        (["noto", "noto-v1"], "noto, fxemoji, noto-v1, twemoji", "fxemoji, twemoji"),
        (["twemoji"], "emojione", None),
    ],
)
def test_artists_of_the_training_are_no_unseen_ones(one_rank, tmp_path, evaluate, unseen, given, seen):
    folder = sample_run(one_rank.folder, tmp_path / "run", unseen)
    words = [folder, f"data.sample_unseen=[{given}]", "--out", tmp_path / "out", "eval.shards=[]", "eval.classes=null"]
    if seen is None:
        config, *_ = load(parse(list(map(str, words))))
        assert set(config.data.sample_unseen) == set(given.split(", "))
        return
    status, _, err = evaluate(*words)
    assert status == 2
    assert f"the run was trained on drawings by {seen}, which are not unseen; it can be tested on emojione" in err
    assert all(name in err.partition("tested on ")[2] for name in unseen)
    assert not (tmp_path / "out").exists()


def test_a_run_on_other_data_was_trained_on_no_artist(one_rank):
    config, *_ = load(parse([str(one_rank.folder), "data.shards=[]", "data.sample_unseen=[twemoji]"]))
    assert config.data.sample_unseen == ["twemoji"]


def _forbidden(*_):
    raise AssertionError("this must not be called")


def test_tasks_on_data_of_their_own_need_forbidden_set(evaluate, here, one_rank, squares, tmp_path, monkeypatch):
    monkeypatch.setattr("silc.evaluate.datasets.sample_set", _forbidden)
    words = ["--tasks=zeroshot_segmentation", "eval.models=[student]", "eval.shards=[]", "eval.classes=null"]
    words += ["data.shards=[]", f"eval.segmentation=ade20k:{squares}", "eval.short_side=32", "eval.window=16"]
    status, _, err = evaluate(one_rank.folder, "--out", tmp_path / "out", *words)
    assert status == 0, err
    assert "<polyline" in (tmp_path / "out/report.html").read_text()  # the curves are those of the run folder


def test_nothing_measured_leaves_earlier_results(evaluate, here, one_rank, tmp_path):
    (tmp_path / "evaluation.json").write_text("earlier")
    status, _, err = evaluate(one_rank.folder, "--tasks=fewshot", "--out", tmp_path)
    assert status == 2
    assert "nothing was measured: fewshot is left out: eval.shards has no training split" in err
    words = ["--tasks=retrieval", "eval.timeout_minutes=1e-9", "--out", tmp_path]
    status, out, _ = evaluate(one_rank.folder, *words)
    assert status == 1
    assert "evaluation.json is not written" in out
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    assert (tmp_path / "evaluation.json").read_text() == "earlier"


def test_the_help_names_every_layout():
    (listed,) = re.findall(r"the layouts are ([\w,\s]+) \(", command.__doc__)
    assert tuple(re.split(r",\s+|\s+and\s+", listed)) == LAYOUTS


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_shows_before_measuring(evaluate, here, one_rank, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("silc.evaluate.runner.evaluate", _forbidden)
    status, _, err = evaluate(one_rank.folder, "--out", tmp_path / place)
    assert status == 2
    assert f"cannot write the results to {tmp_path / place}: " in err
    assert "give another --out" in err


def test_a_report_that_fails_leaves_the_metrics_and_is_status_1(evaluate, here, one_rank, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ValueError("no page today")

    monkeypatch.setattr("silc.evaluate.report.output.report", fails)
    status, _, err = evaluate(one_rank.folder, "--tasks=retrieval", "eval.models=student", "--out", tmp_path)
    assert status == 1
    assert "silc evaluate: evaluation.json is written, the report is not: ValueError: no page today" in err
    assert json.loads((tmp_path / "evaluation.json").read_text())["results"]


def test_a_task_that_gives_up_is_status_1(evaluate, here, one_rank, tmp_path):
    words = ["--tasks=retrieval", "eval.timeout_minutes=1e-9", "eval.models=student", "--out", tmp_path]
    status, out, _ = evaluate(one_rank.folder, *words)
    assert status == 1
    assert "retrieval, student took longer than eval.timeout_minutes=1e-09 on rank 0" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["NOWHERE"],
            ["NOWHERE' does not exist; give a run folder, a checkpoint, an export, or a SigLIP model of another"],
        ),
        (
            ["TMP"],
            ["holds neither a checkpoint nor an export; give a run folder, a checkpoint, an export, or a SigLIP"],
        ),
        (["RUN", "--tasks=zeroshot"], ["'zeroshot' is not a task", "zeroshot_classification"]),
        (["RUN", "--tasks=fewshot, retreival"], ["'retreival' is not a task; did you mean 'retrieval'?"]),
        (["RUN", "model.vision.width=64"], ["model.vision.width=64", "the rest is the checkpoint's"]),
        (
            ["RUN", "eval.shards=a.tar", "b.tar"],
            ["'b.tar' after 'eval.shards=a.tar'", '\'eval.shards=["a.tar", "b.tar"]\''],
        ),
        (["RUN", "eval.limt=3"], ["unknown key 'eval.limt'", "eval.limit"]),
        (["RUN", "eval.window=12"], ["eval.window=12", "patch_size=8", "take 16"]),
        (["RUN", "--preset=TMP/odd.yaml"], ["eval.window=12", "patch_size=8", "take 16"]),
        (["RUN", "--preset=nothing"], ["no preset 'nothing'"]),
        (["RUN", "eval.segmentation=ade20k:TMP/absent"], ["TMP/absent is not a folder"]),
        (["RUN", "eval.segmentation=SQUARES"], ["not of the form LAYOUT:FOLDER"]),
        (["RUN", "eval.segmentation=ade20k:SQUARES", "CUT"], ["has class 199", "names 150"]),
        (
            ["RUN", "eval.segmentation=ade20k:SQUARES", "eval.classes=TMP/three.txt", "eval.shards=[]"],
            ["eval.classes=TMP/three.txt has no effect", "eval.classes=null"],
        ),
        (["RUN", "eval.segmentation=ade20k:SQUARES", "RESIZE"], ["mask of 0 is 20 x 20 pixels, its image 32 x 32"]),
        (["RUN", "eval.segmentation=ade20k:SQUARES", "EMPTY"], ["no pixel of 5 masks", "is the split empty?"]),
        (["RUN", "eval.segmentation=ade20k:SQUARES", "REMOVE"], ["validation: the split is empty"]),
        (["RUN", "eval.shards=[]", "eval.classes=null"], ["nothing to evaluate on", "eval.classification"]),
        (["RUN", "eval.classes=TMP/three.txt"], ["class 3", "names 0 to 2"]),
        (["HEAD"], ["weights do not fit the configuration: visual.trunk.pos_embed"]),
    ],
    ids=lambda x: " ".join(x)[:60] if isinstance(x, list) else None,
)
def test_a_mistake_ends_with_status_2(evaluate, here, one_rank, squares, tmp_path, words, said):
    (tmp_path / "odd.yaml").write_text("extends: sample\neval: {window: 12}")
    masks = sorted((squares / "annotations/validation").iterdir())
    spoil = {
        "CUT": lambda: Image.fromarray(np.full((32, 32), 200, np.uint8)).save(masks[0]),
        "RESIZE": lambda: Image.fromarray(np.full((20, 20), 1, np.uint8)).save(masks[0]),
        "EMPTY": lambda: [Image.fromarray(np.zeros((32, 32), np.uint8)).save(mask) for mask in masks],
        "REMOVE": lambda: [mask.unlink() for mask in masks],
    }
    for word in spoil.keys() & set(words):
        spoil[word]()
    if words == ["HEAD"]:  # weights of a model, configuration of another
        shutil.copytree(checkpoint.find(one_rank.folder), tmp_path / "mixed")
        saved = tmp_path / "mixed/config.yaml"
        saved.write_text(saved.read_text().replace("    image_size: 16\n", "    image_size: 24\n"))
        held = manifest.read(tmp_path / "mixed")
        manifest.write(tmp_path / "mixed", held.step, {**held.files, "config.yaml": manifest.record(saved)})
        words = [tmp_path / "mixed"]
    places = {"NOWHERE": "/nowhere/run", "TMP": str(tmp_path), "RUN": one_rank.folder, "SQUARES": str(squares)}

    def filled(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    call = [filled(str(word)) for word in words if word not in spoil]
    status, out, err = evaluate(*call, "--out", tmp_path / "out", "eval.models=[student]")
    assert status == 2, (out, err)
    assert "Traceback" not in err
    message = err[err.index("silc evaluate: ") :]
    for part in said:
        assert filled(part) in message
