"""Every command line that an earlier README showed still works, or names its successor."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from silc.commands import claims, evaluate, train

from .conftest import ROOT, environment

# As they stood in the README of version 0.1.0 before the command `silc`.
TRAIN = """
deepspeed launch/train.py
deepspeed --num_gpus 8 launch/train.py --preset silc_vit_b16 'data.shards=["/data/pairs/{00000..09999}.tar"]' train.micro_batch=256 train.out=runs/b16
deepspeed --num_gpus 2 launch/train.py
deepspeed launch/train.py --preset silc_vit_l16 --dry-run --ranks 64
deepspeed launch/train.py --preset silc_vit_b16 'data.shards=[/data/pairs]' 'eval.shards=[/data/val]' eval.classes=/data/classes.txt eval.every=5000
python launch/train.py --keys
deepspeed --master_port 29511 launch/train.py
deepspeed --hostfile launch/hostfile.example launch/train.py --preset silc_vit_b16 'data.shards=["/shared/pairs/{00000..09999}.tar"]'
sbatch launch/slurm.sh --preset silc_vit_b16 train.resume=auto
"""
EVALUATE = """
python launch/evaluate.py runs/sample
python launch/evaluate.py runs/b16 --tasks zeroshot_classification,retrieval eval.classification=wds:/data/wds_imagenet1k
deepspeed --num_gpus 8 launch/evaluate.py runs/b16 eval.segmentation=ade20k:/data/ADEChallengeData2016
"""
CLAIMS = """
python launch/claims.py
python launch/claims.py --pairs 8000,32000 --seeds 0,1,2
python launch/claims.py --preset silc_vit_b16 --pairs 64000000,256000000 --num_gpus 8 --out runs/claims-b16 train.global_batch=4096 optim.warmup_steps=2000 optim.cooldown_steps=2000 'data.shards=[/data/pairs]' eval.classification=wds:/data/wds_imagenet1k eval.segmentation=voc20:/data/VOC2012
"""
SCRIPTS = ["launch/train.py", "launch/evaluate.py", "launch/export.py", "launch/claims.py"]
BENCHMARKS = ["benchmarks/train_bench.py", "benchmarks/loss_bench.py", "benchmarks/patch_embed_bench.py"]
TARGETS = ["train", "test", "claims", "bench", "gpu"]
SUCCESSORS = {"pip install -e .": "pip install -e ./kernels -e ."}


def words_after(line: str) -> list[str]:
    """What a command line hands to its script."""
    words = shlex.split(line)
    script = next(number for number, word in enumerate(words) if word.startswith("launch/") and "host" not in word)
    assert (ROOT / words[script]).is_file()
    return words[script + 1 :]


@pytest.mark.parametrize("line", TRAIN.strip().splitlines())
def test_training(line):
    assert train.parse(words_after(line)).config


@pytest.mark.parametrize("line", EVALUATE.strip().splitlines())
def test_evaluation(line):
    assert evaluate.parse(words_after(line)).model.parts[0] == "runs"


@pytest.mark.parametrize("line", CLAIMS.strip().splitlines())
def test_the_claims(line):
    assert claims.parse([*words_after(line), "--dry-run"]).runs


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_the_code_of_its_checkout(script, tmp_path):
    command = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"silc {script[7:-3]} " in done.stdout
    assert len((ROOT / script).read_text().splitlines()) <= 16


def test_the_targets_and_the_benchmarks_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in TARGETS:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert f"make {target} " in makefile  # in `make help`
    for file in BENCHMARKS:
        assert (ROOT / file).is_file()


@pytest.mark.parametrize(("old", "new"), SUCCESSORS.items())
def test_what_changed_names_its_successor(old, new):
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in ("README.md", "CHANGELOG.md"))
    assert f"`{old}`" in text
    assert f"`{new}`" in text
