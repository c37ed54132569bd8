"""`silc claims`: real trainings of two variants, metrics of both, nothing done twice, mistakes before any run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from silc import config_io
from silc.claims import jobs
from silc.commands import claims as command
from silc.commands import claims_runs

from .conftest import ROOT, environment


@pytest.fixture
def claims(monkeypatch, data, tmp_path):
    """The command, in a folder with the tiny data and with the environment of a user's shell."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(data)
    return command


def words(data, out, *more: str) -> list[str]:
    return [
        *("--preset", str(data / "tiny.yaml"), "--pairs", "64", "--out", str(out), f"data.shards=[{data}/train]"),
        *("eval.after=[zeroshot_classification]", "--variants", "clip_views,silc", *more),
    ]


SOME = ("--variants", "silc", "--also", "few", "eval.limit=4")


def rows(out, data: str = "main") -> list[tuple[str, str]]:
    """(variant, model) of the top-1 in claims.csv."""
    with (out / "claims.csv").open() as file:
        found = [line for line in csv.DictReader(file) if (line["metric"], line["data"]) == ("top1", data)]
    return [(line["variant"], line["model"]) for line in found]


BOTH = [(variant, model) for variant in ("clip_views", "silc") for model in ("student", "teacher")]


def test_two_variants_are_trained_measured_and_tabulated_once(claims, data, tmp_path, monkeypatch, capfd):
    out = tmp_path / "claims"
    assert claims.main(words(data, out, "--jobs", "2")) == 0
    assert "2 runs, 2 at a time" in capfd.readouterr().out
    table = (out / "claims.md").read_text()
    assert "zero-shot classification, top-1" in table
    assert "(1 seed)" in table
    assert "eval.after=" in table
    assert "one thread a run; torch " in table
    assert rows(out) == BOTH

    # Of the checkpoints the weights are kept. They are measured again, and on a further test set, without training.
    run = out / "silc-64-seed0"
    kept = {str(path.relative_to(run)) for path in run.rglob("checkpoints/**/*") if path.is_file()}
    names = ("student.safetensors", "teacher.safetensors", "trainer.pt", "config.yaml", "manifest.json")
    assert kept == {"checkpoints/latest", *(f"checkpoints/step_00000004/{name}" for name in names)}
    log = (run / "metrics.jsonl").read_text()
    assert json.loads((run / "evaluation.json").read_text())["tasks"] == ["zeroshot_classification"]
    assert json.loads((run / "claims.json").read_text())["machine"].endswith("one thread a run")
    (run / "evaluation.json").write_text("{")
    monkeypatch.setattr(claims_runs, "training", lambda *_: pytest.fail("trained"))
    assert claims.main(words(data, out, *SOME)) == 0
    assert (run / "metrics.jsonl").read_text() == log
    assert (rows(out), rows(out, "few")) == (BOTH, BOTH[2:])
    assert json.loads((run / "also/few/evaluation.json").read_text())["tasks"] == ["zeroshot_classification"]
    said = capfd.readouterr().err
    assert "silc claims: without figures on few: clip_views-64-seed0\n" in said
    assert "left out" not in said
    assert "Without figures on few: clip_views-64-seed0." in (out / "claims.md").read_text().replace("\\", "")
    assert "## Test set few, after 64 pairs" in (out / "claims.md").read_text()

    launched = []
    monkeypatch.setattr(jobs.Processes, "run", lambda *call: launched.append(call[1]) or 1)
    assert claims.main(words(data, out, *SOME)) == 0
    with pytest.raises(SystemExit, match="2"):
        claims.main(words(data, out, "optim.lr=0.5"))
    assert "clip_views-64-seed0 holds a run with another optim.lr;" in capfd.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        claims.main(words(data, out, "--for", "silc", "optim.lr=0.5"))
    assert "silc-64-seed0 holds a run with another optim.lr;" in capfd.readouterr().err
    assert launched == []
    assert claims.main(words(data, out, "--collect", "--for", "silc", "optim.lr=0.5")) == 0
    assert f"left out of {out}: {run.name} (another optim.lr)" in capfd.readouterr().err
    assert "Left out of this page: silc-64-seed0 (another optim.lr)." in (out / "claims.md").read_text()
    assert rows(out) == BOTH[:2]
    # Another seed beside them: what is there stays in the tables.
    monkeypatch.setattr(claims_runs, "training", lambda run, args: ["train", run.folder.name])
    assert claims.main([*words(data, out), "--seeds", "1"]) == 1
    assert sorted(launched) == [["train", "clip_views-64-seed1"], ["train", "silc-64-seed1"]]
    assert rows(out) == BOTH
    # Other rules of measuring: measured again.
    launched.clear()
    capfd.readouterr()
    assert claims.main(words(data, out, "eval.limit=4", "--dry-run")) == 0
    assert [line.rpartition("  ")[2] for line in capfd.readouterr().out.splitlines()[1:3]] == ["measure", "measure"]
    assert claims.main(words(data, out, "eval.limit=4")) == 1
    assert sorted(call[3] for call in launched) == [str(out / "clip_views-64-seed0"), str(run)]
    assert all(call[2] == "silc.commands.evaluate" for call in launched)


