"""Signals to every process of a job of two ranks, at every moment of a run: what is saved, and what is left running.

    python -m tests.soak.signals [WORD ...] [--results FILE]

Words choose cases: TERM, INT, USR1, KILL; deepspeed (the launcher), silc (`silc train`), deepspeed/node, silc/node,
rank0, rank1, group; launching, imports, start, step, evaluation, save, last-save, export, last-evaluation. A case runs
if it has a word of each kind that is named. With --results, cases in the file are not run again.

A row: the status of the command; the seconds from the signal until the last process of the job has ended; the steps
done that no checkpoint holds; the processes left after two minutes. Promised: within 30 seconds, 0 steps, 0 processes,
no traceback, status 75 from `silc train` and from ranks. What DeepSpeed's own launchers answer to signals to themselves
is theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.commands.conftest import checkout, environment, free_port, write_data
from tests.soak.common import Table, finish
from tests.soak.slow import MOMENTS as OF_RANKS
from tests.soak.slow import ROOT

SIGNALS = ("TERM", "INT", "USR1")
TARGETS = ("deepspeed", "silc", "deepspeed/node", "silc/node", "rank0", "rank1", "group")
KILLED = ("deepspeed", "silc", "deepspeed/node", "silc/node")
MOMENTS = ("launching", *OF_RANKS)  # launching: the node launcher has not started its ranks
LIMIT = 30.0  # seconds from the signal to the end, promised
STEPS, SAVE, EVALUATE = 8, 4, 5
WORDS = [
    f"train.steps={STEPS}", f"train.save_every={SAVE}", f"eval.every={EVALUATE}", "train.log_every=1",
    "train.tensorboard=false", "data.max_skipped=0.9", "eval.report=false", "eval.contact_sheet=false", "eval.batch=2",
    "eval.during=[retrieval]", "eval.after=[retrieval]",
]  # fmt: skip


class Case(NamedTuple):
    """A signal's name, whom it goes to, and when."""

    signal: str
    target: str
    moment: str


class Seen(NamedTuple):
    """What came of it. saved: the step of the newest checkpoint, -1 for none. done: steps done."""

    status: int
    seconds: float
    done: int
    saved: int
    left: int
    folder: bool
    output: str


def cases() -> Iterator[Case]:
    """All of them."""
    for moment, target, name in itertools.product(MOMENTS, TARGETS, SIGNALS):
        if moment != "launching" or not target.startswith("rank"):
            yield Case(name, target, moment)
    for moment, target in itertools.product(MOMENTS, KILLED):
        yield Case("KILL", target, moment)


def promised(case: Case) -> set[int]:
    """Exit statuses."""
    number = signal.Signals[f"SIG{case.signal}"]
    if case.target in ("deepspeed", "group") or (case.target == "silc" and case.signal == "KILL"):
        return {-number}  # of the process that was hit, or what Python makes of SIGINT
    if case.target == "deepspeed/node":
        # Theirs: 1 where a handler stands, 0 for one that died; while it imports it has no handler; and a rank may
        # leave before it is asked to.
        return {0, 1, 75}
    if case.moment == "launching" and case.target == "silc/node":
        return {1, 75}
    return {75}


