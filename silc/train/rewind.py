"""The way back to a checkpoint from before some trouble, with the data from there to here left out.

The order of the data is a function of the position, and the schedule of the step. So the state of the checkpoint goes
on with the batch that comes next anyway: the step counts on from the checkpoint's, the position from the present one.
What was trained on since the checkpoint, and what caused the trouble, is not trained on again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from silc.config import Config
from silc.distributed import all_gather_objects, of_first
from silc.errors import RunStopped
from silc.text import plural
from silc.train import checkpoint
from silc.train.blame import look_at_state
from silc.train.metrics import MetricLog
from silc.train.saving import Saver


class Return(NamedTuple):
    """What was done: from which step to which checkpoint's, and the positions [start, stop) that are left out."""

    path: Path
    left: int
    step: int
    start: int
    stop: int

    def words(self, why: str) -> str:
        """For the terminal."""
        return (
            f"went back from step {self.left} to {self.path}, step {self.step}: {why}; the "
            f"{plural(self.stop - self.start, 'sample')} from position {self.start:,} to {self.stop:,} are left out"
        )

    def numbers(self) -> dict[str, int]:
        """For the log."""
        return {"rewound_from": self.left, "skipped_from": self.start, "skipped_to": self.stop}

    def record(self, why: str) -> dict[str, object]:
        """A row of skipped_steps.jsonl. position: the first one after it."""
        return {"step": self.step, "position": self.stop, "owner": "rewind", "what": why, **self.numbers()}


class Rewinds:
    """Goes back to the checkpoints of this course of a run: the one that it went on from, and those that `saver` wrote.

    Others in the run folder may be of another course, which went back to an earlier step.
    """

    def __init__(self, config: Config, saver: Saver, resumed: Path | None) -> None:
        self._config, self._saver, self._state, self._folder = config, saver, saver.state, saver.run
        if resumed is not None:
            saver.course[self._state.counters.step] = resumed

    @property
    def left(self) -> int:
        """How often the run may still go back."""
        return max(0, self._config.watch.rewinds - self._state.counters.rewinds)

    def go_back(self, before: int, why: str, log: MetricLog | None) -> Return | None:
        """Bring the state to the newest whole checkpoint of a step up to `before`, log that, and save the state there
        with the present position (collective).

        None where the run may not go back, or has no such checkpoint; the state is as it was. Raises RunStopped where
        all of them hold values that are not finite, or cannot be read.
        """
        if not self.left:
            return None
        self._saver.settle()
        found = self._restored(before)
        if found is None:
            if self._state.world.main:
                print(f"warning: no checkpoint of this run up to step {before} to go back to", flush=True)
            return None
        if log is not None:
            log.go_back(found.step)
            log.write(found.step, found.numbers())
            with (self._folder / "skipped_steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(found.record(why)) + "\n")
        self._saver.save()  # so that a run that ends before its next one does not run into the same trouble again
        return found

    def _restored(self, before: int) -> Return | None:
        live, tried, course = self._state.counters, None, self._saver.course
        for step in sorted((step for step in course if step <= before), reverse=True):
            path = of_first(partial(self._whole, step))
            if path is None:
                continue
            tried, start = path, self._restore(path)
            if start is None:
                continue
            self._state.counters = replace(live, step=step, rewinds=live.rewinds + 1)
            self._saver.course = {at: known for at, known in course.items() if at <= step}
            return Return(path, live.step, step, start, live.position)
        if tried is not None:
            raise RunStopped(
                f"the checkpoints up to step {before} hold values that are not finite, {tried} for one; resume from an "
                "older one (train.resume=PATH), with a lower optim.lr"
            )
        return None

    def _whole(self, step: int) -> Path | None:
        try:
            return checkpoint.verify(self._saver.course[step])
        except (ValueError, OSError):  # removed since, as one of the older ones, or damaged
            return None

    def _restore(self, path: Path) -> int | None:
        """Its position; None where it holds values that are not finite (collective)."""
        state = self._state
        try:
            saved = checkpoint.load_trainer(path, state.world.device)
            checkpoint.restore(path, saved, state, checkpoint.load_weights(path, "student"))
        except ValueError as error:
            raise RunStopped(f"cannot go back: {error}") from error
        found = look_at_state(state, distill=state.counters.step > self._config.distill_start_step)
        return None if any(all_gather_objects(found.of_state)) else state.counters.position
