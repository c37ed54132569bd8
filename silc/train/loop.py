"""The loop of a run. Code stands in the order in which it runs: the loop, then what each turn of it calls in turn: a
batch, or the end where there is none or a signal asks for it, a step, a discarded step, the way back to a checkpoint,
the log, evaluation and checkpoints on the way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from silc.config import Config
from silc.data import Loader
from silc.data.batch import Batch
from silc.distributed import all_gather_objects, broadcast_object
from silc.errors import RunInterrupted, RunStopped
from silc.objective import plan_views
from silc.storage import Totals
from silc.text import plural
from silc.train import peers
from silc.train.cadence import Cadence
from silc.train.meter import Meter
from silc.train.metrics import MetricLog
from silc.train.progress import Progress
from silc.train.rewind import Rewinds
from silc.train.run_folder import RunFolder
from silc.train.saving import Saver
from silc.train.schedule import learning_rate
from silc.train.state import Counters, TrainState
from silc.train.step import SilcStep, StepReport
from silc.train.stop import StopRequest
from silc.train.watch import Watch, recent

Evaluate = Callable[[], Mapping[str, float]]  # metrics by the names of the log; empty on all ranks but the main one
SAID_EVERY = 30.0  # seconds between lines about data that do not arrive


class Trainer:
    """Trains `state` on `batches`; :func:`silc.train.start.start` makes one from a configuration.

    Args:
        config: the run's.
        state: what is trained; its counters say where the run stands.
        batches: this rank's share of each step's batch, from `state.counters.position` on.
        folder: the run folder; checkpoints and the list of discarded steps go there.
        log: where metrics are written; None on all ranks but the main one.
        resumed: the checkpoint that the state is of; None for a run that begins.
        newest: whether that is the newest one of this run folder, which train.resume=auto would take.
        finished: nothing is left to train, and that checkpoint stays as it is.

    Attributes:
        kept: the run folder, to be looked after; None: it is the caller's to keep it there.
    """

    def __init__(
        self,
        config: Config,
        state: TrainState,
        batches: Iterable[Batch],
        folder: Path,
        log: MetricLog | None,
        resumed: Path | None = None,
        newest: bool = False,
        finished: bool = False,
    ) -> None:
        self.config, self.state, self.world = config, state, state.world
        self.batches, self.folder, self.log = batches, folder, log
        self.step = SilcStep(config, plan_views(config), state)
        saver = Saver(folder, config, state, resumed if newest or finished else None)
        self.cadence = Cadence(config.train, saver)
        self._finished = finished
        self._rewinds = Rewinds(config, saver, resumed)
        self._watch = self._new_watch()
        self.kept: RunFolder | None = None

    def _new_watch(self) -> Watch:
        watch = Watch(self.config, self.state.counters.step)
        if self.world.main and self.state.counters.step:
            watch.remember(recent(self.folder / "metrics.jsonl", self.config.watch.window))
        return watch

    def measure_anew(self) -> None:
        """Compare with no interval before: settings changed, which the losses may follow."""
        self._watch = Watch(self.config, self.state.counters.step)

    def run(self, evaluate: Evaluate | None = None) -> Counters:
        """Train to `train.steps`; save every `train.save_every` steps and call `evaluate` every `eval.every`.

        Raises RunStopped after too many bad steps in a row or when data cannot be read, and RunInterrupted when a
        signal asks for the end.
        """
        config = self.config
        meter = Meter(config, self.state)
        progress = Progress(config.train.steps, self.state.counters.step, enabled=self.world.main)
        bad_in_a_row = 0
        batches = self.batches.poll() if isinstance(self.batches, Loader) else iter(self.batches)
        with StopRequest() as request:
            while not self._finished and (counters := self.state.counters).step < config.train.steps:
                batch = self._next(batches, request, meter, progress)
                report = self._one(batch)
                counters.position = batch.position
                counters.skipped_samples += len(batch.skipped)
                if not report.applied:
                    bad_in_a_row += 1
                    too_many = self._discarded(report, bad_in_a_row)
                    if too_many is not None:
                        if not self._went_back(counters.step, str(too_many).partition(". ")[0], meter, progress):
                            raise too_many
                        bad_in_a_row = 0
                    continue
                bad_in_a_row = 0
                counters.step += 1
                meter.add(report, batch.truncated)
                if counters.step % config.train.log_every == 0 or counters.step == config.train.steps:
                    self._log(report, meter, progress)
                    if self._spike_sent_back(meter, progress):
                        continue
                progress.advance()
                self._periodic(meter, evaluate)
        meter.settle()
        progress.close()
        return self.state.counters

    def _next(self, batches: Iterator[Batch | None], request: StopRequest, meter: Meter, progress: Progress) -> Batch:
        """This rank's next batch, when every rank has one and none was asked to stop (collective).

        Else it ends the run after a checkpoint: raises RunInterrupted or RunStopped.
        """
        batch, reason = None, None
        with meter.waiting():
            peers.note("reading data", self.state.counters.step)
            try:
                batch = self._arrived(batches, request, progress)
                reason = self.cadence.saver.failure()
            except RunStopped as error:
                reason = str(error)
            peers.note("training", self.state.counters.step)
            asked = request.agreed(failed=reason is not None)
        if not asked:
            assert batch is not None
            return batch
        reasons = {rank: text for rank, text in enumerate(all_gather_objects(reason)) if text is not None}
        step = self.state.counters.step
        self.cadence.saver.drain()  # what failed beside the steps may work now
        with meter.paused():
            path = self.saved()
        where = f"at step {step} of {self.config.train.steps}"
        goes_on = (
            "nothing was trained yet"
            if path is None
            else f"checkpoint {path}. The same command with train.resume=auto continues from it"
        )
        if asked is not True:
            raise RunInterrupted(f"{asked} {where}; {goes_on}")
        rank, reason = next(iter(reasons.items()))
        named = f"rank {rank}" if len(reasons) == 1 else f"rank {rank} and {plural(len(reasons) - 1, 'other')}"
        raise RunStopped(f"{reason} ({f'{named}, ' if self.world.size > 1 else ''}{where}; {goes_on})")

    def _arrived(self, batches: Iterator[Batch | None], request: StopRequest, progress: Progress) -> Batch | None:
        """This rank's next batch; None when it was asked to stop before one arrived. Says what it waits for."""
        began = said = time.monotonic()
        while (batch := next(batches)) is None and not request.received:
            now = time.monotonic()
            text = f"waiting {now - began:.0f} s for data{self._waits_for()}"
            progress.waiting(text)
            if now - said >= SAID_EVERY:
                said = now
                progress.say(text if self.world.main else f"rank {self.world.rank}: {text}")
        return batch

    def _waits_for(self) -> str:
        """What the readers of this rank wait for, for the end of a line; empty where no read has failed."""
        found = self.batches.waiting() if isinstance(self.batches, Loader) else None
        if found is None:
            return ""
        return f": {found.address}: {found.words}, {plural(found.tries, 'try', 'tries')} in {found.seconds:.0f} s"

    def _one(self, batch: Batch) -> StepReport:
        """One step of the schedule."""
        config, step, teacher = self.config, self.state.counters.step, self.state.teacher
        distill = teacher is not None and step >= config.distill_start_step
        if teacher is not None and step == config.distill_start_step and step > 0:
            teacher.update(0.0)  # distillation starts from the student as its own teacher
        lr = learning_rate(step, config.train.steps, config.optim)
        return self.step(batch.to(self.world.device, non_blocking=True), lr=lr, distill=distill)

    def _discarded(self, report: StepReport, in_a_row: int) -> RunStopped | None:
        """Count and name a discarded step. Returns what ends the run when there are too many in a row."""
        counters, limit, fault = self.state.counters, self.config.train.max_bad_steps, report.fault
        assert fault is not None
        counters.skipped_steps += 1
        if self.world.main:
            print(
                f"step {counters.step} was discarded ({in_a_row} in a row): {fault.words}; weights, teacher, center "
                f"and schedule did not move{fault.shown_keys()}{f'. {fault.way_out}' if in_a_row == 1 else ''}",
                flush=True,
            )
            with (self.folder / "skipped_steps.jsonl").open("a", encoding="utf-8") as file:
                record = {"step": counters.step, "position": counters.position, **fault.record()}
                file.write(json.dumps(record) + "\n")
        if in_a_row < limit:
            return None
        return RunStopped(
            f"{plural(in_a_row, 'step')} in a row {'was' if in_a_row == 1 else 'were'} not finite "
            f"(train.max_bad_steps={limit}). The weights are those of step {counters.step}. Last, {fault.words}: "
            f"{fault.way_out}. All of them are in skipped_steps.jsonl."
        )

    def _spike_sent_back(self, meter: Meter, progress: Progress) -> bool:
        """Whether a loss spike has just lasted too long and the run went back to before it (collective)."""
        if not self._rewinds.left:
            return False
        why, before = broadcast_object((self._watch.lasting, self._watch.good_until))
        return why is not None and self._went_back(before, why, meter, progress)

    def _went_back(self, before: int, why: str, meter: Meter, progress: Progress) -> bool:
        """Whether the run may go back to a checkpoint up to step `before` and did so (collective)."""
        with meter.paused():
            found = self._rewinds.go_back(before, why, self.log)
        if found is None:
            return False
        meter.forget()
        progress.back(found.step)
        progress.line(found.words(why))
        self._watch = self._new_watch()
        return True

    def _log(self, report: StepReport, meter: Meter, progress: Progress) -> None:
        """The interval's numbers to the log and the terminal."""
        values = meter.read(report) | self._reading()
        if self.world.main:
            for line in (*self._watch.look(self.state.counters.step, values), *meter.notes(values)):
                progress.line(line)
            values["warnings"] = self._watch.active
        self.keep_folder()
        if self.log is not None:
            self.log.write(self.state.counters.step, values)
        progress.show(values)

    def _reading(self) -> dict[str, float]:
        """What all ranks have read of the shards since the start, and how often it failed (collective)."""
        if not isinstance(self.batches, Loader):
            return {}
        every = [sum(column) for column in zip(*all_gather_objects(tuple(self.batches.board.totals())), strict=True)]
        totals = Totals(*every)
        read = totals.bytes_read + totals.bytes_cached
        found: dict[str, float] = {"read_gb": read / 1e9, "read_retries": totals.retries}
        return found | ({"read_over_used": read / totals.bytes_used} if totals.bytes_used else {})

    def _periodic(self, meter: Meter, evaluate: Evaluate | None) -> None:
        """Checkpoint and evaluation between steps; after the last step the caller does both."""
        step = self.state.counters.step
        if step >= self.config.train.steps:
            return
        if self.cadence.due(step):
            with meter.paused():
                self.keep_folder()
                self.cadence.save()
        if evaluate is not None and self.config.eval.every and step % self.config.eval.every == 0:
            with meter.paused():
                self.cadence.judge(evaluate())

    def keep_folder(self) -> None:
        """Make the run folder anew where it was removed (collective). Raises RunStopped where that cannot be."""
        wrong = None
        if self.kept is not None and self.world.main:
            try:
                self.log = self.kept.keep(self.config, self.state, self.log)
            except (ValueError, OSError) as error:
                wrong = str(error)
        if self.kept is not None and (wrong := broadcast_object(wrong)) is not None:
            raise RunStopped(wrong)

    def saved(self) -> Path | None:
        """The checkpoint of this step, whole on the disk, written unless this course of the run has done so; None
        before the first step (collective). Raises RunStopped.
        """
        self.keep_folder()
        return self.cadence.saved(self.state.counters.step)

    def close(self, *, waits: bool = True) -> None:
        """Wait for a checkpoint that is being written, unless a rank that it needs has gone; and close the logs."""
        failure = self.cadence.saver.drain() if waits else None
        if failure is not None and self.world.main:
            print(failure, flush=True)
        if self.log is not None:
            self.log.close()
