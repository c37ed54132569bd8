"""Which view plays which part, and what a run costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from silc.config import validate
from silc.config_io import build, load_config
from silc.model.silc import build as build_model
from silc.objective import plan_views
from silc.train.estimate import estimate, step_flops, vision_macs

PRESETS = Path(__file__).parents[2] / "launch" / "presets"


def plan(n_global: int = 2, n_local: int = 3, **objective):
    config = build({"views": {"n_global": n_global, "n_local": n_local}, "objective": objective})
    validate(config, 1)
    return plan_views(config)


def test_each_global_is_aligned_and_taught():
    got = plan()
    assert (got.n_large, got.student_large, got.aligned, got.joined) == (2, 2, (0, 1), 0)
    assert got.pair_weights is None
    assert list(range(got.n_large))[got.teacher_views] == [0, 1]


def test_original_alone_keeps_the_student_off_the_globals():
    got = plan(contrastive_views="original")
    assert (got.n_large, got.student_large, got.aligned) == (3, 1, (0,))
    assert list(range(got.n_large))[got.teacher_views] == [1, 2]


def test_original_and_globals():
    got = plan(contrastive_views="original_and_globals")
    assert (got.n_large, got.student_large, got.aligned) == (3, 3, (0, 1, 2))


def test_a_global_is_not_paired_with_itself():
    got = plan(contrastive_views="original", global_to_global=True)
    assert (got.student_large, got.aligned, got.joined) == (3, (0,), 2)
    assert got.pair_weights.tolist() == [[1, 1], [1, 1], [1, 1], [0, 1], [1, 0]]


def preset(name: str):
    return load_config(name, presets=PRESETS)


def test_forward_operations_are_the_published_ones():
    """Of one ViT-B/16 crop, pooling included: 22.97 G at 256 px and 3.08 G at 96 px."""
    vision = preset("silc_vit_b16").model.vision
    assert vision_macs(vision, 256) == pytest.approx(22.97e9, rel=0.02)
    assert vision_macs(vision, 96) == pytest.approx(3.08e9, rel=0.02)


def test_silc_costs_about_3_2_times_clip():
    silc, clip = step_flops(preset("silc_vit_b16")), step_flops(preset("clip_vit_b16"))
    assert silc / clip == pytest.approx(3.22, rel=0.05)


@pytest.mark.parametrize("overrides", [[], ["objective.distill=false", "views.n_local=0"]])
def test_parameter_counts_are_those_of_the_model(overrides):
    config = load_config("sample", overrides, presets=PRESETS)
    counted = estimate(config, 2, torch.float32).parameters
    assert sum(counted.values()) == sum(p.numel() for p in build_model(config).parameters())


def test_memory_shrinks_with_ranks_and_stage():
    def total(ranks: int, stage: int) -> float:
        config = load_config("silc_vit_b16", [f"engine.zero_stage={stage}", "train.micro_batch=16"], presets=PRESETS)
        return sum(estimate(config, ranks, torch.bfloat16).bytes_per_rank.values())

    assert total(8, 1) < total(2, 1)
    assert total(8, 3) < total(8, 2) < total(8, 1)
