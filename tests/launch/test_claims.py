"""launch/claims.py: real trainings of two arms, figures of both, nothing done twice, mistakes before any run."""

from __future__ import annotations

import importlib.util

import pytest

from silc.claims import plan

from .conftest import ROOT, environment


@pytest.fixture
def claims(monkeypatch, data, tmp_path):
    """The script as a module, in a folder with the tiny data, as a user's shell would start it."""
    spec = importlib.util.spec_from_file_location("claims_script", ROOT / "launch" / "claims.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(data)
    monkeypatch.setattr(plan, "ARMS", {arm: plan.ARMS[arm] for arm in ("clip", plan.SILC)})
    monkeypatch.setattr(module.page, "ARMS", plan.ARMS)
    monkeypatch.setattr(module.page, "BASELINES", ["clip"])
    return module


def words(data, out, *more: str) -> list[str]:
    return [
        *("--preset", str(data / "tiny.yaml"), "--pairs", "64", "--out", str(out), f"data.shards=[{data}/train]"),
        *("eval.after=[zeroshot_classification]", *more),
    ]


def test_two_arms_are_trained_measured_and_tabulated_once(claims, data, tmp_path, monkeypatch, capfd):
    out = tmp_path / "claims"
    assert claims.main(words(data, out)) == 0
    assert "2 runs" in capfd.readouterr().out
    table = (out / "claims.md").read_text()
    assert "zero-shot classification, top-1" in table
    assert "(one seed)" in table
    csv = (out / "claims.csv").read_text()
    assert csv.count("zeroshot_classification,top1") == 2

    monkeypatch.setattr(claims, "launch", lambda _: pytest.fail("done already"))
    assert claims.main(words(data, out)) == 0
    with pytest.raises(SystemExit, match="2"):
        claims.main(words(data, out, "optim.lr=0.5"))
    assert "clip-64-seed0 holds a run with another section optim" in capfd.readouterr().err


def test_a_run_that_fails_does_not_stop_the_others_but_a_signal_does(claims, data, tmp_path, monkeypatch, capfd):
    tried = []
    monkeypatch.setattr(claims, "launch", lambda command: tried.append(command) or 1)
    assert claims.main(words(data, tmp_path / "a")) == 1
    assert len(tried) == 2
    assert "without figures" in capfd.readouterr().err
    monkeypatch.setattr(claims, "launch", lambda command: tried.append(command) or 75)
    assert claims.main(words(data, tmp_path / "b")) == 75
    assert len(tried) == 3


def test_mistakes_end_it_before_a_run(claims, data, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(claims, "launch", lambda _: pytest.fail("started"))
    for more, message in (
        ("train.steps=3", "--pairs"),
        ("optim.warmup_steps=99", "warmup_steps=99"),
        ("optim.no_such_key=1", "no_such_key"),
    ):
        with pytest.raises(SystemExit, match="2"):
            claims.main(words(data, tmp_path / "c", more))
        assert message in capfd.readouterr().err
    assert claims.main([*words(data, tmp_path / "c"), "--dry-run"]) == 0
    assert not (tmp_path / "c").exists()
