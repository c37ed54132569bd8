"""Numbers of a log interval: time, losses, rates, memory, and the monitors of the teacher."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor

from silc.config import Config
from silc.distributed import all_reduce_mean_
from silc.objective import teacher_statistics
from silc.train.estimate import step_flops
from silc.train.metrics import peak_flops
from silc.train.state import TrainState
from silc.train.step import StepReport

MOST_TRUNCATED = 0.1  # of the captions of an interval, before it is said


class Meter:
    """Measures a run from log to log. Its clock counts training time, into `counters.seconds` too, and knows pauses.

    Losses stay on the device until :meth:`read`, so that no step waits for it.
    """

    def __init__(self, config: Config, state: TrainState) -> None:
        self._config, self._state, self._world = config, state, state.world
        name = torch.cuda.get_device_name(self._world.device) if self._world.device.type == "cuda" else "cpu"
        self._peak = peak_flops(config, name)
        self._flops = step_flops(config)
        self._mark = time.perf_counter()  # up to here the time is counted
        self._said = False  # that many captions are truncated
        self.forget()

    def forget(self) -> None:
        """Begin an interval anew."""
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._truncated = 0
        self._seconds = 0.0
        self._waited = 0.0

    def settle(self) -> None:
        """Count the time up to now."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._state.counters.seconds += now - self._mark
        self._mark = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands still inside: evaluation and saving are no training time."""
        self.settle()
        try:
            yield
        finally:
            self._mark = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, report: StepReport, truncated: int = 0) -> None:
        """Count an applied step and its losses, and the captions of this rank's share that were truncated."""
        self._truncated += truncated
        losses = report.losses
        for name, value in (
            ("loss", losses.total),
            ("loss_contrastive", losses.contrastive),
            ("loss_distill", losses.distill),
        ):
            if value is not None:
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._steps += 1

    def read(self, report: StepReport) -> dict[str, Any]:
        """All numbers after an applied step, and the start of the next interval (collective).

        Losses are means over the interval and all ranks; what follows the rates is of the step in `report`. Here the
        loop waits for the device, and nowhere else of its own.
        """
        values: dict[str, Any] = {
            name: float(all_reduce_mean_(total / self._steps)) for name, total in self._sums.items()
        }
        self.settle()
        share = self._steps * self._config.train.share(self._world.size)
        truncated = torch.tensor(self._truncated / share, device=self._world.device)
        values["captions_truncated"] = float(all_reduce_mean_(truncated))
        values |= self._rates() | self._teacher(report) | self._step(report)
        self.forget()
        return values

    def notes(self, values: dict[str, Any]) -> list[str]:
        """A line where many captions of an interval were truncated, once. values: of :meth:`read`."""
        if self._said or values["captions_truncated"] <= MOST_TRUNCATED:
            return []
        self._said = True
        length = self._config.model.text.context_length
        return [
            f"warning: {values['captions_truncated']:.0%} of the captions have more than "
            f"model.text.context_length={length} tokens, and the model does not read their ends; `silc shards show` "
            "says how long they are. Take shorter captions, or a new run with a larger context (train.init takes over "
            "the weights)"
        ]

    def _rates(self) -> dict[str, float]:
        seconds, device = self._seconds, self._world.device
        rate = self._steps * self._config.train.global_batch / seconds
        values = {
            "samples_per_second": rate,
            "step_seconds": seconds / self._steps,
            "waiting_for_data": self._waited / seconds,
        }
        if self._peak is not None:
            values["mfu"] = rate * self._flops / (self._peak * self._world.size)
        cuda = device.type == "cuda"
        held = torch.cuda.max_memory_allocated(device) if cuda else psutil.Process().memory_info().rss
        return values | {"memory_gb": held / 1e9}

    def _teacher(self, report: StepReport) -> dict[str, float]:
        """Monitors of collapse over the whole batch; none before distillation starts."""
        teacher, center = self._state.teacher, self._state.center
        if teacher is None or not report.bottlenecks:
            return {}
        whole = torch.cat(report.bottlenecks, dim=1)
        found = teacher_statistics(whole, teacher.distilled_head.weight(), center, self._config.objective.teacher_temp)
        return {name: float(value) for name, value in found.items()} | {"center_norm": float(center.norm())}

    def _step(self, report: StepReport) -> dict[str, Any]:
        state, counters = self._state, self._state.counters
        scale, bias = state.scale.effective()
        values = {
            "grad_norm": state.engine.grad_norm(),
            "lr": report.lr,
            "logit_scale": float(scale.detach()),
            "skipped_steps": counters.skipped_steps,
            "skipped_samples": state.skipped_samples(),
            "samples_seen": counters.step * self._config.train.global_batch,
        }
        return values if bias is None else values | {"logit_bias": float(bias.detach())}