def job_of(folder: Path) -> list[psutil.Process]:
    """Every process with the folder in a word of its command."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(folder) in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def node_launcher(folder: Path) -> int | None:
    """Its pid, once it is there."""
    job = {process.pid: process.cmdline() for process in job_of(folder)}
    return next((pid for pid, words in job.items() if "deepspeed.launcher.launch" in words[:5]), None)


def find(target: str, front: int, folder: Path) -> int:
    """The pid that is signalled."""
    if target in ("deepspeed", "silc", "group"):
        return front
    node = node_launcher(folder)
    assert node is not None
    if target.endswith("/node"):
        return node
    wanted = f"--local_rank={target.removeprefix('rank')}"
    return next(p.pid for p in psutil.Process(node).children() if wanted in p.cmdline())


def _come(moment: str, folder: Path) -> bool:
    """Whether the job is at the moment. Each rank has its own imports; before them it cannot answer a signal."""
    if moment == "launching":
        return node_launcher(folder) is not None
    return len(list(folder.glob("at.*"))) >= (2 if moment == "imports" else 1)


def command(case: Case, run: Path, data: Path) -> list[str]:
    """The words of a job."""
    words = ["--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]", f"train.out={run}", *WORDS]
    options = ["--num_gpus", "2", "--master_port", str(free_port())]
    if case.target.startswith("silc"):
        return [sys.executable, "-m", "tests.soak.slow", "front", *options, *words]
    return ["deepspeed", *options, str(ROOT / "tests" / "soak" / "slow.py"), *words]


def play(case: Case, data: Path, folder: Path, *, wait: float = 300.0) -> Seen:
    """Start a job in a folder, send the signal at the moment, and wait for the end.

    Raises TimeoutError where the moment does not come.
    """
    run, log = folder / "run", folder / "output"
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # or the job ignores it, as what a shell starts with & does
    env = environment(PYTHONPATH=checkout(), SLOW_MOMENT=case.moment, SLOW_FOLDER=str(folder), PYTHONSAFEPATH="1")
    with log.open("w") as output:
        front = subprocess.Popen(
            command(case, run, data), cwd=data, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        ends = time.monotonic() + wait
        while not _come(case.moment, folder):
            if front.poll() is not None or time.monotonic() > ends:
                raise TimeoutError(f"{case}: the moment did not come: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        time.sleep(0.3)
        number = signal.Signals[f"SIG{case.signal}"]
        if case.target == "group":
            os.killpg(front.pid, number)
        else:
            os.kill(find(case.target, front.pid, folder), number)
        sent = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            front.wait(timeout=wait)
        status = -999 if front.returncode is None else front.returncode  # the former is no one's promise
        while (left := job_of(folder)) and time.monotonic() - sent < 120:
            time.sleep(0.1)
        seconds = time.monotonic() - sent
        saved = max((int(p.parent.name[5:]) for p in run.glob("checkpoints/step_*/manifest.json")), default=-1)
        done = int((folder / "steps").read_text()) if (folder / "steps").exists() else 0
        return Seen(status, seconds, done, saved, len(left), run.exists(), log.read_text())
    finally:
        for process in job_of(folder):
            process.kill()
        if front.poll() is None:
            front.kill()
        front.wait()


def _shuffled(case: Case) -> str:
    return hashlib.sha256(" ".join(case).encode()).hexdigest()


def broken(case: Case, seen: Seen) -> list[str]:
    """The promises that were not kept, in words."""
    lost = seen.done - max(0, seen.saved)
    theirs = case.signal == "INT" and case.target in ("deepspeed", "group")  # Python's own, in DeepSpeed's launcher
    found = {
        "status": seen.status not in promised(case) | ({130, 1} if theirs else set()),
        "late": seen.seconds > LIMIT,
        "lost steps": lost > 0,
        "left running": seen.left > 0,
        "traceback": not theirs and "Traceback" in seen.output,
        "folder": not seen.done and seen.folder,
    }
    return [name for name, wrong in found.items() if wrong]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--sample", action="store_true", help="one signal for each process and moment")
    args = parser.parse_args()
    kinds = [set(kind) & set(args.words) for kind in ((*SIGNALS, "KILL"), TARGETS, MOMENTS)]
    if unknown := set(args.words) - set().union(*kinds):
        parser.error(f"{', '.join(sorted(unknown))}: not a word of a case")
    chosen = [case for case in cases() if all(not kind or part in kind for kind, part in zip(kinds, case, strict=True))]
    if args.sample:
        chosen = list({(case.target, case.moment): case for case in sorted(chosen, key=_shuffled)}.values())
    known = {}
    if args.results and args.results.exists():
        rows = [json.loads(line) for line in args.results.read_text().splitlines()]
        known = {Case(*row["case"]): Seen(**row["seen"]) for row in rows}
    columns = ("moment", "target", "signal", "status", "seconds", "lost", "left", "broken")
    table = Table(f"{len(chosen)} signals to jobs of two ranks", columns, (16, 15, 6, 6, 7, 4, 4, 24))
    with tempfile.TemporaryDirectory(prefix="silc-signals-") as place:
        data = Path(place, "data")
        data.mkdir()
        write_data(data)
        for number, case in enumerate(chosen):
            seen = known.get(case)
            if seen is None:
                folder = Path(place, str(number))
                folder.mkdir()
                seen = play(case, data, folder)
                if args.results:
                    with args.results.open("a") as file:
                        file.write(json.dumps({"case": case, "seen": seen._asdict()}) + "\n")
            wrong = broken(case, seen)
            lost = seen.done - max(0, seen.saved)
            table.row(
                case.moment, case.target, case.signal, seen.status, f"{seen.seconds:.1f}", lost, seen.left,
                ", ".join(wrong) or "-", holds=not wrong,
            )  # fmt: skip
    finish(table)


if __name__ == "__main__":
    main()
