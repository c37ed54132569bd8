"""A byte of a real checkpoint that changes on the disk is found, named, and the checkpoint before it taken."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from silc.commands import check
from silc.train import checkpoint

from .conftest import STEPS, run_train

FLIPS = 200


@pytest.fixture
def run(two_ranks, tmp_path) -> Path:
    """A copy of the folder of a run on two ranks: a checkpoint in the middle, and one at the end."""
    return Path(shutil.copytree(two_ranks.folder, tmp_path / "run"))


def test_flips_in_every_file(run, capsys):
    """As many in each file, wherever they fall, one bit or several."""
    older, newer = checkpoint.place(run, STEPS // 2), checkpoint.place(run, STEPS)
    files = sorted(path for path in newer.rglob("*") if path.is_file())
    assert len(files) == 7  # moments of two ranks, student, teacher, trainer, configuration, manifest
    rng, found = random.Random(0), Counter()
    for number in range(FLIPS):
        file = files[number % len(files)]
        content = file.read_bytes()
        at = rng.randrange(len(content))
        file.write_bytes(content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :])
        assert checkpoint.newest(run) == older, (file, at)
        assert file.name in capsys.readouterr().out, (file, at)
        newer.with_suffix(".damaged").rename(newer)
        file.write_bytes(content)
        found[file.name] += 1
    assert sum(found.values()) == FLIPS
    assert min(found.values()) >= FLIPS // len(files)
    assert checkpoint.newest(run) == newer


def test_a_resumed_run_goes_on_from_the_one_before(run, data, capsys):
    """By the command: what is damaged is said, set aside, and trained and written again."""
    file = checkpoint.place(run, STEPS) / "student.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert check.main([str(run)]) == 1
    assert "student.safetensors is not as it was written" in capsys.readouterr().out
    words = ["--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]", f"train.out={run}"]
    done = run_train(*words, "train.resume=auto", "eval.after=[]", cwd=data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student.safetensors is not as it was written" in done.stdout
    assert f"resumed from {checkpoint.place(run, STEPS // 2)} at step {STEPS // 2}" in done.stdout
    assert checkpoint.place(run, STEPS).with_suffix(".damaged").exists()
    assert check.main([str(run)]) == 0
