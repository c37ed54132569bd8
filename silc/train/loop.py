"""The loop of a run. Code stands in the order in which it runs: the loop, then what each turn of it calls in turn: a
step, a discarded step, the log, evaluation and checkpoints on the way, a signal that asks for the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from silc.config import Config
from silc.data.batch import Batch
from silc.errors import RunInterrupted, RunStopped
from silc.objective import plan_views
from silc.text import plural
from silc.train import checkpoint
from silc.train.meter import Meter
from silc.train.metrics import MetricLog
from silc.train.progress import Progress
from silc.train.schedule import learning_rate
from silc.train.state import Counters, TrainState
from silc.train.step import SilcStep, StepReport
from silc.train.stop import StopRequest


class Trainer:
    """Trains `state` on `batches`; :func:`silc.train.start.start` makes one from a configuration.

    Args:
        config: the run's.
        state: what is trained; its counters say where the run stands.
        batches: this rank's share of each step's batch, from `state.counters.position` on.
        folder: the run folder; checkpoints and the list of discarded steps go there.
        log: where metrics are written; None on all ranks but the main one.
    """

    def __init__(
        self, config: Config, state: TrainState, batches: Iterable[Batch], folder: Path, log: MetricLog | None
    ) -> None:
        self.config, self.state, self.world = config, state, state.world
        self.batches, self.folder, self.log = batches, folder, log
        self.step = SilcStep(config, plan_views(config), state)

    def run(self, evaluate: Callable[[], object] | None = None) -> Counters:
        """Train to `train.steps`; save every `train.save_every` steps and call `evaluate` every `eval.every`.

        Raises RunStopped after too many bad steps in a row, and RunInterrupted when a signal asks for the end.
        """
        config, counters = self.config, self.state.counters
        meter = Meter(config, self.state)
        progress = Progress(config.train.steps, counters.step, enabled=self.world.main)
        bad_in_a_row = 0
        batches = iter(self.batches)
        with StopRequest() as request:
            while counters.step < config.train.steps:
                with meter.waiting():
                    batch = next(batches)
                report = self._one(batch)
                counters.position = batch.position
                counters.skipped_samples += len(batch.skipped)
                if not report.applied:
                    bad_in_a_row += 1
                    self._discarded(report, bad_in_a_row)
                    continue
                bad_in_a_row = 0
                counters.step += 1
                meter.add(report)
                if counters.step % config.train.log_every == 0 or counters.step == config.train.steps:
                    self._log(report, meter, progress)
                progress.advance()
                self._periodic(meter, evaluate)
                self._heed(request, meter)
        meter.settle()
        progress.close()
        return counters

    def _one(self, batch: Batch) -> StepReport:
        """One step of the schedule."""
        config, step, teacher = self.config, self.state.counters.step, self.state.teacher
        distill = teacher is not None and step >= config.distill_start_step
        if teacher is not None and step == config.distill_start_step and step > 0:
            teacher.update(0.0)  # distillation starts from the student as its own teacher
        lr = learning_rate(step, config.train.steps, config.optim)
        return self.step(batch.to(self.world.device, non_blocking=True), lr=lr, distill=distill)

    def _discarded(self, report: StepReport, in_a_row: int) -> None:
        """Count and name a discarded step; end the run when there are too many in a row."""
        counters, limit = self.state.counters, self.config.train.max_bad_steps
        counters.skipped_steps += 1
        if self.world.main:
            shown, more = ", ".join(report.bad_keys[:8]), len(report.bad_keys) - 8
            print(
                f"step {counters.step} was discarded ({in_a_row} in a row): its loss or gradient was not finite; "
                "weights, teacher, center and schedule did not move; samples: "
                f"{shown}{f' and {more} more' if more > 0 else ''}",
                flush=True,
            )
            with (self.folder / "skipped_steps.jsonl").open("a", encoding="utf-8") as file:
                record = {"step": counters.step, "position": counters.position, "keys": report.bad_keys}
                file.write(json.dumps(record) + "\n")
        if in_a_row >= limit:
            raise RunStopped(
                f"{plural(in_a_row, 'step')} in a row {'was' if in_a_row == 1 else 'were'} not finite "
                f"(train.max_bad_steps={limit}). The weights are those of step {counters.step}; the samples are in "
                "skipped_steps.jsonl. Lower optim.lr, look at the data, or resume from an earlier checkpoint."
            )

    def _log(self, report: StepReport, meter: Meter, progress: Progress) -> None:
        """The interval's numbers to the log and the terminal."""
        values = meter.read(report)
        if self.log is not None:
            self.log.write(self.state.counters.step, values)
        progress.show(values)

    def _periodic(self, meter: Meter, evaluate: Callable[[], object] | None) -> None:
        """Checkpoint and evaluation between steps; after the last step the caller does both."""
        step = self.state.counters.step
        if step >= self.config.train.steps:
            return
        if self.config.train.save_every and step % self.config.train.save_every == 0:
            with meter.paused():
                self.save()
        if evaluate is not None and self.config.eval.every and step % self.config.eval.every == 0:
            with meter.paused():
                evaluate()

    def save(self) -> Path:
        """Write a checkpoint (collective)."""
        return checkpoint.save(self.folder, self.state, self.config)

    def _heed(self, request: StopRequest, meter: Meter) -> None:
        """End the run after a checkpoint if any rank was asked to; after the last step it ends anyway."""
        step, every = self.state.counters.step, self.config.train.log_every
        # Reading the answer waits for the device: on a GPU only where the log has just done so.
        waits = self.world.device.type == "cuda" and step % every != 0
        if waits or step >= self.config.train.steps:
            return
        asked = request.agreed(self.world.device)
        if asked is not None:
            with meter.paused():
                path = self.save()
            raise RunInterrupted(
                f"{asked.name} at step {step} of {self.config.train.steps}; checkpoint {path}. The same command with "
                "train.resume=auto continues from it"
            )

    def close(self) -> None:
        """Close the logs."""
        if self.log is not None:
            self.log.close()