def test_the_pages_are_gathered_from_folders_of_other_machines(claims, data, tmp_path, monkeypatch, capfd):
    out = tmp_path / "c"
    assert claims.main([*words(data, out), "--collect"]) == 2
    assert "holds no run that is measured" in capfd.readouterr().err
    args = claims.parse([*words(data, out, "--seeds", "0,1"), "--collect"])
    for run in args.runs:
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").write_text(config_io.to_yaml(run.config))
        result = {"task": "zeroshot_classification", "model": "student", "error": None}
        result["metrics"] = {"top1": {"value": 0.5, "chance": 0.1, "error": None}}
        kept = {"step": 4, "results": [result], "eval": config_io.to_dict(run.config)["eval"]}
        (run.folder / "evaluation.json").write_text(json.dumps(kept))
        note = dict.fromkeys(("torch", "silc", "precision"), "x") | {"machine": f"M{run.seed}", "date": "2026-01-01"}
        (run.folder / "claims.json").write_text(json.dumps(note))
    assert claims.main([*words(data, out, "optim.lr=0.5"), "--collect"]) == 2
    said = capfd.readouterr().err
    names = ", ".join(f"{name}-64-seed{seed}" for seed, name in ((0, "clip_views"), (0, "silc"), (1, "clip_views")))
    assert f"left out of {out}: 4 folders (another optim.lr): {names} and 1 more\n" in said
    assert "give the words that they were made with again" in said
    assert claims.main([*words(data, out), "--collect"]) == 0
    assert "Trained 2026-01-01 on M0 and M1; torch x" in (out / "claims.md").read_text()
    assert "seeds 0, 1." in (out / "claims.md").read_text()
    assert len(rows(out)) == 4
    damaged = args.runs[-1].folder / "config.yaml"
    whole = damaged.read_text()
    damaged.write_text("train: [")
    capfd.readouterr()
    assert claims.main([*words(data, out), "--collect"]) == 0
    assert f"left out of {out}: {damaged.parent.name} (" in capfd.readouterr().err
    assert len(rows(out)) == 3
    damaged.unlink()
    assert claims.main([*words(data, out), "--collect"]) == 0
    assert f"left out of {out}: {damaged.parent.name} (has no config.yaml)" in capfd.readouterr().err
    assert len(rows(out)) == 3
    damaged.write_text(whole)
    figures = damaged.with_name("evaluation.json")
    whole = figures.read_text()
    figures.write_text(whole[:90])
    assert claims.main([*words(data, out), "--collect"]) == 0
    assert f"left out of {out}: {damaged.parent.name} (evaluation.json is damaged)\n" in capfd.readouterr().err
    for value in ("1.5", "-0.1"):  # a share of 1
        figures.write_text(whole.replace("0.5", value))
        assert claims.main([*words(data, out), "--collect"]) == 0
        assert f"zeroshot_classification, value of top1 is {value}, outside 0 to 1" in capfd.readouterr().err
        assert len(rows(out)) == 3
    kept = json.loads(whole)
    kept["results"][0] |= {"metrics": {}, "error": "out of memory"}
    figures.write_text(json.dumps(kept))
    assert claims.main([*words(data, out), "--collect"]) == 0
    assert f"{damaged.parent.name} (zeroshot_classification failed)" in capfd.readouterr().err
    assert len(rows(out)) == 3
    with pytest.raises(SystemExit, match="2"):  # to measure it again would be to train it again
        claims.main(words(data, out, "--seeds", "0,1"))
    assert "figures on main are missing (zeroshot_classification failed)" in capfd.readouterr().err
    figures.write_text(whole)
    renamed = damaged.parent.with_name(damaged.parent.name.replace("-64-", "-65-"))
    damaged.parent.rename(renamed)
    assert claims.main([*words(data, out), "--collect"]) == 0
    assert f"{renamed.name} (no run is named so: 65 pairs are not whole batches)" in capfd.readouterr().err
    assert len(rows(out)) == 3
    renamed.rename(damaged.parent)
    (damaged.parent / "claims.json").unlink()
    assert claims.main([*words(data, out), "--collect"]) == 0
    assert "Of 1 run the machine is not noted." in (out / "claims.md").read_text()
    (out / "claims.csv").unlink()
    (out / "claims.csv").mkdir()
    assert claims.main([*words(data, out), "--collect"]) == 2
    assert "the pages are not written: " in capfd.readouterr().err
    (out / "claims.csv").rmdir()
    with pytest.raises(SystemExit, match="2"):
        claims.main([*words(data, out), "--collect", "--dry-run"])
    capfd.readouterr()
    assert claims.main([*words(data, out, "--seeds", "0,2"), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert [line.rpartition("  ")[2] for line in said.splitlines()[1:5]] == ["nothing", "nothing", "train", "train"]
    assert "4 runs, 0.0 TFLOP of training (to do: 2 runs, 0.0 TFLOP), in " in said
    # A folder with figures but no weights is measured: nothing is left to do.
    monkeypatch.setattr(jobs.Processes, "run", lambda *_: pytest.fail("started"))
    assert claims.main(words(data, out)) == 0


def test_a_run_that_fails_does_not_stop_the_others_but_a_mistake_or_a_signal_does(
    claims, data, tmp_path, monkeypatch, capfd
):
    tried = []
    for status, runs in ((1, 2), (2, 1), (75, 1)):
        tried.clear()
        monkeypatch.setattr(jobs.Processes, "run", lambda *call, status=status: tried.append(call) or status)
        assert claims.main(words(data, tmp_path / str(status), "--jobs", "1")) == status
        assert len(tried) == runs
    assert "not measured" in capfd.readouterr().err


def test_no_figures_after_runs_that_ended_well_are_said(claims, data, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(claims_runs, "perform", lambda *_: (0, []))
    assert claims.main(words(data, tmp_path / "c")) == 1
    assert f"no pages: the runs ended well, but {tmp_path / 'c'} holds no figures" in capfd.readouterr().err


def test_files_that_fail_in_one_run_are_no_other_runs(claims, data, tmp_path, monkeypatch, capfd):
    """A log that cannot be opened; a page, a note and a tidying that fail do not even fail their own run."""
    tried, trained = [], set()

    def run(_, given, *__):
        name = next(one for one in map(str, given) if "-64-seed0" in one)
        tried.append(name)
        if "clip_views" in name:
            raise OSError("no room")
        trained.add(name)
        return 0

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(jobs.Processes, "run", run)
    monkeypatch.setattr(claims_runs.folders, "trained", lambda one: bool(trained) and one.variant == "silc")
    monkeypatch.setattr(claims_runs.folders, "keep_weights", full)
    monkeypatch.setattr(claims_runs.origin, "begin", full)
    monkeypatch.setattr(claims_runs.eval_sets.EvalSet, "done", lambda _, one: bool(trained) and one.variant == "silc")
    args = claims.parse(words(data, tmp_path / "c", "--jobs", "1"))
    status, failed = claims_runs.perform(args, full)
    assert (status, [one.variant for one in failed], len(tried)) == (0, ["clip_views"], 2)
    said = capfd.readouterr().err
    for part in ("clip_views-64-seed0 failed: no room", "is not tidied: disk full", "pages are not written: disk full"):
        assert part in said
    assert "silc-64-seed0: the machine is not noted: disk full" in said
    status, failed = claims_runs.perform(args, full)  # what is damaged already ends no later call
    assert (status, len(failed), len(tried)) == (0, 1, 3)


def test_on_a_cpu_a_run_has_one_thread_whatever_the_number_of_jobs(claims, data, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seen = []
    monkeypatch.setattr(jobs.Processes, "run", lambda _, words, environment, log: seen.append(environment) or 1)
    for number in ("1", "2"):
        claims.main(words(data, tmp_path / number, "--jobs", number))
    assert {one["OMP_NUM_THREADS"] for one in seen} == {"1"}
    assert len(seen) == 4
    # The machine is noted before a training ends: a call that is killed does not lose it.
    noted = [json.loads(path.read_text())["machine"] for path in tmp_path.glob("*/begun/*-seed0.json")]
    assert len(noted) == 4
    assert all(name.endswith("one thread a run") for name in noted)


def test_several_runs_on_a_cpu_and_one_on_a_gpu_unless_asked(claims, data, tmp_path, monkeypatch):
    args = claims.parse(words(data, tmp_path / "c"))
    cores = len(os.sched_getaffinity(0))
    assert claims_runs.number_of_jobs(args, {"DS_ACCELERATOR": "cpu"}) == min(claims_runs.MOST_JOBS, cores)
    assert claims_runs.number_of_jobs(args, {}) == 1
    args.num_gpus = 2
    assert claims_runs.number_of_jobs(args, {"DS_ACCELERATOR": "cpu"}) == 1
    args.jobs = 3
    assert claims_runs.number_of_jobs(args, {}) == 3


STOPPED = """
import signal, sys
from pathlib import Path
from types import SimpleNamespace
sys.path[:0] = {path!r}
from silc.commands import claims_runs
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
run = SimpleNamespace(folder=Path("there"), config=SimpleNamespace(train=SimpleNamespace(out="there", steps=1)))
launcher = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(99)"
trainer = '''
import signal, time
signal.signal(signal.SIGTERM, lambda *_: None)
open("began", "w")
time.sleep(4)
open("ended", "w")
'''
claims_runs.origin.begin = lambda *_, **__: None
claims_runs.training = lambda *_: [sys.executable, "-c", launcher, trainer, "train.out=there"]
never = SimpleNamespace(done=lambda _: False)
args = SimpleNamespace(runs=[run], sets=[never], jobs=2, num_gpus=None, out=Path("."), keep_checkpoints=False)
print(claims_runs.perform(args, lambda: None)[0], claims_runs.folders.busy(run))
"""


def test_stopped_it_waits_until_nothing_trains_any_more(tmp_path):
    """The launcher dies at once of what its trainers need a while for."""
    code = STOPPED.format(path=[str(ROOT), str(ROOT / "kernels")])
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while not (tmp_path / "began").exists():
            assert time.monotonic() < deadline, "the trainer never began"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "75 []"
    assert (tmp_path / "ended").exists()


def test_a_folder_in_use_is_left_alone(claims, data, tmp_path, capfd):
    run = claims.parse(words(data, tmp_path / "x")).runs[0]
    word = f"train.out={run.config.train.out}"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", word]) as process:
        with pytest.raises(SystemExit, match="2"):
            claims.main(words(data, tmp_path / "x"))
        process.kill()
    assert f"is being trained by process {process.pid}" in capfd.readouterr().err


def test_mistakes_end_it_before_a_run(claims, data, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(jobs.Processes, "run", lambda *_: pytest.fail("started"))
    for more, message in (
        ("train.steps=3", "--pairs"),
        ("optim.warmup_steps=99", "64 pairs are 4 steps of clip_views: optim.warmup_steps=99"),
        ("optim.no_such_key=1", "no_such_key"),
        ("--num_gpus=0", "--num_gpus 0"),
        ("--jobs=0", "--jobs 0"),
        ("--variants=clip,silk", "'silk' is not a variant; did you mean 'silc'?"),
        ("--pairs=8k", "--pairs: '8k': give whole numbers separated by commas, as in 8000,32000"),
    ):
        with pytest.raises(SystemExit, match="2"):
            claims.main(words(data, tmp_path / "c", more))
        assert message in capfd.readouterr().err
    for option, message in (
        (("--for", "silk", "optim.lr=1"), "--for 'silk': there is no such variant; begin with one of clip, "),
        (("--for", "clip"), "--for clip sets nothing"),
        (("--for", "clip", "lr"), "lr"),
        (("--for", "clip", "train.steps=1"), "of its own"),
        (("--also", "new"), "--also new says nothing of the data"),
        (("--also", "new", "eval.limits=1"), "eval.limits"),
    ):
        with pytest.raises(SystemExit, match="2"):
            claims.main([*words(data, tmp_path / "c"), *option])
        assert message in capfd.readouterr().err
    assert claims.main([*words(data, tmp_path / "c"), "--dry-run"]) == 0
    assert "whole batches" not in capfd.readouterr().out
    assert claims.main([*words(data, tmp_path / "c"), "--pairs=67", "--dry-run"]) == 0
    assert "--pairs 67: taken as whole batches of train.global_batch=16, as above\n" in capfd.readouterr().out
    assert not (tmp_path / "c").exists()
    assert claims.main([*words(data, tmp_path / "c"), "--also", "new", "eval.shards=[no.tar]"]) == 2
    assert "--also new: eval.shards" in capfd.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        claims.main(words(data, tmp_path / "file"))
    assert "cannot be made" in capfd.readouterr().err
