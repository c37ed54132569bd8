"""Training that begins with weights, as a user starts it: at their loss, on any ranks, in any ZeRO stage."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from silc import config_io
from silc.commands import train
from silc.config import Config
from silc.data import build_loader
from silc.interchange.source import Source
from silc.model.silc import SilcModel
from silc.train.weights import read_weights

from .conftest import BATCH, Run, run_train

STEPS = 10


def _train(once, data: Path, name: str, *words: str, ranks: int | None, before=None) -> Run:
    def make(folder: Path) -> dict:
        given = [word.replace("FOLDER", str(folder)) for word in words]
        if before is not None:
            before(folder)
        options = ["--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]", f"train.out={folder}/run"]
        fixed = [f"train.steps={STEPS}", "train.log_every=1", "eval.after=[]", "train.save_every=0"]
        done = run_train(*options, *fixed, *given, cwd=data, ranks=ranks)
        return asdict(Run(done.returncode, done.stdout + done.stderr, f"{folder}/run"))

    return Run(**once(name, make))


@pytest.fixture(scope="session")
def from_export(once, data, two_ranks) -> Run:
    """From the run's export, one rank, ZeRO-1; images of another size, whose position table is resized. The export is
    removed afterwards.
    """

    def copy(folder: Path) -> None:
        shutil.copytree(two_ranks.path("open_clip"), folder / "moved")

    run = _train(
        once, data, "from_export", "train.init=FOLDER/moved", "model.vision.image_size=32", "views.global_size=32",
        ranks=None, before=copy,
    )  # fmt: skip
    return run


@pytest.fixture(scope="session")
def from_run(once, data, two_ranks) -> Run:
    """From the run itself, two ranks, ZeRO-3, in two micro-batches."""
    words = (f"train.init={two_ranks.folder}", "engine.zero_stage=3", "engine.persistence_threshold=100")
    return _train(once, data, "from_run", *words, f"train.micro_batch={BATCH // 4}", ranks=2)


@pytest.fixture(scope="session")
def from_teacher(once, data, two_ranks) -> Run:
    """From the run's teacher, two ranks, ZeRO-1; distillation starts late."""
    words = (f"train.init={two_ranks.folder}", "train.init_model=teacher", "objective.distill_start=0.5")
    return _train(once, data, "from_teacher", *words, ranks=2)


