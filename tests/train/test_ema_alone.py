"""An EMA of the image tower without distillation: it follows the student, trains nothing, and is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from silc import config_io
from silc.config_rules import validate
from silc.presets import PRESETS
from silc.train.banner import teacher_words

MOMENTUM, STEPS = 0.7, 4
VIEWS = ["objective.distill=false", "views.n_local=0"]
SMALL = [
    *("model.vision.image_size=16", "model.vision.width=16", "model.vision.depth=1", "model.vision.heads=2"),
    *("model.text.width=16", "model.text.depth=1", "model.text.context_length=8", "views.global_size=16"),
    *("data.sample_scenes=64", "data.sample_test_scenes=8", "data.workers=0", "data.shuffle_block=64"),
    *("optim.warmup_steps=1", "train.global_batch=8", f"train.steps={STEPS}", "train.save_every=1"),
    *("train.keep_checkpoints=9", "train.tensorboard=false", "eval.contact_sheet=false", "eval.report=false"),
    *("eval.after=[zeroshot_classification]", f"objective.ema_momentum={MOMENTUM}"),
]
TRAIN = """
import sys
from silc import config_io
from silc.presets import PRESETS
from silc.distributed import name_accelerator
name_accelerator()
from silc.train.run import run
from silc.distributed import left_afterwards
half = f"train.resume={sys.argv[1]}/a/checkpoints/step_00000002"
for out, words in (("a", ["objective.ema=true"]), ("b", []), ("c", ["objective.ema=true", "eval.after=[]", half])):
    with left_afterwards():
        words = [*sys.argv[2:], *words, f"train.out={sys.argv[1]}/{out}"]
        run(config_io.load_config("sample", words, presets=PRESETS), command=[])
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: `a` with the average, `b` without, and `c`, which goes on from half of `a`."""
    folder = tmp_path_factory.mktemp("ema")
    subprocess.run([sys.executable, "-c", TRAIN, str(folder), *SMALL, *VIEWS], check=True, timeout=300, cwd=folder)
    return folder


def weights(run: Path, step: int, name: str) -> dict[str, np.ndarray]:
    return load_file(run / "checkpoints" / f"step_{step:08d}" / f"{name}.safetensors")


def test_average_is_that_of_the_students(runs: Path) -> None:
    """Of the image tower alone; NumPy's, in fp64, from one step to the next."""
    for step in range(2, STEPS + 1):
        student, before, now = (
            weights(runs / "a", *place) for place in ((step, "student"), (step - 1, "teacher"), (step, "teacher"))
        )
        assert {name.split(".")[0] for name in now} == {"visual"}
        for name, value in now.items():
            expected = MOMENTUM * before[name].astype(np.float64) + (1 - MOMENTUM) * student[name]
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
        assert any(np.abs(now[name] - student[name]).max() > 1e-5 for name in now)


def test_training_is_the_same_without_it(runs: Path) -> None:
    with_it, without = (weights(runs / run, STEPS, "student") for run in "ab")
    assert with_it.keys() == without.keys()
    assert all(np.array_equal(with_it[name], without[name]) for name in with_it)


def test_it_is_evaluated_as_teacher(runs: Path) -> None:
    models = {
        run: {result["model"] for result in json.loads((runs / run / "evaluation.json").read_text())["results"]}
        for run in "ab"
    }
    assert models == {"a": {"student", "teacher"}, "b": {"student"}}


def test_the_banner_says_what_the_average_is_of() -> None:
    def said(*words: str) -> str:
        return teacher_words(config_io.load_config("sample", words, presets=PRESETS))

    alone = said("objective.distill=false", "objective.ema=true", "objective.ema_momentum=0.7", "train.steps=40")
    assert alone == "EMA of the image tower, momentum 0.70000, to be evaluated; nothing is distilled"
    distilled = said("objective.ema_momentum=0.7", "train.steps=40", "objective.distill_start=0.5")
    assert distilled == "EMA, momentum 0.70000, from step 20"


def test_a_run_that_was_stopped_goes_on_with_its_average(runs: Path) -> None:
    for name in ("student", "teacher"):
        whole, resumed = (weights(runs / run, STEPS, name) for run in "ac")
        assert whole.keys() == resumed.keys()
        assert all(np.array_equal(whole[key], resumed[key]) for key in whole)


def test_an_average_of_nothing_is_refused() -> None:
    words = [*VIEWS, "objective.ema=true", "objective.head_only_ema=true"]
    with pytest.raises(ValueError, match=r"objective\.ema=true .* objective\.head_only_ema=true leaves out"):
        validate(config_io.load_config("sample", words, presets=PRESETS), 1)
