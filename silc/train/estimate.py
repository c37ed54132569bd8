"""Floating-point operations of a step, from the configuration alone."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from silc.config import Config, TextConfig, VisionConfig
from silc.model.dropping import kept_patches
from silc.objective import plan_views


def _block_macs(tokens: int, width: int, mlp_ratio: float) -> float:
    """Multiply-adds of one transformer block over one sequence: projections, MLP, attention."""
    return tokens * width * width * (4 + 2 * mlp_ratio) + 2 * tokens * tokens * width


def vision_macs(vision: VisionConfig, size: int, *, dropout: float = 0.0) -> float:
    """Forward multiply-adds of one crop of `size` pixels a side, attention pooling included.

    dropout: the fraction of the patches that is left out behind the patch embedding.
    """
    patches, width = (size // vision.patch_size) ** 2, vision.width
    embed = patches * width * 3 * vision.patch_size**2
    tokens = kept_patches(patches, dropout) if dropout else patches
    # The pool's one query is folded into the tokens, so keys and values are not projected for each of them.
    pool = 2 * tokens * width * vision.heads + width * width * (4 + 2 * vision.mlp_ratio)
    return embed + vision.depth * _block_macs(tokens, width, vision.mlp_ratio) + pool


def text_macs(text: TextConfig, width_out: int) -> float:
    """Forward multiply-adds of one caption. The last block gives keys and values of all tokens, the rest of one."""
    tokens, width = text.context_length, text.width
    last = 2 * tokens * width * width + (2 + 2 * text.mlp_ratio) * width * width + 2 * tokens * width
    return (text.depth - 1) * _block_macs(tokens, width, text.mlp_ratio) + last + width * width_out


def head_macs(config: Config) -> float:
    """Forward multiply-adds of the projection head over one crop, last layer included."""
    head, width = config.model.head, config.model.vision.width
    widths = [width, *[head.hidden] * (head.layers - 1), head.bottleneck, head.prototypes]
    return float(sum(a * b for a, b in itertools.pairwise(widths)))


def step_flops(config: Config) -> float:
    """Floating-point operations of training on one pair: 2 a multiply-add, forward plus twice that backward; the
    teacher and locked towers only forward.

    Drop path is not taken off: a branch that a crop skips is computed and multiplied by 0. With exact accumulation the
    student's towers run forward once more over the aligned views and the text; that work is not counted, as the MFU
    counts useful operations.
    """
    plan, views, vision = plan_views(config), config.views, config.model.vision
    image = plan.student_large * vision_macs(vision, views.global_size, dropout=vision.patch_dropout)
    head = teacher = 0.0
    if config.objective.distill:
        image += plan.n_local * vision_macs(vision, views.local_size) if plan.n_local else 0.0
        head = (plan.n_local + plan.joined) * head_macs(config)
        own_tower = 0.0 if config.objective.head_only_ema else vision_macs(vision, views.global_size)
        teacher = plan.n_global * (own_tower + head_macs(config))
    locked = config.optim.locked
    towers = {"vision": image, "text": text_macs(config.model.text, vision.width)}
    student = sum((1 if name in locked else 3) * macs for name, macs in towers.items()) + 3 * head
    return 2 * (student + teacher)


class Passes(NamedTuple):
    """Floating-point operations of forward passes over one pair that a run may repeat.

    blocks: all of the student's towers that are trained, as recomputed activations ask for. contrastive: of these, the
    aligned views and the caption, once more with exact accumulation.
    """

    blocks: float
    contrastive: float


def passes_flops(config: Config) -> Passes:
    """What recomputation and accumulation add to a pair; not in :func:`step_flops`, which counts useful operations."""
    plan, views, vision = plan_views(config), config.views, config.model.vision
    large = small = 0.0
    if "vision" not in config.optim.locked:
        large = plan.student_large * vision_macs(vision, views.global_size, dropout=vision.patch_dropout)
        small = plan.n_local * vision_macs(vision, views.local_size) if plan.n_local else 0.0
    text = 0.0 if "text" in config.optim.locked else text_macs(config.model.text, vision.width)
    return Passes(2 * (large + text + small), 2 * (large + text))
