"""`import silc` is light; `silc.load` and `silc.train` are what a notebook needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import silc
from silc.errors import RunStopped

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> None:
    """Run code in a fresh process."""
    path = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path}, timeout=100)


def test_the_import_is_light():
    python(
        "import sys, silc\n"
        "assert silc.__version__ and {'load', 'train', '__version__'} <= set(dir(silc))\n"
        "assert callable(silc.train)\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'yaml', 'open_clip', 'timm', 'deepspeed'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_train_is_one_object_before_and_after_its_modules_are_imported():
    python(
        "import silc\n"
        "before = silc.train\n"
        "import silc.train.schedule\n"
        "from silc import train\n"
        "assert silc.train is before is train and callable(train) and silc.train.schedule\n"
        "try:\n"
        "    silc.train('no such preset')\n"
        "except ValueError as error:\n"
        "    assert 'no preset' in str(error)\n"
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'silc' has no attribute 'trian'"):
        silc.trian  # noqa: B018
    assert set(silc.__all__) <= set(dir(silc))
    assert (ROOT / "silc" / "py.typed").is_file()


@pytest.fixture
def trained(monkeypatch) -> list:
    """Configurations that reach the trainer, which does not run."""
    from silc.train import run

    seen: list = []
    monkeypatch.setattr(run, "run", lambda config: seen.append(config) or Path(config.train.out), raising=False)
    return seen


def test_sections_override_the_preset(trained):
    folder = silc.train(
        "sample",
        train={"steps": 120, "out": Path("runs/x")},
        optim={"lr": 1e-5, "warmup_steps": 7},
        data={"shards": ("a b.tar", Path("c.tar")), "mean": [0.1, 0.2, 0.3]},
        model={"vision": {"depth": 2}},
        objective={"init_scale": None, "contrastive": "softmax"},
        eval={"templates": ["a {}: 'x'"]},
    )
    (config,) = trained
    assert folder == Path("runs/x")
    assert (config.preset, config.train.steps, config.train.out) == ("sample", 120, "runs/x")
    assert config.optim.lr == 1e-5
    assert config.data.shards == ["a b.tar", "c.tar"]
    assert config.data.mean == (0.1, 0.2, 0.3)
    assert (config.model.vision.depth, config.model.vision.width) == (2, 128)
    assert config.objective.init_scale is None
    assert config.eval.templates == ["a {}: 'x'"]
    preset = yaml.safe_load((ROOT / "silc/presets/sample.yaml").read_text())
    assert config.train.global_batch == preset["train"]["global_batch"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trian": {"steps": 3}}, r"unknown key 'trian.*did you mean 'train"),
        ({"train": {"stepz": 3}}, r"unknown key 'train\.stepz'; did you mean 'train\.steps'"),
        ({"train": {"steps": "many"}}, r"train\.steps='many'"),
        ({"steps": 3}, r"steps=3: give a section .* train=\{\"steps\": 200\}"),
        ({"train": {"steps": object()}}, r"train\.steps=<object.*give numbers, text"),
        ({"train": {"steps": 10}, "optim": {"pattern": {1, 2}}}, r"optim\.pattern"),
    ],
)
def test_a_mistake_is_a_value_error(trained, sections, message):
    with pytest.raises(ValueError, match=message):
        silc.train("sample", **sections)
    assert trained == []


def test_a_failure_is_passed_on(monkeypatch):
    from silc.train import run

    def fail(config):
        raise RunStopped("the disk is full")

    monkeypatch.setattr(run, "run", fail, raising=False)
    with pytest.raises(RunStopped, match="disk is full"):
        silc.train("sample")
