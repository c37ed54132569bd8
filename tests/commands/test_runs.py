"""Whole runs through the real launcher: what they print and leave, and that the number of ranks changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from silc import config_io
from silc.data import build_loader, build_tokenizer
from silc.data.splits import TarSplit
from silc.data.views.crops import resize_into
from silc.model import build
from silc.train import checkpoint

from .conftest import BATCH, CLASSES, CORRUPT, CUT, EMPTY, EVAL_IMAGES, PRESET, STEPS, Run

RUNS = ["two_ranks", "one_rank", "stage_3"]
LOSSES = ["loss", "loss_contrastive", "loss_distill"]
PROMISED = [
    *LOSSES, "step", "time", "teacher_entropy", "teacher_kl_uniform", "center_norm", "feature_std", "grad_norm",
    "logit_scale", "lr", "skipped_steps", "skipped_samples", "samples_seen", "memory_gb", "samples_per_second",
    "step_seconds", "waiting_for_data", "read_gb", "read_over_used", "read_retries", "warnings",
    "captions_truncated",
]  # fmt: skip


@pytest.fixture(params=RUNS)
def run(request) -> Run:
    return request.getfixturevalue(request.param)


def config_of(run: Run) -> config_io.Config:
    return config_io.load_config(run.path("config.yaml"))


def test_it_ends_well(run):
    assert run.status == 0, run.output
    assert "Traceback" not in run.output
    assert f"trained {STEPS} steps, {STEPS * BATCH} pairs" in run.output
    assert f"step {STEPS}/{STEPS}" in run.output
    assert "ETA" in run.output


def test_deepspeed_does_not_warn_of_a_missing_gpu(one_rank, two_ranks):
    """Two processes of the launcher `deepspeed` itself do; `silc train` tells them too."""
    assert "unable to detect" not in one_rank.output
    assert two_ranks.output.count("unable to detect") <= 2


def test_metrics_hold_every_promised_number(run):
    rows = run.rows()
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for row in rows:
        assert set(PROMISED) <= set(row)
        assert all(math.isfinite(row[name]) for name in PROMISED)
        assert row["loss"] == pytest.approx(row["loss_contrastive"] + row["loss_distill"], rel=1e-4)
        assert 0 <= row["teacher_entropy"] <= math.log(64)
        assert row["teacher_entropy"] + row["teacher_kl_uniform"] == pytest.approx(math.log(64), abs=1e-3)
        assert 0 <= row["waiting_for_data"] <= 1
        assert row["memory_gb"] > 0.05
        assert row["read_gb"] > 0
        assert 1 <= row["read_over_used"] < 1.5
        assert row["read_retries"] == 0
        assert row["captions_truncated"] == 0
        assert row["samples_seen"] == row["step"] * BATCH
        assert row["skipped_steps"] == 0
    assert rows[0]["lr"] == pytest.approx(1e-3)


def test_tensorboard_has_the_same_numbers(two_ranks):
    events = EventAccumulator(str(two_ranks.path("tensorboard"))).Reload()
    for name in (set(PROMISED) | {"eval/zeroshot_classification/student/top1"}) - {"time", "step"}:
        assert events.Scalars(name)
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(row["step"], pytest.approx(row["loss"], rel=1e-5)) for row in two_ranks.rows()]


def test_what_cannot_be_read_is_counted_and_named(run):
    config = config_of(run)
    config.data.workers = 0
    batches = iter(build_loader(config, rank=0, world=1))
    expected = [skip for _ in range(STEPS) for skip in next(batches).skipped]
    assert {skip.key for skip in expected} == {CORRUPT, EMPTY, CUT}
    assert run.rows()[-1]["skipped_samples"] == len(expected)
    assert f"{len(expected)} samples" in run.output
    for key, reason in ((CORRUPT, "undecodable image"), (EMPTY, "empty caption"), (CUT, "cut off")):
        assert f"skipped {key}: {reason}" in run.output
    assert "003.tar is damaged" in run.output


@pytest.mark.parametrize("other", ["one_rank", "stage_3"])
def test_ranks_and_stages_give_the_same_losses(two_ranks, other, request):
    ours, theirs = two_ranks.rows(), request.getfixturevalue(other).rows()
    for name in [*LOSSES, "logit_scale", "lr", "skipped_samples", "samples_seen"]:
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-4), name
    assert [row["grad_norm"] for row in ours] == pytest.approx([row["grad_norm"] for row in theirs], rel=1e-3)


def test_the_banner_says_what_runs_where_and_why(two_ranks, stage_3):
    lines = {line.split()[0]: line for line in two_ranks.output.splitlines() if line.startswith("  ")}
    assert "preset tiny" in two_ranks.output
    assert "CPU" in lines["device"]
    assert "2 ranks" in lines["device"]
    assert "ZeRO-1, float32; torch_adamw" in lines["engine"]
    assert "16 = 2 ranks x 1 x 8; 8 steps" in lines["batch"]
    assert "2 global 16 px + 2 local 8 px" in lines["views"]
    assert "momentum 0.90000" in lines["teacher"]
    for op in ("contrastive_loss", "distill_head_loss", "patch_embed"):
        assert "torch" in lines[op]
        assert "cpu" in lines[op]
    assert "sdpa" in lines["attention"]
    assert "not xformers: its kernels need CUDA" in lines["attention"]
    assert two_ranks.output.count("SILC  preset") == 1  # one rank prints it
    assert "ZeRO-3" in stage_3.output
    assert "16 = 2 ranks x 2 x 4" in stage_3.output


def test_an_unrelated_apex_is_passed_over_and_the_banner_says_why(one_rank):
    engine = next(line for line in one_rank.output.splitlines() if line.startswith("  engine"))
    assert "torch_adamw" in engine
    assert "not apex_adamw: " in engine
    assert "NVIDIA" in engine


def test_the_configuration_is_saved_as_resolved(run, data):
    config = config_of(run)
    assert config.train.steps == STEPS
    assert config.data.shards == [f"{data}/train"]
    assert config.model.head.prototypes == yaml.safe_load(PRESET)["model"]["head"]["prototypes"]


def test_deepspeeds_json_is_saved_with_every_key(run):
    saved, config = json.loads(run.path("deepspeed.json").read_text()), config_of(run)
    assert saved["train_batch_size"] == BATCH
    assert saved["zero_optimization"]["stage"] == config.engine.zero_stage
    assert saved["gradient_clipping"] == config.optim.clip
    ranks = 1 if "16 = 1 rank x" in run.output else 2
    share = BATCH // ranks
    assert saved["train_micro_batch_size_per_gpu"] == (config.train.micro_batch or share)
    assert saved["gradient_accumulation_steps"] == share // saved["train_micro_batch_size_per_gpu"]
    assert saved["bf16"]["enabled"] is False
    assert saved["fp16"]["enabled"] is False


def test_the_checkpoint_is_whole(run):
    path = checkpoint.find(run.folder)
    assert path.name == f"step_{STEPS:08d}"
    assert run.path("checkpoints", "latest").read_text().strip() == path.name
    assert (run.path("checkpoints", "step_00000004").exists()) == bool(config_of(run).train.save_every)
    assert not list(run.path("checkpoints").glob("*.tmp"))
    trainer = torch.load(path / "trainer.pt", weights_only=True)
    assert trainer["counters"]["step"] == STEPS
    assert trainer["counters"]["position"] == STEPS * BATCH
    assert trainer["skipped_samples"] == run.rows()[-1]["skipped_samples"]
    student, teacher = (checkpoint.load_weights(path, name) for name in ("student", "teacher"))
    assert set(student) == set(build(config_of(run)).state_dict())
    assert {name for name in student if name.startswith(("visual.", "head."))} == set(teacher)
    assert all(value.isfinite().all() for value in (*student.values(), *teacher.values()))


def test_open_clip_loads_the_student(run):
    config = config_of(run)
    student = build(config)
    student.load_state_dict(checkpoint.load_weights(checkpoint.find(run.folder), "student"))
    twin, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{run.path('open_clip')}")
    tokens = build_tokenizer("open_clip_bpe", 8)(["thing 1", "a longer caption of many many words"])
    crops = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    twin.eval()
    with torch.no_grad():
        ours, theirs = student.encode_text(tokens), twin.encode_text(tokens)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        images = [Image.fromarray(crop.permute(1, 2, 0).numpy()) for crop in crops]
        pixels = torch.stack([preprocess(image) for image in images])
        torch.testing.assert_close(student.encode_image(crops), twin.encode_image(pixels), atol=1e-5, rtol=1e-5)
    assert twin.logit_scale.exp().item() == pytest.approx(run.rows()[-1]["logit_scale"], rel=1e-4)


def test_the_held_out_images_are_classified(run):
    saved = json.loads(run.path("evaluation.json").read_text())
    assert saved["step"] == STEPS
    results = {row["model"]: row["metrics"] for row in saved["results"] if row["task"] == "zeroshot_classification"}
    for who in ("student", "teacher"):
        top1 = results[who]["top1"]
        assert top1["chance"] == pytest.approx(1 / CLASSES)
        assert f"zeroshot_classification  {who}  top1" in run.output
        logged = run.rows(f"eval/zeroshot_classification/{who}/top1")[-1]
        assert logged[f"eval/zeroshot_classification/{who}/top1"] == pytest.approx(top1["value"], rel=1e-5)
    assert "fewshot is left out: eval.shards has no training split" in run.output
    # The numbers are those of the saved weights.
    config = config_of(run)
    student = build(config)
    student.load_state_dict(checkpoint.load_weights(checkpoint.find(run.folder), "student"))
    tokenizer = build_tokenizer("open_clip_bpe", 8)
    split = TarSplit(config.data, [str(eval_tar(run))], title="x")
    images = torch.empty(EVAL_IMAGES, 3, 16, 16, dtype=torch.uint8)
    for number, image in enumerate(images):
        resize_into(image, split.image(number).contiguous())
    with torch.no_grad():
        words = [[template.format(f"thing {c}") for c in range(CLASSES)] for template in config.eval.templates]
        text = sum(student.encode_text(tokenizer(row), normalize=True) for row in words)
        best = (student.encode_image(images) @ torch.nn.functional.normalize(text, dim=-1).T).argmax(-1)
    right = sum(int(guess) == split.label(number) for number, guess in enumerate(best))
    assert results["student"]["top1"]["value"] == pytest.approx(right / EVAL_IMAGES)


def eval_tar(run: Run) -> Path:
    return Path(config_of(run).data.shards[0]).parent / "eval.tar"


def test_an_evaluation_on_the_way_is_logged_and_changes_nothing(stage_3):
    """Losses after it are those of the runs without (test_ranks_and_stages_give_the_same_losses)."""
    name = "eval/zeroshot_classification/student/top1"
    assert [row["step"] for row in stage_3.rows(name)] == [4, 8]


@pytest.mark.parametrize("other", ["one_rank", "stage_3"])
def test_ranks_and_stages_give_the_same_evaluation(two_ranks, other, request):
    theirs = json.loads(request.getfixturevalue(other).path("evaluation.json").read_text())
    for ours, row in zip(
        json.loads(two_ranks.path("evaluation.json").read_text())["results"], theirs["results"], strict=True
    ):
        values = {name: metric["value"] for name, metric in row["metrics"].items()}
        # Weights of different stages differ in the last digits, so that of nine images one may change sides.
        assert {name: metric["value"] for name, metric in ours["metrics"].items()} == pytest.approx(values, abs=0.12)


def test_a_report_is_left(run):
    page = run.path("report.html").read_text()
    assert "zero-shot classification" in page
    assert "<polyline" in page
    assert str(run.path("report.html")) in run.output


def test_a_contact_sheet_is_left(run):
    with Image.open(run.path("held_out.png")) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 500
        assert len(sheet.getcolors(10**6)) > 10
    assert str(run.path("held_out.png")) in run.output
