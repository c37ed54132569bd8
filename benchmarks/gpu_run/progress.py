"""What earlier calls have finished: a small JSON beside the results, of one device.

A job's outcome counts as long as all that it hangs on is the same: its sources (sources.py), the arguments, the size,
Python, torch, triton and the driver. One that failed is tried once more by itself, in a later call.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks import ROOT
from benchmarks.common.files import write_text
from benchmarks.gpu_run.jobs import Job
from benchmarks.gpu_run.process import FAILED, LEFT_OUT, PASSED, Outcome
from benchmarks.gpu_run.sources import digest

TRIES = 2  # of a job that fails
DRIVER = Path("/proc/driver/nvidia/version")

Key = dict[str, str]


def keys(device: str, size: str, out: Path) -> Callable[[Job], Key]:
    """What a job's outcome hangs on."""
    import triton

    driver = DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.is_file() else "none"
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "triton": triton.__version__}
    machine = {"device": device, "size": size, "driver": driver, **versions}
    places = ((str(out), "OUT"), (str(ROOT), "ROOT"), (sys.executable, "python"))

    def key(job: Job) -> Key:
        words = " ".join(job.command)
        for place, name in places:
            words = words.replace(place, name)
        return {**machine, "command": words, "sources": digest(job.command, job.reads)}

    return key


@dataclass
class Entry:
    """Of a job. begun: it has something to take up. tries: how often it has failed."""

    key: Key
    begun: bool = False
    tries: int = 0
    outcome: Outcome | None = None


@dataclass
class Progress:
    """Which jobs have begun, and how those that ended did; of another key nothing is known."""

    path: Path
    key: Callable[[Job], Key]
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, key: Callable[[Job], Key]) -> Progress:
        """What `path` holds; nothing, and said so, where it cannot be read."""
        found = cls(path, key)
        if not path.is_file():
            return found
        try:
            held = json.loads(path.read_text(encoding="utf-8"))["jobs"]
            for name, entry in held.items():
                outcome = entry["outcome"] and Outcome(**entry["outcome"])
                found.entries[name] = Entry(dict(entry["key"]), bool(entry["begun"]), int(entry["tries"]), outcome)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{path} cannot be read ({type(error).__name__}: {error}): everything is begun afresh", flush=True)
            found.entries = {}
        return found

    def forget(self, jobs: Iterable[Job]) -> None:
        """So that these are run again, from their start."""
        for job in jobs:
            self.entries.pop(job.name, None)

    def outcome(self, job: Job) -> Outcome | None:
        """How it ended, in whatever call; None: not as it is now."""
        return self._entry(job).outcome

    def finished(self, job: Job) -> bool:
        """Nothing is left to do: it has passed, or failed as often as it may."""
        entry = self._entry(job)
        status = entry.outcome and entry.outcome.status
        return status == PASSED or (status == FAILED and entry.tries >= TRIES)

    def begin(self, job: Job) -> bool:
        """Note that a job begins; whether it has begun before, and has not passed."""
        entry = self.entries[job.name] = self._entry(job)
        before, entry.begun = entry.begun, True
        self.save()
        return before

    def end(self, job: Job, outcome: Outcome) -> None:
        entry = self.entries[job.name] = self._entry(job)
        entry.outcome = outcome
        entry.begun = entry.begun and outcome.status != LEFT_OUT
        entry.tries += outcome.status == FAILED
        self.save()

    def _entry(self, job: Job) -> Entry:
        key = self.key(job)
        entry = self.entries.get(job.name)
        return entry if entry is not None and entry.key == key else Entry(key)

    def save(self) -> None:
        held = {"jobs": {name: asdict(entry) for name, entry in self.entries.items()}}
        write_text(self.path, json.dumps(held, indent=1) + "\n")
