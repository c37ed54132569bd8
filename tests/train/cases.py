"""The runs that the launched workers make: tiny configurations, and batches that are functions of the step alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from silc.config import (
    Config,
    EngineConfig,
    HeadConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ParameterRule,
    TextConfig,
    TrainConfig,
    ViewsConfig,
    VisionConfig,
)
from silc.data.batch import Batch
from silc.model import SilcModel, build

STEPS = 20
GLOBAL_BATCH = 8
CONTEXT = 6
VOCABULARY = 50
STAGES = (1, 2, 3)
LIMIT = 10.1


@dataclass(frozen=True)
class Objective:
    """What is trained: a row of the table below. The same for every stage, number of ranks and micro-batch."""

    objective: dict[str, Any]
    optim: dict[str, Any]
    vision: dict[str, Any] = field(default_factory=dict)
    views: dict[str, Any] = field(default_factory=dict)


# eps is large on purpose. Some parameters have a gradient of exactly zero in theory (the bias of the keys: it leaves
# the softmax), and rounding noise of 1e-9 in practice. Adam divides a gradient by its own size, so with the usual eps
# of 1e-8 this noise becomes steps as large as any other's, of random sign; with 1e-3 it stays noise.
_OPTIM: dict[str, Any] = {"lr": 1.5e-3, "eps": 1e-3, "weight_decay": 0.1, "clip": 5.0, "beta2": 0.95}
_OPTIM |= {"schedule": "rsqrt", "warmup_steps": 4, "cooldown_steps": 5, "timescale": 10}

OBJECTIVES = {
    "softmax": Objective({"contrastive": "softmax"}, {}),
    "sigmoid": Objective({"contrastive": "sigmoid"}, {"scale_lr": 3.0}),
    # Every view aligned, every pair distilled, rules by name.
    "all_views": Objective(
        {
            "contrastive_views": "original_and_globals",
            "global_to_global": True,
            "distill_weight": 0.5,
        },
        {
            "rules": [
                ParameterRule(pattern=r"^text\.", lr=0.5, weight_decay=0.0),
                ParameterRule(pattern=r"mlp\.fc1\.weight", lr=1.0, weight_decay=2.0),
            ],
            "schedule": "cosine",
            "final_lr": 0.1,
        },
    ),
    # The scale runs into its limit.
    "head_only": Objective(
        {"contrastive": "sigmoid", "head_only_ema": True, "max_scale": LIMIT}, {"schedule": "constant"}
    ),
    "late": Objective({"distill_start": 0.25}, {"clip": 0.0}),
    # Parts of the student left out, in aligned, distilled and joined views, after a late start.
    "dropping": Objective(
        {"contrastive_views": "original_and_globals", "global_to_global": True, "distill_start": 0.1},
        {},
        vision={"depth": 3, "drop_path": 0.4, "patch_dropout": 0.4},
    ),
    # Towers that are not trained, and layer-wise rates in the other one.
    "lit": Objective(
        {"distill": False},
        {"locked": ["vision"], "text_layer_decay": 0.7},
        vision={"patch_dropout": 0.3},
        views={"n_local": 0},
    ),
    "locked_text": Objective(
        {"contrastive": "sigmoid"},
        {
            "locked": ["text"],
            "vision_layer_decay": 0.6,
            "rules": [ParameterRule(pattern=r"mlp\.fc1\.weight", lr=0.5, weight_decay=2.0)],
        },
        vision={"depth": 2},
    ),
}


def config(
    objective: str = "softmax",
    *,
    stage: int = 1,
    micro_batch: int | None = None,
    precision: str = "fp32",
    vocabulary: int = VOCABULARY,
    steps: int = STEPS,
    **train: Any,
) -> Config:
    """A run of an OBJECTIVES row.

    Small buckets, so that there are several; ZeRO-3 partitions the larger matrices and keeps the other tensors whole.
    """
    chosen = OBJECTIVES[objective]
    return Config(
        model=ModelConfig(
            vision=VisionConfig(
                **({"image_size": 16, "patch_size": 4, "width": 32, "depth": 1, "heads": 2} | chosen.vision)
            ),
            text=TextConfig(context_length=CONTEXT, vocab_size=vocabulary, width=24, depth=2, heads=2),
            head=HeadConfig(prototypes=64, hidden=48, bottleneck=16),
        ),
        views=ViewsConfig(**({"n_global": 2, "n_local": 3, "global_size": 16, "local_size": 8} | chosen.views)),
        objective=ObjectiveConfig(**{"ema_momentum": 0.9, **chosen.objective}),
        optim=OptimConfig(**(_OPTIM | chosen.optim)),
        engine=EngineConfig(
            zero_stage=stage,
            precision=precision,
            persistence_threshold=2000,
            reduce_bucket_size=20_000,
            allgather_bucket_size=20_000,
        ),
        train=TrainConfig(
            steps=steps, global_batch=GLOBAL_BATCH, micro_batch=micro_batch, log_every=1, tensorboard=False, **train
        ),
    )


@torch.no_grad()
def first_model(run: Config) -> SilcModel:
    """A model whose signal keeps its size from layer to layer: matrices have a deviation of 1 / sqrt(fan-in).

    The real first weights are meant for widths of several hundred. At width 32 they can leave features of length 1e-5,
    whose normalisation has gradients of 1e5: that would be a test of rounding errors.
    """
    model = build(run)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return model


def global_batch(run: Config, step: int) -> Batch:
    """The pairs of a step, of all ranks, random but the same wherever they are made."""
    generator = torch.Generator().manual_seed(1000 + step)
    views, size = run.views, run.train.global_batch

    def pixels(count: int, side: int) -> torch.Tensor:
        return torch.randint(0, 256, (size, count, 3, side, side), dtype=torch.uint8, generator=generator)

    large = pixels(run.n_original + views.n_global, views.global_size)
    small = pixels(views.n_local, views.local_size) if views.n_local else None
    tokens = torch.randint(0, run.model.text.vocab_size, (size, CONTEXT), generator=generator)
    keys = [f"shard/{step}-{sample}" for sample in range(size)]
    return Batch(large, small, tokens, keys, run.n_original, (step + 1) * size, [], first=step * size)


def share(batch: Batch, rank: int, ranks: int) -> Batch:
    """A rank's part of a global batch."""
    return batch.split(len(batch) // ranks)[rank]