def first_loss(config: Config, weights: dict[str, torch.Tensor], source: Source) -> float:
    """The contrastive loss of the first batch by its formula: the mean over views of the two cross-entropies."""
    config.data.workers = 0
    batch = next(iter(build_loader(config, rank=0, world=1)))
    model = SilcModel.of(config, with_head=False)
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("head.")})
    losses = []
    with torch.no_grad():
        texts = F.normalize(model.encode_text(batch.tokens), dim=-1)
        for view in range(batch.large.shape[1]):
            images = F.normalize(model.encode_image(batch.large[:, view].contiguous()), dim=-1)
            logits = math.exp(source.logit_scale) * images @ texts.T
            target = torch.arange(len(logits))
            losses.append((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2)
    return float(torch.stack(losses).mean())


def config_of(run: Run) -> Config:
    return config_io.read_config(run.path("config.yaml"))


@pytest.mark.parametrize("name", ["from_run", "from_teacher", "from_export"])
def test_it_starts_at_the_loss_of_the_weights(name, two_ranks, request):
    run = request.getfixturevalue(name)
    assert run.status == 0, run.output
    config, rows = config_of(run), run.rows()
    source = read_weights(two_ranks.folder, config.train.init_model)
    weights = dict(source.weights)
    if name == "from_export":
        table = weights["visual.trunk.pos_embed"].unflatten(1, (2, 2)).permute(0, 3, 1, 2)
        wide = F.interpolate(table, size=(4, 4), mode="bicubic", antialias=True)  # as timm resizes
        weights["visual.trunk.pos_embed"] = wide.permute(0, 2, 3, 1).flatten(1, 2)
    assert rows[0]["loss_contrastive"] == pytest.approx(first_loss(config, weights, source), rel=2e-5)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[0]["init"]["path"] == str(config.train.init if name == "from_export" else source.path)
    assert "init" not in rows[1]
    assert rows[0]["lr"] == pytest.approx(1e-3 / 2), "a schedule of its own"


def test_what_became_of_each_tensor_is_said(from_run, from_teacher, from_export, two_ranks):
    lines = {run: next(line for line in run.output.splitlines() if line.startswith("train.init: ")) for run in (from_run, from_teacher, from_export)}  # fmt: skip # noqa: E501
    path = two_ranks.path("checkpoints", "step_00000008")
    assert lines[from_run].startswith(f"train.init: a checkpoint {path}: loaded ")
    assert "initialised" not in lines[from_run]
    assert "resized visual.trunk.pos_embed from 2 x 2 to 4 x 4" in lines[from_export]
    assert "initialised head" in lines[from_export]
    assert from_run.output.count("train.init: ") == 1
    assert all("logit scale 14." in line for line in lines.values())


def test_distillation_starts_when_it_is_to(from_run, from_teacher):
    """A late start stands beside train.init; what the teacher and the head begin with: tests/train/test_init.py."""
    counts = [sum("loss_distill" in row for row in run.rows()) for run in (from_run, from_teacher)]
    assert counts == [STEPS, STEPS // 2]


def test_a_checkpoint_comes_before_train_init_which_may_be_gone(from_export, data, once):
    def make(folder: Path) -> dict:
        shutil.copytree(from_export.folder, folder / "run")
        shutil.rmtree(Path(from_export.folder).parent / "moved", ignore_errors=True)
        words = [f"data.shards=[{data}/train]", f"train.out={folder}/run", f"train.steps={STEPS + 1}", "eval.after=[]"]
        init = f"train.init={from_export.path().parent / 'moved'}"
        sizes = ["model.vision.image_size=32", "views.global_size=32", "train.log_every=1", "train.resume=auto", init]
        done = run_train("--preset", str(data / "tiny.yaml"), *words, *sizes, cwd=data)
        return asdict(Run(done.returncode, done.stdout + done.stderr, f"{folder}/run"))

    run = Run(**once("init_resumed", make))
    assert run.status == 0, run.output
    assert f"resumed from {run.path('checkpoints')}" in run.output
    assert "train.init: " not in run.output
    assert [row["step"] for row in run.rows()] == list(range(1, STEPS + 2))


def test_mistakes_are_found_before_training(data, two_ranks, tmp_path):
    """In a line, with what fits; nothing is left of the run."""
    shards = [f"data.shards=[{data}/train]", f"train.out={tmp_path}/run", "eval.after=[]"]
    wrong = [f"train.init={two_ranks.path('open_clip')}", "model.vision.width=64", "model.text.depth=2"]
    done = run_train("--preset", str(data / "tiny.yaml"), *shards, *wrong, cwd=data)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("silc train: ")]
    assert "model.vision.width is 64, the weights have 32" in line
    assert "What fits: model.vision.width=32 model.text.depth=1" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_checks_the_weights_too(data, two_ranks, tmp_path, capsys):
    def dry(*words: str) -> tuple[int | None, str, str]:
        status = train.main(["--preset", str(data / "tiny.yaml"), "--dry-run", *words])
        return status, *capsys.readouterr()

    status, out, _ = dry(f"train.init={two_ranks.path('open_clip')}")
    assert status == 0
    assert "train.init: an open_clip folder" in out
    status, _, err = dry(f"train.init={two_ranks.path('open_clip')}", "model.text.width=64")
    assert status == 2
    assert "silc train: train.init: " in err
    status, _, err = dry(f"train.init={tmp_path}/none")
    assert status == 0
    assert "does not exist (on this machine)" in err
