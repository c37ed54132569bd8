"""The state of a run: everything that a step moves and a checkpoint holds, in one owner."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from silc.config import Config
from silc.distributed import World, all_reduce_mean_
from silc.model.scale import LogitScale
from silc.model.silc import SilcModel, build
from silc.teacher import EmaTeacher, build_teacher
from silc.train.engine import Engine


@dataclass
class Counters:
    """What a run has done so far; moves only as described."""

    step: int = 0  # steps applied
    skipped_steps: int = 0  # steps discarded because something was not finite
    skipped_samples: int = 0  # samples that could not be read, this rank
    position: int = 0  # next sample of the stream, over all ranks
    seconds: float = 0.0  # training time, evaluation and saving left out
    rewinds: int = 0  # times that the run went back to a checkpoint


@dataclass
class TrainState:
    """What training moves. :func:`build_state` makes it, `SilcStep` moves it, `checkpoint` saves and restores it.

    Attributes:
        world: the ranks that share it.
        engine: the student: its weights, their fp32 masters and the optimiser's moments.
        scale: scale and bias of the contrastive logits, fp32, the same on every rank.
        scale_optimizer: AdamW of these two.
        teacher: the EMA teacher; None without distillation and objective.ema.
        center: of the teacher's outputs, fp32 [K]; zeros without distillation.
        counters: what the run has done.
        data: the samples that `counters.position` counts in and their order, see `silc.data.Loader.data`; None before
            the loader is known.
    """

    world: World
    engine: Engine
    scale: LogitScale
    scale_optimizer: torch.optim.Optimizer
    teacher: EmaTeacher | None
    center: Tensor
    counters: Counters = field(default_factory=Counters)
    data: dict[str, Any] | None = None

    def skipped_samples(self) -> int:
        """Samples that could not be read, of all ranks (collective)."""
        mine = torch.tensor(float(self.counters.skipped_samples), device=self.world.device)
        return round(float(all_reduce_mean_(mine)) * self.world.size)

    def state_dict(self) -> dict[str, Any]:
        """What is small and the same on every rank (collective).

        The large parts, which ranks share, are written by their owners: :meth:`Engine.save`, `EmaTeacher.average`.
        """
        counters = asdict(self.counters)
        counters.pop("skipped_samples")
        return {
            "counters": counters,
            "data": self.data,
            "skipped_samples": self.skipped_samples(),
            "center": self.center,
            "scale": self.scale.state_dict(),
            "scale_optimizer": self.scale_optimizer.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` returned; the main rank counts the samples skipped so far, of all ranks."""
        skipped = saved["skipped_samples"] if self.world.main else 0
        self.counters = Counters(**saved["counters"], skipped_samples=skipped)
        if not all(isinstance(value, int | float) for value in asdict(self.counters).values()):
            raise TypeError("a counter that is no number")
        self.center.copy_(saved["center"])
        self.scale.load_state_dict(saved["scale"])
        self.scale_optimizer.load_state_dict(saved["scale_optimizer"])


def build_state(config: Config, world: World, student: SilcModel | None = None, *, exactly: bool = False) -> TrainState:
    """The state before the first step (collective).

    student: None for the first weights of the run. exactly: the masters are the student's weights to the last bit, also
    where the engine, of lower precision, would round them first.

    Raises ValueError for an optimiser that cannot run here, and for a parameter rule that matches nothing.
    """
    device, optim = world.device, config.optim
    student = build(config) if student is None else student
    weights = {name: value.detach() for name, value in student.named_parameters()} if exactly else {}
    engine = Engine(config, student, world)
    if exactly:
        engine.take(weights)
    # Scale and bias stay outside the engine: a low-precision copy cannot be clamped, and 0-dim or lone parameters trip
    # ZeRO.
    scale = LogitScale.of(config.objective).to(device)
    scale_optimizer = torch.optim.AdamW(
        scale.parameters(), lr=0.0, betas=(optim.beta1, optim.beta2), eps=optim.eps, weight_decay=0.0
    )
    teacher = build_teacher(config, engine.fragments(), dtype=engine.dtype, device=device)
    center = torch.zeros(config.model.head.prototypes, device=device)
    return TrainState(world, engine, scale, scale_optimizer, teacher, center)
