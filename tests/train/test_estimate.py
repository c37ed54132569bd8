"""What a run is said to cost, against counts of the real models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from silc import config_io
from silc.config import Config
from silc.model import build
from silc.train.estimate import estimate, head_macs, step_flops, text_macs, vision_macs
from tests.train import cases

PRESETS = Path(__file__).resolve().parents[2] / "silc" / "presets"


def preset(name: str, *overrides: str) -> Config:
    return config_io.load_config(name, overrides, presets=PRESETS)


def counted(call) -> float:
    """Multiply-adds that torch's own counter sees. Attention is taken apart, or the counter would not know it."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("size", [8, 16])
def test_image_tower(size: int) -> None:
    """Patch embedding and resize are ops of their own, out of the counter's sight: the one adds tokens x width x 3 p^2,
    the other is done once a batch and not counted.
    """
    run = cases.config()
    model, vision = build(run), run.model.vision
    crop = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    embedding = (size // vision.patch_size) ** 2 * vision.width * 3 * vision.patch_size**2
    assert vision_macs(vision, size) == counted(lambda: model.visual([crop])) + embedding


def test_text_tower_and_head() -> None:
    run = cases.config()
    model = build(run)
    tokens = torch.zeros(1, cases.CONTEXT, dtype=torch.long)
    assert text_macs(run.model.text, run.model.vision.width) == counted(lambda: model.text(tokens))
    features = torch.zeros(1, run.model.vision.width)
    assert head_macs(run) == counted(lambda: model.head.bottleneck(features) @ model.head.weight().T)


@pytest.mark.parametrize(("size", "giga"), [(256, 22.97), (96, 3.08)])
def test_published_size_of_the_base_tower(size: int, giga: float) -> None:
    """method.md's figures leave the patch embedding and the pool out: 1 % more here."""
    assert vision_macs(preset("silc_vit_b16").model.vision, size) == pytest.approx(giga * 1e9, rel=0.02)


@pytest.mark.parametrize(("changes", "times"), [([], 3.22), (["views.n_global=1"], 2.14)])
def test_cost_relative_to_plain_clip(changes: list[str], times: float) -> None:
    ratio = step_flops(preset("silc_vit_b16", *changes)) / step_flops(preset("clip_vit_b16"))
    assert ratio == pytest.approx(times, rel=0.03)


@pytest.mark.parametrize("distill", [True, False])
def test_parameters_are_those_of_the_model(distill: bool) -> None:
    run = cases.config()
    run.objective.distill = distill
    model = build(run)
    found = estimate(run, 2, torch.float32).parameters
    parts = {"image tower": model.visual, "text tower": model.text, "distillation head": model.head}
    for name, part in parts.items():
        assert found[name] == (0 if part is None else sum(p.numel() for p in part.parameters()))
    assert (found["distillation head"] > 0) == distill


def test_tokens_per_image() -> None:
    assert estimate(preset("silc_vit_b16"), 1, torch.bfloat16).tokens_per_image == 2 * 256 + 8 * 36
    assert estimate(preset("clip_vit_b16"), 1, torch.bfloat16).tokens_per_image == 256


@pytest.mark.parametrize(("stage", "weights", "gradients"), [(1, 1, 1), (2, 1, 4), (3, 4, 4)])
def test_memory_is_divided_as_the_stage_says(stage: int, weights: int, gradients: int) -> None:
    """bf16, four ranks: masters and moments always a quarter of 12 bytes a parameter."""
    found = estimate(cases.config(stage=stage), 4, torch.bfloat16)
    total = sum(found.parameters.values())
    followed = total - found.parameters["text tower"]
    sizes = found.bytes_per_rank
    assert sizes["weights"] == 2 * total / weights
    assert sizes["gradients"] == 2 * total / gradients
    assert sizes["master weights and Adam moments"] == 12 * total / 4
    assert sizes["teacher"] == 2 * followed + 4 * followed / 4
    assert sizes["activations (model)"] > 0


def test_checkpointing_and_smaller_micro_batches_need_less() -> None:
    def activations(run: Config) -> float:
        return estimate(run, 1, torch.float32).bytes_per_rank["activations (model)"]

    whole, parts, recomputed = cases.config(), cases.config(micro_batch=2), cases.config()
    recomputed.model.checkpoint_activations = True
    assert activations(parts) == activations(whole) / 4
    assert activations(recomputed) < activations(whole)
