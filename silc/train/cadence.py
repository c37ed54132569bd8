"""When a checkpoint is written: every so many steps or minutes, at the best value of a metric, and at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from silc.config import TrainConfig
from silc.distributed import of_first
from silc.train.checkpoint import place
from silc.train.retention import Best, better, write_best
from silc.train.saving import Saver


class Cadence:
    """Calls `saver` when `config` says so.

    The minutes are the main rank's, counted from the end of one checkpoint to the next, and looked at every
    `log_every` steps, where the ranks meet anyway.
    """

    def __init__(self, config: TrainConfig, saver: Saver) -> None:
        self.config, self.saver = config, saver
        self._mark = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after this step (collective every `log_every` steps)."""
        config, minutes = self.config, self.config.save_minutes
        if config.save_every and step % config.save_every == 0:
            return True
        if minutes is None or step % config.log_every:
            return False
        return of_first(lambda: time.monotonic() - self._mark >= 60 * minutes)

    def save(self) -> Path:
        """Write a checkpoint, or have it written beside the next steps (collective). Raises RunStopped."""
        path = self.saver.save(background=self.config.save_in_background)
        self._mark = time.monotonic()
        return path

    def saved(self, step: int) -> Path | None:
        """The checkpoint of this step, whole on the disk; see :meth:`silc.train.loop.Trainer.saved`.

        One that is there by that name may be of another course of the run, which went back to an earlier step.
        """
        failure = self.saver.drain()
        if failure is not None and self.saver.state.world.main:
            print(failure, flush=True)
        last = self.saver.last
        if not step:
            return last
        if last is not None and last.resolve() == place(self.saver.run, step).resolve() and of_first(last.exists):
            return last
        return self.saver.save()

    def judge(self, metrics: Mapping[str, float]) -> None:
        """Keep the checkpoint of this step if `train.keep_best` is better than ever (collective).

        metrics: of the main rank. Raises RunStopped.
        """
        metric, folder = self.config.keep_best, self.saver.run / "checkpoints"
        if metric is None:
            return
        name = place(self.saver.run, self.saver.state.counters.step).name

        def look() -> Best | str | None:
            if not metrics:  # the evaluation failed, and said so
                return None
            try:
                return better(folder, name, metric, metrics)
            except KeyError:
                return f"train.keep_best={metric} is not among the metrics measured: {', '.join(sorted(metrics)[:8])}"

        found = of_first(look)
        if isinstance(found, Best):
            self.saved(self.saver.state.counters.step)
        if not self.saver.state.world.main or found is None:
            return
        if isinstance(found, Best):
            write_best(folder, found)
            print(f"best {metric} so far: {found.value:.4g}, in {found.checkpoint}", flush=True)
        else:
            print(f"warning: {found}", flush=True)
