"""What `silc claims` does for each run of its plan: train, measure, keep the weights; several at a time."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from silc.claims import eval_sets, folders, jobs, origin, plan
from silc.commands import launcher
from silc.commands.common import MISTAKE
from silc.errors import STOPPED_BY_SIGNAL
from silc.ports import free_port
from silc.text import plural
from silc.train.ancestors import OWNER, owner

GRACE = 600  # seconds in which a run may save after it was asked to stop
MOST_JOBS = 4  # by default: each holds a model, its optimiser and decoded data
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment() -> dict[str, str]:
    """Of the runs. On a CPU each has one thread: the number of threads is part of the arithmetic."""
    found = launcher.environment() | {OWNER: owner()}
    return found | dict.fromkeys(THREADS, "1") if on_cpu(found) else found


def on_cpu(environment: dict[str, str]) -> bool:
    return environment.get("DS_ACCELERATOR") == "cpu"


def number_of_jobs(args: argparse.Namespace, environment: dict[str, str]) -> int:
    """How many runs at a time."""
    if args.jobs is not None:
        return int(args.jobs)
    alone = args.num_gpus is not None or not on_cpu(environment)
    return 1 if alone else min(MOST_JOBS, len(os.sched_getaffinity(0)))


def training(run: plan.Run, args: argparse.Namespace) -> list[str]:
    """The launch of one run, on a port that no one holds."""
    words = ["--preset", args.preset, *args.overrides, *run.words]
    return launcher.command("silc.commands.train", _options(args), words)


def evaluation(run: plan.Run, one: eval_sets.EvalSet, args: argparse.Namespace) -> list[str]:
    """The launch of an evaluation of a trained run."""
    if args.num_gpus is None:
        return [sys.executable, "-m", "silc.commands.evaluate", *one.command(run)]
    return launcher.command("silc.commands.evaluate", _options(args), one.command(run))


def _options(args: argparse.Namespace) -> list[str]:
    options = [f"--master_port={free_port()}"]
    return options if args.num_gpus is None else [*options, f"--num_gpus={args.num_gpus}"]


DONE, MEASURE, TRAIN = "nothing", "measure", "train"  # what is left to do for a run


def todo(run: plan.Run, sets: Sequence[eval_sets.EvalSet]) -> str:
    """What is left to do for a run that is to be measured on these sets."""
    if all(one.done(run) for one in sets):
        return DONE
    return MEASURE if folders.trained(run) else TRAIN


class Calls:
    """The processes of the runs, each run in a thread of its own.

    Attributes:
        args: the command line, see `silc.commands.claims.parse`.
        environment: of the processes.
        jobs: runs at a time.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.environment = environment()
        self.jobs = number_of_jobs(args, self.environment)
        self._processes = jobs.Processes()
        self._noting = threading.Lock()  # the machine is asked for its name once

    def measured(self, run: plan.Run) -> bool:
        """Whether nothing is left to do for a run but to remove files."""
        return todo(run, self.args.sets) == DONE

    def perform(self, run: plan.Run) -> int:
        """Do for a run what is left to do. The exit status that counts, of its processes."""
        if not folders.trained(run):
            self._note(run, origin.begin)
            status = self._call(run, training(run, self.args))
            if not folders.trained(run):
                return status or 1
            self._note(run, origin.write)
            if status in (STOPPED_BY_SIGNAL, MISTAKE):
                return status
        for one in self.args.sets:
            if not one.done(run):
                status = self._call(run, evaluation(run, one, self.args))
                if status in (STOPPED_BY_SIGNAL, MISTAKE):
                    return status
        if self.measured(run):
            self.tidy(run)
            return 0
        return 1

    def tidy(self, run: plan.Run) -> None:
        """Remove what a measured run no longer needs, unless that is to be kept."""
        if not self.args.keep_checkpoints and folders.trained(run):
            with warned(f"{run.folder} is not tidied"):
                folders.keep_weights(run)

    def _note(self, run: plan.Run, write: Callable[..., None]) -> None:
        """Where a run is trained; a page without that is better than no run."""
        with warned(f"{run.folder}: the machine is not noted"), self._noting:
            write(run, on_cpu=on_cpu(self.environment))

    def _call(self, run: plan.Run, words: Sequence[str]) -> int:
        """Exit status of a process of a run; with several runs at a time its output goes to a file."""
        log = self.args.out / "logs" / f"{run.folder.name}.log" if self.jobs > 1 else None
        status = self._processes.run(words, self.environment, log)
        if log is not None and status not in (0, STOPPED_BY_SIGNAL):
            print(f"{jobs.tail(log)}\n== {run.folder}: status {status}; all of it: {log}", flush=True)
        return status

    def stop(self) -> None:
        """Have all runs save and end. A trainer outlives its launcher, which is what has been waited for until then."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("stopping: the runs save first", flush=True)
        self._processes.stop()

    def wait(self) -> None:
        """Until no process of this machine trains any of the runs."""
        end = time.monotonic() + GRACE
        while any(folders.busy(run) for run in self.args.runs) and time.monotonic() < end:
            time.sleep(0.5)


@contextlib.contextmanager
def warned(what: str) -> Iterator[None]:
    """An error of files inside becomes a line on the terminal."""
    try:
        yield
    except (OSError, ValueError) as error:
        print(f"silc claims: {what}: {error}", file=sys.stderr, flush=True)


def perform(args: argparse.Namespace, after_each: Callable[[], object]) -> tuple[int, list[plan.Run]]:
    """Do what is left to do for all runs.

    Args:
        args: the command line.
        after_each: called when a run has ended.

    Returns: 0, or the status at which it was given up: STOPPED_BY_SIGNAL, or MISTAKE, which every run would end with;
        and the runs that came to no end, or not on every task.
    """
    calls = Calls(args)
    todo = []
    for run in args.runs:
        calls.tidy(run) if calls.measured(run) else todo.append(run)
    if todo and calls.jobs > 1:
        print(f"{plural(len(todo), 'run')}, {calls.jobs} at a time; their output: {args.out / 'logs'}", flush=True)
    failed = []
    work = [_timed(calls, run) for run in todo]
    try:
        with contextlib.closing(jobs.side_by_side(calls.jobs, work, calls.stop)) as ended:
            for run, status in ended:
                if status in (STOPPED_BY_SIGNAL, MISTAKE):
                    break
                failed += [run] if status else []
                with warned("the pages are not written"):
                    after_each()
            else:
                return 0, failed
    except KeyboardInterrupt:
        status = STOPPED_BY_SIGNAL
    calls.wait()
    return status, failed


def _timed(calls: Calls, run: plan.Run) -> jobs.Work[tuple[plan.Run, int]]:
    """The work on one run, which tells when it begins and ends."""

    def work() -> tuple[plan.Run, int]:
        number = calls.args.runs.index(run) + 1
        print(f"== {number} of {len(calls.args.runs)}: {run.folder}", flush=True)
        started = time.perf_counter()
        status = 1
        with warned(f"{run.folder} failed"):  # a full disk, or a damaged file of one run, is no other run's
            status = calls.perform(run)
        print(f"== {run.folder}: status {status} after {(time.perf_counter() - started) / 60:.1f} min", flush=True)
        return run, status

    return work
