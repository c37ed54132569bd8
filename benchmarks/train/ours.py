"""What the training benchmark times of this project: the trainer itself, with its DeepSpeed engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import silc.model.head
import silc.model.vision
from benchmarks.common.stopwatch import Span
from silc import distributed
from silc.config import Config
from silc.data.batch import Batch
from silc.data.loader import build_loader
from silc.objective import ViewPlan, plan_views
from silc.train.engine import Engine, precision
from silc.train.schedule import learning_rate
from silc.train.state import build_state
from silc.train.step import SilcStep


def lightly_pairs(plan: ViewPlan) -> ViewPlan:
    """Without the pairs of equal index, student crop i and teacher crop i, which lightly's DINOLoss leaves out."""
    return replace(plan, pair_weights=torch.ones(plan.n_local, plan.n_global).fill_diagonal_(0))


class Ours:
    """The trainer of a configuration: SILC, or plain CLIP where distillation is off."""

    def __init__(self, config: Config, shards: list[str], folder: Path) -> None:
        self.config, self._shards = config, shards
        self._state = build_state(config, distributed.init(config.engine.timeout_minutes))
        self._distill, plan = config.objective.distill, plan_views(config)
        self._step = SilcStep(config, lightly_pairs(plan) if self._distill else plan, self._state)
        self.steps = 0

    @staticmethod
    def warm_up(config: Config) -> None:
        """One step of one weight: DeepSpeed imports some six hundred modules then, which are no memory of a model."""
        world = distributed.init(config.engine.timeout_minutes)
        engine = Engine(config, nn.Linear(1, 1), world)
        engine.backward(
            engine.forward(torch.ones(1, 1, device=world.device, dtype=precision(config, world.device))).sum()
        )
        engine.step(0.0)

    def in_memory(self, batch: Batch) -> Batch:
        """Byte crops are what the step takes."""
        return batch.pin_memory() if torch.cuda.is_available() else batch

    def batches(self, workers: int) -> Iterator[Batch]:
        """The trainer's loader."""
        config = replace(self.config, data=replace(self.config.data, workers=workers))
        return iter(build_loader(config, rank=0, world=1, shards=self._shards, device=self._state.world.device))

    def step(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """One training step, the copy to the device included: the contrastive and the distillation loss."""
        lr = learning_rate(self.steps, self.config.train.steps, self.config.optim)
        report = self._step(batch.to(self._state.world.device), lr=lr, distill=self._distill)
        assert report.applied, "random weights on real images gave a loss or gradient that is not finite"
        self.steps += 1
        return report.losses.contrastive, report.losses.distill

    def spans(self) -> list[Span]:
        """Where the parts of a step happen. The distillation op finds its gradients with the loss."""
        state = self._state
        spans = [
            Span(silc.model.vision, "patch_embed", "patch embedding"),
            Span(state.engine, "forward", "student"),
            Span(self._step, "_contrastive", "contrastive"),
            Span(state.engine, "backward", "backward"),
            Span(state.engine, "step", "optimiser"),
        ]
        if state.teacher is not None:
            spans += [
                Span(state.teacher, "bottleneck", "teacher"),
                Span(silc.model.head, "distill_head_loss", "distillation"),
                Span(state.teacher, "update", "EMA"),
            ]
        return spans
