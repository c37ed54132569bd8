"""What a run will cost, from the configuration alone: parameters, tokens, floating-point operations, memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from silc.config import Config, TextConfig, VisionConfig
from silc.model.silc import SilcModel
from silc.objective import plan_views


def _block_macs(tokens: int, width: int, mlp_ratio: float) -> float:
    """Multiply-adds of one transformer block over one sequence: projections, MLP, attention."""
    return tokens * width * width * (4 + 2 * mlp_ratio) + 2 * tokens * tokens * width


def vision_macs(vision: VisionConfig, size: int) -> float:
    """Forward multiply-adds of one crop of `size` pixels a side, attention pooling included."""
    tokens, width = (size // vision.patch_size) ** 2, vision.width
    embed = tokens * width * 3 * vision.patch_size**2
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
    teacher only forward.

    With exact accumulation the student's towers run forward once more over the aligned views and the text; that work is
    not counted, as the MFU counts useful operations.
    """
    plan, views, vision = plan_views(config), config.views, config.model.vision
    big, little = (
        vision_macs(vision, views.global_size),
        vision_macs(vision, views.local_size) if views.n_local else 0.0,
    )
    student = plan.student_large * big + text_macs(config.model.text, vision.width)
    teacher = 0.0
    if config.objective.distill:
        student += plan.n_local * little + (plan.n_local + plan.joined) * head_macs(config)
        teacher = plan.n_global * ((0.0 if config.objective.head_only_ema else big) + head_macs(config))
    return 2 * (3 * student + teacher)


@dataclass(frozen=True)
class Estimate:
    """Counts and bytes of a run."""

    parameters: dict[str, int]
    tokens_per_image: int
    flops_per_pair: float
    bytes_per_rank: dict[str, float]


def estimate(config: Config, world_size: int, dtype: torch.dtype) -> Estimate:
    """Parameters by part, tokens a picture, and memory per rank by purpose.

    Activations are a model, not a measurement.
    """
    with torch.device("meta"):
        model = SilcModel(config.model, with_head=config.objective.distill)
    parts = {"image tower": model.visual, "text tower": model.text, "distillation head": model.head}
    parameters = {
        name: sum(p.numel() for p in part.parameters()) if part is not None else 0 for name, part in parts.items()
    }
    plan, patch = plan_views(config), config.model.vision.patch_size
    tokens = plan.student_large * (config.views.global_size // patch) ** 2
    if plan.n_local:
        tokens += plan.n_local * (config.views.local_size // patch) ** 2
    return Estimate(parameters, tokens, step_flops(config), _memory(config, parameters, tokens, world_size, dtype))


def _memory(
    config: Config, parameters: dict[str, int], tokens: int, ranks: int, dtype: torch.dtype
) -> dict[str, float]:
    total, size, stage = sum(parameters.values()), dtype.itemsize, config.engine.zero_stage
    followed = 0
    if config.objective.distill:
        followed = parameters["distillation head"] + (
            0 if config.objective.head_only_ema else parameters["image tower"]
        )
    masters = 4 * total / ranks
    micro = config.train.micro(ranks)
    return {
        "weights": size * total / (ranks if stage == 3 else 1),
        "gradients": size * total / (ranks if stage >= 2 else 1),
        "master weights and Adam moments": masters + 8 * total / ranks,
        "teacher": size * followed + (0 if dtype == torch.float32 else 4 * followed / ranks),
        "activations (model)": micro * _activation_bytes(config, tokens, size),
    }


def _activation_bytes(config: Config, tokens: int, size: int) -> float:
    """Bytes kept for the backward pass of one pair: per token and block about 2 norms, qkv, attention, and the MLP
    twice its width.
    """
    total = 0.0
    for tower, count in ((config.model.vision, tokens), (config.model.text, config.model.text.context_length)):
        per_block = tower.width * (8 + 2 * tower.mlp_ratio)
        kept = tower.depth * (tower.width if config.model.checkpoint_activations else per_block)
        total += count * size * (kept + per_block)
    return total
