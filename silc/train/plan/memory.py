"""Memory of one rank by purpose: what DeepSpeed's ZeRO stages, the teacher and the data hold is counted, activations
are modelled (:mod:`silc.train.plan.activations`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from silc.config import Config
from silc.model.silc import SilcModel
from silc.train.plan import activations
from silc.train.plan.activations import FP32, Machine

ACTIVATIONS = "activations kept for the backward pass"


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the peak of a step.

    by_purpose: name -> bytes, in the order in which they are shown; `total` is their sum.
    """

    by_purpose: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_purpose.values())


def parameters(config: Config) -> dict[str, int]:
    """Parameters of the student by part, counted on the model itself (without memory for them)."""
    with torch.device("meta"):
        model = SilcModel(config.model, with_head=config.objective.distill)
    parts = {"image tower": model.visual, "text tower": model.text, "distillation head": model.head}
    return {name: 0 if part is None else sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def trained(config: Config, counts: dict[str, int]) -> int:
    """Parameters outside locked towers. counts: of :func:`parameters`."""
    parts = {"vision": "image tower", "text": "text tower"}
    return sum(counts.values()) - sum(counts[parts[name]] for name in config.optim.locked)


def memory(config: Config, counts: dict[str, int], machine: Machine, ranks: int, micro: int, recompute: bool) -> Memory:
    """What one of `ranks` holds when it takes `micro` pairs at a time.

    counts: of :func:`parameters`. recompute: as `model.checkpoint_activations`, whatever the configuration says.
    """
    share = config.train.global_batch // ranks
    total, moved, followed = sum(counts.values()), trained(config, counts), _followed(config, counts)
    kept = activations.kept(config, machine, micro, recompute)
    working = activations.working(config, machine, micro, share, ranks, recompute)
    # At the end of a step activations are gone, and gradients in fp32 and the teacher's gathered weights take their
    # place; where that is more, it decides.
    ending = FP32 * moved / ranks + machine.size * followed * (1 + 1 / ranks)
    return Memory(
        {
            "weights": _weights(config, machine, total, ranks),
            "gradients": _gradients(config, machine, moved, ranks, accumulating=micro < share),
            "buckets of the reduction": _buckets(config, machine),
            "fp32 master weights": _masters(config, machine, moved, ranks),
            "Adam moments": 2 * FP32 * moved / ranks,
            "teacher": machine.size * followed + (0 if machine.size == FP32 else FP32 * followed / ranks),
            "crops of the rank's share, uint8": share * _pixels(config),
            ACTIVATIONS: kept,
            "working buffers": max(working, ending - kept),
        }
    )


def _followed(config: Config, counts: dict[str, int]) -> int:
    """Parameters that the teacher averages."""
    if not config.has_teacher:
        return 0
    head = counts["distillation head"] if config.objective.distill else 0
    return head + (0 if config.objective.head_only_ema else counts["image tower"])


def _weights(config: Config, machine: Machine, total: int, ranks: int) -> float:
    """The copy that is multiplied with. ZeRO-3 keeps a part of it, and what it has gathered up to a limit."""
    if config.engine.zero_stage < 3:
        return machine.size * total
    gathered = min(total, config.engine.max_live_parameters)
    return machine.size * (total / ranks + gathered)


def _gradients(config: Config, machine: Machine, total: int, ranks: int, *, accumulating: bool) -> float:
    """In the dtype of the forward pass, as DeepSpeed accumulates them unless it is told otherwise.

    Stage 1 keeps whole gradients until the last micro-batch; with one micro-batch, or from stage 2 on, what is reduced
    is let go but for the rank's own part. While stage 2 accumulates, the last micro-batch's part stands beside the sum.
    """
    stage = config.engine.zero_stage
    if stage == 1 and (accumulating or not (config.engine.overlap_comm and machine.cuda)):
        return machine.size * total
    return machine.size * total / ranks * (2 if stage == 2 and accumulating else 1)


def _buckets(config: Config, machine: Machine) -> float:
    """Stages 1 and 2: one bucket, two where communication overlaps. Stage 3: one, and what is sent of it."""
    engine = config.engine
    double = engine.zero_stage == 3 or (engine.overlap_comm and machine.cuda)
    return machine.size * engine.reduce_bucket_size * (2 if double else 1)


def _masters(config: Config, machine: Machine, total: int, ranks: int) -> float:
    """In fp32, stage 3 updates the rank's part of the weights itself."""
    if machine.size == FP32 and config.engine.zero_stage == 3:
        return 0.0
    return FP32 * total / ranks


def _pixels(config: Config) -> int:
    """Bytes of one sample's crops, the teacher's and the original among them."""
    views = config.views
    large = config.n_original + views.n_global
    return 3 * (large * views.global_size**2 + views.n_local * views.local_size**2)
