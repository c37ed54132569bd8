"""A run repeated from its seed, in another process: the same figures to the last digit, in fp32 and in bf16."""

from __future__ import annotations

import json

import pytest

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
