"""Optimiser, engine and op backends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from silc.config.fields import (
    STRICT,
    Backend,
    Decay,
    Minutes,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    key,
)


@dataclass(config=STRICT, kw_only=True)
class ParameterRule:
    """Multipliers for the parameters whose name matches."""

    pattern: str = Field(
        description="regular expression searched in the parameter's name; the first rule that matches holds"
    )
    lr: NonNegativeFloat = key(1.0, "multiplier of the learning rate")
    weight_decay: NonNegativeFloat = key(1.0, "multiplier of the weight decay")


@dataclass(config=STRICT, kw_only=True)
class OptimConfig:
    """Optimiser and schedule."""

    optimizer: Literal["auto", "deepspeed_adamw", "torch_adamw", "apex_adamw"] = key(
        "auto", "AdamW: DeepSpeed's fused one, torch's fused one, or NVIDIA apex's FusedAdam"
    )
    lr: PositiveFloat = key(1e-3, "peak learning rate")
    beta1: Annotated[float, Field(ge=0, lt=1)] = key(0.9, "first moment's decay")
    beta2: Annotated[float, Field(ge=0, lt=1)] = key(0.95, "second moment's decay")
    eps: PositiveFloat = key(1e-8, "added to the denominator")
    weight_decay: NonNegativeFloat = key(1e-4, "decoupled weight decay")
    clip: NonNegativeFloat = key(1.0, "upper limit of the global gradient norm; 0: none")
    scale_lr: NonNegativeFloat = key(1.0, "multiplier of the learning rate for the logit scale and bias")
    locked: list[Literal["vision", "text"]] = key(
        [],
        "towers that are not trained; nothing of their forward pass is kept (LiT: [vision], objective.distill=false)",
    )
    vision_layer_decay: Decay = key(
        1.0, "the learning rate is multiplied by this for each block further from the image tower's output"
    )
    text_layer_decay: Decay = key(1.0, "the same for the text tower")
    rules: list[ParameterRule] = Field(
        default_factory=list,
        description="multipliers by parameter name, as [{pattern: ^visual, lr: 0}], which freezes the image tower; "
        "without a rule biases, norms and tables are not decayed",
    )
    schedule: Literal["rsqrt", "cosine", "constant"] = key("rsqrt", "shape between warm-up and cool-down")
    warmup_steps: NonNegative = key(50_000, "linear warm-up from 0")
    cooldown_steps: NonNegative = key(50_000, "linear cool-down to 0 (rsqrt and constant)")
    timescale: Positive | None = key(
        None, "rsqrt: steps after which the rate has fallen by sqrt(2); null: max(warmup_steps, 10000)"
    )
    final_lr: NonNegativeFloat = key(0.0, "cosine: last rate as a fraction of the peak")


@dataclass(config=STRICT, kw_only=True)
class EngineConfig:
    """DeepSpeed. The JSON it gets is generated from here, with every key written, and saved in the run folder."""

    zero_stage: Annotated[int, Field(ge=1, le=3)] = key(1, "ZeRO stage")
    precision: Literal["auto", "bf16", "fp32"] = key("auto", "auto: bf16 on a GPU, fp32 on a CPU")
    overlap_comm: bool = key(True, "reduce gradients while the backward pass runs (CUDA)")
    reduce_bucket_size: Positive = key(50_000_000, "elements reduced at a time")
    allgather_bucket_size: Positive = key(50_000_000, "elements gathered at a time (stages 1 and 2)")
    prefetch_bucket_size: Positive = key(50_000_000, "elements prefetched (stage 3)")
    persistence_threshold: NonNegative = key(100_000, "parameters up to this size stay whole (stage 3)")
    max_live_parameters: Positive = key(1_000_000_000, "elements kept gathered (stage 3)")
    timeout_minutes: Minutes = key(30.0, "time limit of a collective before the job fails")
    silent_minutes: Minutes = key(
        5.0, "a rank not heard of for so long, from a thread of its own, ends the job by name"
    )


@dataclass(config=STRICT, kw_only=True)
class KernelsConfig:
    """Backend of each op of silc_kernels: auto, torch, or the name of another registered one."""

    contrastive: Backend = key("auto", "contrastive_loss")
    distill: Backend = key("auto", "distill_head_loss")
    patch_embed: Backend = key("auto", "patch_embed")
