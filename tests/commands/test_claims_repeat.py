"""A run repeated from its seed, in another process: the same figures to the last digit, in fp32 and in bf16."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from silc import config_io
from tests.soak import repeat

from .conftest import run_train


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_figures_exactly(data, tmp_path, monkeypatch, capsys, precision):
    monkeypatch.chdir(data)
    words = [f"train.out={tmp_path}/run", f"engine.precision={precision}", "eval.report=false", "train.steps=3"]
    words += [f"data.shards=[{data}/train]", "eval.after=[zeroshot_classification,retrieval]"]
    done = run_train("--preset", str(data / "tiny.yaml"), *words, cwd=data)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(SystemExit) as ended:
        repeat.main([str(tmp_path / "run"), "--out", str(tmp_path)])
    assert ended.value.code == 0, capsys.readouterr().out

    # What differs in one figure is found.
    file = tmp_path / "again" / "evaluation.json"
    found = json.loads(file.read_text())
    metric = found["results"][0]["metrics"]["top1"]
    metric["value"] += 1e-12
    file.write_text(json.dumps(found))
    assert repeat.compare(tmp_path / "run", tmp_path / "again").failures == 1
    assert len(repeat.weights(tmp_path / "run")) > 20
    assert any(key.endswith("/loss") for key in repeat.logged(tmp_path / "run"))


def test_what_cannot_be_compared_is_one_line_before_a_training(data, one_rank, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data)
    monkeypatch.setattr(repeat.subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    run = tmp_path / "run"
    shutil.copytree(one_rank.folder, run)
    whole = json.loads((run / "evaluation.json").read_text())

    def refused(*words) -> str:
        with pytest.raises(SystemExit) as ended:
            repeat.main([str(word) for word in words])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "none is no run's folder: it has no config.yaml" in refused(tmp_path / "none")
    again = tmp_path / "out/again"
    again.mkdir(parents=True)
    assert f"{again} exists; remove it, or give another --out" in refused(run, "--out", again.parent)
    for more, said in (
        ({"eval": whole["eval"] | {"limit": 3}}, "(eval.limit)"),
        ({"data": whole["data"] | {"sample_unseen": ["twemoji"]}}, "(data.sample_unseen)"),
        ({"tasks": ["retrieval"]}, "(the tasks)"),
        ({"step": 1}, "(at step 1 of "),
    ):
        (run / "evaluation.json").write_text(json.dumps(whole | more))
        line = refused(run)
        assert f"{run} was last measured otherwise than its config.yaml says {said}" in line
    tasks = ",".join(config_io.read_config(run / "config.yaml").eval.after)
    assert line.endswith(f"measure it again: silc evaluate {run} --tasks {tasks}")
    (run / "evaluation.json").write_text("{")
    assert "has no evaluation.json, or a damaged one" in refused(run)


def test_a_second_training_that_fails_is_one_line(data, one_rank, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data)
    monkeypatch.setattr(repeat, "train", lambda *_: (_ for _ in ()).throw(subprocess.CalledProcessError(75, ["x"])))
    with pytest.raises(SystemExit, match="2"):
        repeat.main([str(one_rank.folder)])
    assert capsys.readouterr().err == "repeat: the second training ended with status 75; its words are above\n"
