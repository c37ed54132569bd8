"""Losses and teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from silc.config.fields import STRICT, NonNegativeFloat, Positive, PositiveFloat, Scale, key


@dataclass(config=STRICT, kw_only=True)
class ObjectiveConfig:
    """L = L_contrastive + distill_weight * L_distillation."""

    contrastive: Literal["softmax", "sigmoid"] = key("softmax", "InfoNCE as CLIP, or pairwise sigmoid as SigLIP")
    contrastive_views: Literal["each_global", "original", "original_and_globals"] = key(
        "each_global", "which views are aligned with the text, each in a B x B problem of its own"
    )
    contrastive_plan: Literal["auto", "reduce_scatter", "recompute"] = key(
        "auto", "communication plan of the contrastive op"
    )
    contrastive_chunk: Positive = key(4096, "columns of the similarity matrix held at once")
    init_scale: Scale | None = key(
        None, "initial multiplier of the similarities; null: 1/0.07 for softmax, 10 for sigmoid"
    )
    init_bias: Annotated[float, Field(ge=-1e6, le=1e6)] = key(-10.0, "initial bias of the sigmoid loss")
    max_scale: Scale = key(100.0, "upper limit of the effective multiplier")
    distill: bool = key(True, "local-to-global self-distillation from the EMA teacher")
    distill_weight: NonNegativeFloat = key(1.0, "weight of the distillation loss")
    distill_start: Annotated[float, Field(ge=0, lt=1)] = key(
        0.0, "fraction of training before distillation starts, from the student as teacher"
    )
    global_to_global: bool = key(False, "also pair each student global crop with the other teacher global crops (DINO)")
    ema: bool = key(
        False, "keep an EMA of the image tower without distillation too; it trains nothing and is evaluated as teacher"
    )
    head_only_ema: bool = key(False, "EMA of the head alone; teacher and student share the encoder (TIPSv2)")
    student_temp: PositiveFloat = key(0.1, "temperature of the student's softmax")
    teacher_temp: PositiveFloat = key(0.04, "temperature of the teacher's softmax (sharpening)")
    center_momentum: Annotated[float, Field(ge=0, lt=1)] = key(
        0.9, "EMA momentum of the center of the teacher's outputs"
    )
    ema_momentum: Annotated[float, Field(ge=0, le=1)] | None = key(
        None, "teacher's EMA momentum, fixed over training; null: 0.966 ** (global_batch / 16384)"
    )
