"""What is kept of a run, and what is noted of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from silc import config_io
from silc.claims import eval_sets, folders, origin, plan
from silc.train import checkpoint, manifest

PRESETS = Path(__file__).resolve().parents[2] / "silc" / "presets"
FILES = ("student.safetensors", "teacher.safetensors", "trainer.pt", "config.yaml", "engine/moments_00000.safetensors")

OWN = (eval_sets.THE_RUNS_OWN,)
NOTE = json.dumps(dict.fromkeys(("machine", "torch", "silc", "precision"), "x") | {"date": "2026-11-28"})


@pytest.fixture
def run(tmp_path) -> plan.Run:
    """With two checkpoints and an export."""
    run = plan.runs(plan.Recipe("sample", PRESETS, [], tmp_path, {}), [6400], [0], ["silc"])[0]
    for step in (50, 100):
        folder = checkpoint.place(run.folder, step)
        (folder / "engine").mkdir(parents=True)
        manifest.write(folder, step, {name: manifest.write_file(folder / name, name.encode()) for name in FILES})
    (run.folder / "open_clip").mkdir()
    (run.folder / "evaluation.json").write_text("{}")
    return run


def test_the_weights_of_the_last_step_are_kept_as_a_whole_checkpoint(run):
    assert folders.trained(run)
    for _ in range(2):  # a second time it finds nothing
        folders.keep_weights(run)
        last = checkpoint.place(run.folder, 100)
        assert checkpoint.find(run.folder) == last
        assert {file.name for file in last.iterdir()} == {*FILES[:4], manifest.NAME}
        assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoints", "evaluation.json"]
    assert folders.trained(run)


def test_keys_without_an_effect_make_no_other_run():
    """Beside clean captions the shares of web-like ones mean nothing; beside web-like ones they do."""

    def config(*words: str):
        return config_io.load_config("sample", words, presets=PRESETS)

    assert folders.differences(config(), config("data.sample_left_out=0.9")) == []
    web = "data.sample_captions=web"
    assert folders.differences(config(web), config(web, "data.sample_left_out=0.9")) == ["data.sample_left_out"]


def test_what_a_run_writes_on_its_way_makes_no_other_run():
    plain = config_io.load_config("sample", presets=PRESETS)
    words = [
        "train.tensorboard=false",
        "train.save_every=7",
        "train.keep_checkpoints=1",
        "train.save_in_background=true",
    ]
    assert folders.differences(plain, config_io.load_config("sample", words, presets=PRESETS)) == []
    for word in ("train.global_batch=32", "train.log_every=7", "watch.rewinds=1"):
        assert folders.differences(plain, config_io.load_config("sample", [word], presets=PRESETS)) == [
            word.split("=")[0]
        ]


def test_the_order_of_unseen_artists_makes_no_other_run():
    """Nor, in evaluation.json, another sample set: see tests/evaluate/test_results.py."""
    one, other = (
        config_io.load_config("sample", [f"data.sample_unseen=[{names}]"], presets=PRESETS)
        for names in ("noto, noto-v1, twemoji", "twemoji, noto-v1, noto, twemoji")
    )
    assert folders.differences(one, other) == []
    assert one.data.sample_unseen == other.data.sample_unseen == ["noto", "noto-v1", "twemoji"]
    other.data.sample_unseen = ["streamline-emojis", "fxemoji"]
    assert other.data.sample_unseen == ["fxemoji", "streamline-emojis"]


def test_figures_and_weights_without_a_configuration_are_no_ones(run):
    with pytest.raises(ValueError, match="has no config"):
        folders.others(run)
    with pytest.raises(ValueError, match=r"cannot be told \(has no config.yaml\); complete it, or remove"):
        folders.check(run, OWN)
    (run.folder / "config.yaml").write_text(config_io.to_yaml(run.config))
    assert folders.others(run) == []
    folders.check(run, OWN)


def test_interrupted_it_goes_on_where_it_was(run, monkeypatch):
    """At any moment the last checkpoint can be told from a damaged one, or the next call completes it."""
    monkeypatch.setattr(folders.shutil, "rmtree", lambda _: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        folders.keep_weights(run)
    monkeypatch.undo()
    folders.keep_weights(run)
    assert checkpoint.find(run.folder).name == "step_00000100"


def test_a_run_that_is_not_at_its_end_is_not_trained(run):
    longer = dataclasses.replace(run, config=dataclasses.replace(run.config))
    longer.config.train = dataclasses.replace(run.config.train, steps=200)
    assert not folders.trained(longer)


def test_machine_day_and_versions_are_noted(run):
    assert origin.read(run) is None
    origin.write(run, on_cpu=True)
    found = origin.read(run)
    assert found == origin.here(run, on_cpu=True)
    assert found.precision == "fp32"  # the preset's auto, on a CPU
    assert origin.here(run, on_cpu=False).precision == "bf16"
    assert "one thread a run" in found.machine


def test_a_training_that_outlived_its_call_has_the_note_of_its_beginning(run):
    origin.begin(run, on_cpu=True)
    assert not (run.folder / origin.NAME).exists()
    assert origin.read(run) == origin.here(run, on_cpu=True)
    (run.folder / origin.NAME).write_text("damaged")
    assert origin.read(run) is None
    origin.write(run, on_cpu=True)
    assert list((run.folder.parent / "begun").iterdir()) == []


def test_the_machine_is_what_the_run_is_trained_on(run, monkeypatch):
    """Not what this process could use; the GPU is named by another process."""
    monkeypatch.setattr(origin, "gpu_model", lambda: "A GPU")
    monkeypatch.setattr(origin, "cpu_model", lambda: "A CPU")
    origin.machine.cache_clear()
    try:
        assert origin.here(run, on_cpu=True).machine == "A CPU, one thread a run"
        assert origin.here(run, on_cpu=False).machine == "A GPU"
    finally:
        origin.machine.cache_clear()


@pytest.mark.parametrize(("code", "name"), [("print('A GPU X')", "A GPU X"), ("raise SystemExit(1)", "a GPU")])
def test_the_gpu_is_asked_for_in_a_process_that_ends(monkeypatch, code, name):
    begin = origin.subprocess.run
    monkeypatch.setattr(
        origin.subprocess, "run", lambda words, **options: begin([words[0], "-S", "-c", code], **options)
    )
    assert origin.gpu_model() == name


@pytest.mark.parametrize(
    "text", ["", "[]", '{"date": 3}', NOTE.replace("2026-11-28", "yesterday"), "x" * (origin.MAX_BYTES + 1)]
)
def test_a_note_that_is_damaged_is_none(run, text):
    (run.folder / origin.NAME).write_text(text)
    assert origin.read(run) is None


def test_a_note_of_a_stranger_is_short(run):
    names = json.loads(NOTE) | {"machine": "x" * 999}
    (run.folder / origin.NAME).write_text(json.dumps(names))
    assert len(origin.read(run).machine) == origin.LONGEST


def test_the_cpu_is_named(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nmodel name\t: A CPU @ 2 GHz\nmodel name : another\n")
    assert origin.cpu_model(file) == "A CPU @ 2 GHz"
    file.write_text("processor : 0\n")
    assert origin.cpu_model(file).endswith(" CPU")
    assert origin.cpu_model(tmp_path / "none").endswith(" CPU")


def test_figures_without_weights_are_not_measured_on_more(run):
    """It would be trained again, and its figures written over. With the words that it was measured with all is done."""
    options = config_io.to_dict(run.config)["eval"]
    figures = {"top1": {"value": 0.5, "chance": 0.1, "error": None}}
    results = [{"task": task, "model": "student", "error": None, "metrics": figures} for task in run.config.eval.after]
    kept = {"step": 100, "eval": options, "results": results, "tasks": run.config.eval.after}
    (run.folder / "evaluation.json").write_text(json.dumps(kept))
    (run.folder / "config.yaml").write_text(config_io.to_yaml(run.config))
    both = (*OWN, eval_sets.EvalSet("new", ("eval.limit=1",)))
    folders.check(run, both)  # the weights are there
    shutil.rmtree(run.folder / "checkpoints")
    folders.check(run, OWN)
    with pytest.raises(ValueError, match=r"not its weights, .* the figures on new are missing .not measured as asked"):
        folders.check(run, both)
    (run.folder / "evaluation.json").write_text(json.dumps(kept | {"step": 50}))
    folders.check(run, both)  # measured on the way: the training goes on
    (run.folder / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"figures on main are missing .evaluation.json is damaged"):
        folders.check(run, OWN)
    (run.folder / "checkpoints").mkdir()
    folders.check(run, OWN)  # the training goes on, and writes it anew
