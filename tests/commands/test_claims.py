"""`silc claims`: real trainings of two variants, metrics of both, nothing done twice, mistakes before any run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from silc.claims import plan
from silc.commands import claims as command

from .conftest import ROOT, environment


@pytest.fixture
def claims(monkeypatch, data, tmp_path):
    """The command, in a folder with the tiny data and with the environment of a user's shell."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(data)
    monkeypatch.setattr(plan, "VARIANTS", {name: plan.VARIANTS[name] for name in ("clip", plan.SILC)})
    monkeypatch.setattr(command.page, "VARIANTS", plan.VARIANTS)
    monkeypatch.setattr(command.page, "BASELINES", ["clip"])
    return command


def words(data, out, *more: str) -> list[str]:
    return [
        *("--preset", str(data / "tiny.yaml"), "--pairs", "64", "--out", str(out), f"data.shards=[{data}/train]"),
        *("eval.after=[zeroshot_classification]", *more),
    ]


def test_two_variants_are_trained_measured_and_tabulated_once(claims, data, tmp_path, monkeypatch, capfd):
    out = tmp_path / "claims"
    assert claims.main(words(data, out)) == 0
    assert "2 runs" in capfd.readouterr().out
    table = (out / "claims.md").read_text()
    assert "zero-shot classification, top-1" in table
    assert "(1 seed)" in table
    assert "eval.after=" in table
    assert (out / "claims.csv").read_text().count("zeroshot_classification,top1") == 2

    # Measuring again trains no more.
    run = out / "silc-64-seed0"
    log = (run / "metrics.jsonl").read_text()
    (run / "evaluation.json").write_text("{")
    assert claims.main(words(data, out)) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text()[len(log) :].splitlines()]
    assert not any("loss" in row for row in rows)
    assert (out / "claims.csv").read_text().count("zeroshot_classification,top1") == 2

    launched = []
    monkeypatch.setattr(claims, "launch", lambda run, _: launched.append(run.folder.name) or 1)
    assert claims.main(words(data, out)) == 0
    with pytest.raises(SystemExit, match="2"):
        claims.main(words(data, out, "optim.lr=0.5"))
    assert "clip-64-seed0 holds a run with another optim.lr;" in capfd.readouterr().err
    assert launched == []
    # Another seed beside them: what is there stays in the tables. Other rules of measuring: measured again.
    assert claims.main([*words(data, out), "--seeds", "1"]) == 1
    assert launched == ["clip-64-seed1", "silc-64-seed1"]
    assert (out / "claims.csv").read_text().count("zeroshot_classification,top1") == 2
    assert claims.main(words(data, out, "eval.limit=4")) == 1
    assert launched[2:] == ["clip-64-seed0", "silc-64-seed0"]


def test_a_run_that_fails_does_not_stop_the_others_but_a_mistake_or_a_signal_does(
    claims, data, tmp_path, monkeypatch, capfd
):
    tried = []
    for status, runs in ((1, 2), (2, 1), (75, 1)):
        tried.clear()
        monkeypatch.setattr(claims, "launch", lambda run, command, status=status: tried.append(run) or status)
        assert claims.main(words(data, tmp_path / str(status))) == status
        assert len(tried) == runs
    assert "not measured" in capfd.readouterr().err


STOPPED = """
import signal, sys
from types import SimpleNamespace
sys.path[:0] = {path!r}
from silc.commands import claims
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
run = SimpleNamespace(config=SimpleNamespace(train=SimpleNamespace(out="there")))
launcher = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(99)"
trainer = '''
import signal, time
signal.signal(signal.SIGTERM, lambda *_: None)
open("began", "w")
time.sleep(4)
open("ended", "w")
'''
print(claims.launch(run, [sys.executable, "-c", launcher, trainer, "train.out=there"]), claims.busy(run))
"""


def test_stopped_it_waits_until_nothing_trains_any_more(tmp_path):
    """The launcher dies at once of what its trainers need a while for."""
    code = STOPPED.format(path=[str(ROOT), str(ROOT / "kernels")])
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
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
    monkeypatch.setattr(claims, "launch", lambda *_: pytest.fail("started"))
    for more, message in (
        ("train.steps=3", "--pairs"),
        ("optim.warmup_steps=99", "64 pairs are 4 steps of clip: optim.warmup_steps=99"),
        ("optim.no_such_key=1", "no_such_key"),
        ("--num_gpus=0", "--num_gpus 0"),
        ("--pairs=8k", "--pairs: '8k': give whole numbers separated by commas, as in 8000,32000"),
    ):
        with pytest.raises(SystemExit, match="2"):
            claims.main(words(data, tmp_path / "c", more))
        assert message in capfd.readouterr().err
    assert claims.main([*words(data, tmp_path / "c"), "--dry-run"]) == 0
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        claims.main(words(data, tmp_path / "file"))
    assert "cannot be made" in capfd.readouterr().err
