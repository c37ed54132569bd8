"""A user's mistakes: status 2 and one clear message, before training, without a traceback."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from silc.config import Config
from silc.train import checkpoint
from silc.train.metrics import check_loggers

from .conftest import Run, environment, run_train

# Name -> (what is wrong, what the message must say). OUT stands for a folder of the case's own.
CASES = {
    "missing_shard": (["data.shards=['OUT/{000..001}.tar']"], ["data.shards: no such file or folder 'OUT/000.tar'"]),
    "tokenizer_too_large": (["model.text.vocab_size=1000"], ["model.text.vocab_size=1000", "49408", "open_clip_bpe"]),
    "tokenizer_absent": (["data.tokenizer=OUT"], ["data.tokenizer='OUT'", "open_clip_bpe"]),
    "init_from_nowhere": (["train.init=OUT"], ["train.init=OUT does not exist; give a run folder", "another library"]),
    "batch_too_large": (["train.global_batch=512"], ["train.global_batch=512", "61 samples"]),
    "resume_from_nowhere": (["train.resume=OUT"], ["'OUT' does not exist; give a run folder or a checkpoint"]),
    "xformers_on_a_cpu": (["model.attention=xformers"], ["model.attention='xformers'", "CUDA", "sdpa"]),
    "triton_on_a_cpu": (["kernels.patch_embed=triton"], ["patch_embed", "triton", "cpu|registered: torch"]),
    "backend_unknown": (["kernels.distill=tritn"], ["distill_head_loss", "'tritn'", "torch"]),
    "apex_forced": (["optim.optimizer=apex_adamw"], ["optim.optimizer=apex_adamw", "take optim.optimizer=auto"]),
    "rule_without_match": (["optim.rules=[{pattern: nothing_here}]"], ["optim.rules", "nothing_here"]),
    "folder_of_other_files": (["train.out=DATA"], ["train.out=", "is not empty and holds no run", "empty folder"]),
    "all_frozen": (["optim.rules=[{pattern: ., lr: 0}]"], ["optim.rules: '.' with lr: 0 freeze all"]),
    "evaluation_shard_missing": (["eval.shards=[OUT.tar]"], ["eval.shards: no such file or folder 'OUT.tar'"]),
    "evaluation_prompts_unknown": (["eval.templates=[clip]"], ["'clip' must hold", "imagenet, imagenet_simple, tcl"]),
}  # fmt: skip


@pytest.fixture(scope="session")
def called(once, data, one_rank) -> dict[str, Any]:
    """Results of all cases, then of a run that goes on where `one_rank` ended; all in one process."""

    def make(folder: Path) -> dict[str, Any]:
        common = ["--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]", "data.workers=0"]

        def filled(word: str, name: str) -> str:
            return word.replace("OUT", f"{folder}/{name}").replace("DATA", str(data))

        calls = [
            [*common, f"train.out={folder}/{name}-run", *(filled(word, name) for word in words)]
            for name, (words, _) in CASES.items()
        ]
        going_on = folder / "going_on"
        shutil.copytree(one_rank.folder, going_on)
        calls.append([*common, f"train.out={going_on}"])
        resumed = [*common, f"train.out={going_on}", "train.resume=auto", "data.max_skipped=0.5"]
        alone = ["--preset", str(folder / "alone.yaml"), *common[2:], f"train.out={folder}/alone", "train.steps=2"]
        (folder / "alone.yaml").write_text((data / "tiny.yaml").read_text().partition("\neval:")[0])
        calls.append([*alone, "optim.rules=[{pattern: ^text, lr: 0}]"])
        calls += [resumed, [*resumed, "train.steps=6"], [*resumed, "train.steps=10"]]
        command = [sys.executable, str(Path(__file__).with_name("worker_calls.py")), json.dumps(calls)]
        done = subprocess.run(
            [*command, str(folder / "results.json")], cwd=data, env=environment(), capture_output=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        names = [*CASES, "out_taken", "alone", "done", "fewer_steps", "going_on"]
        results = dict(zip(names, json.loads((folder / "results.json").read_text()), strict=True))
        return results | {"folder": str(folder)}

    return once("called", make)


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_ends_with_status_2_and_its_reason(called, name):
    result, folder = called[name], Path(called["folder"])
    assert result["status"] == 2, result
    assert "Traceback" not in result["err"]
    (message,) = [line for line in result["err"].splitlines() if line.startswith("silc train: ")]
    for part in CASES[name][1]:
        choices = part.replace("OUT", str(folder / name)).split("|")
        assert any(choice in message for choice in choices), message
    assert "step 2/" not in result["out"]
    assert not (folder / f"{name}-run" / "checkpoints").exists()


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_leaves_no_run_folder(called, name):
    assert not (Path(called["folder"]) / f"{name}-run").exists()


def test_an_earlier_run_is_not_written_over(called):
    result = called["out_taken"]
    assert result["status"] == 2
    assert "holds an earlier run" in result["err"]
    assert "train.resume=auto" in result["err"]


def test_own_data_without_an_evaluation_and_what_is_frozen_are_said(called):
    out = called["alone"]["out"]
    assert called["alone"]["status"] == 0, called["alone"]["err"]
    line = "no evaluation: no data set; give eval.classification, eval.retrieval or eval.segmentation=LAYOUT:FOLDER"
    assert f"  note               {line}" in out
    assert out.splitlines()[-1] == line
    assert re.search(
        r"^  optimiser          frozen [\d,]+ of [\d,]+ weights \(optim\.rules '\^text'\)$", out, re.MULTILINE
    )
    assert "no evaluation" not in called["going_on"]["out"]


def test_a_run_with_all_its_steps_is_not_touched(called, one_rank):
    """The same command again ends well, as one does that is given until it has ended well."""
    assert (called["done"]["status"], called["fewer_steps"]["status"]) == (0, 2)
    assert "is finished, at step 8 of 8; give a larger train.steps to train on" in called["done"]["out"]
    assert "already at step 8 of 6; give a larger train.steps" in called["fewer_steps"]["err"]
    for name in ("done", "fewer_steps"):
        assert "SILC  preset" not in called[name]["out"]
    rows = Run(0, "", str(Path(called["folder"]) / "going_on")).rows("step")
    assert rows[: len(one_rank.rows("step"))] == one_rank.rows("step")


def test_a_run_goes_on(called, one_rank):
    result, folder = called["going_on"], Path(called["folder"]) / "going_on"
    assert result["status"] == 0, result["err"]
    assert "resumed from" in result["out"]
    assert "at step 8" in result["out"]
    assert "train.steps is 10, it was 8: the schedule is recomputed" in result["out"]
    run = Run(0, "", str(folder))
    assert [row["step"] for row in run.rows()] == [2, 4, 6, 8, 10]
    before, after = one_rank.rows()[-1], run.rows()[-1]
    assert after["skipped_samples"] >= before["skipped_samples"]
    assert checkpoint.find(folder).name == "step_00000010"


def test_a_missing_shard_ends_the_process_with_status_2(data, tmp_path):
    done = run_train(f"data.shards=[{tmp_path}/absent.tar]", f"train.out={tmp_path}/run", cwd=data)
    assert done.returncode == 2
    assert f"no such file or folder '{tmp_path}/absent.tar'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("key", "value", "package"), [("wandb_project", "mine", "wandb"), ("tensorboard", True, "")])
def test_a_logger_asked_for_and_absent(key, value, package, monkeypatch):
    """Whether or not it is installed here."""
    package = package or key
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else name)
    config = Config()
    config.train.tensorboard = False
    check_loggers(config)
    setattr(config.train, key, value)
    with pytest.raises(ValueError, match=rf"train\.{key}.*pip install {package}, or train\.{key}=(null|false)"):
        check_loggers(config)
