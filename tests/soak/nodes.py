"""A training on two machines of two ranks each, over ssh and pdsh, that is stopped, loses a machine, and goes on.

    python -m tests.soak.nodes [--quick]

The machines are namespaces of this one (root is needed); the ranks talk by gloo. Each row is a start of `silc
train --hostfile`: it is stopped by a signal, resumed to its end, then again while one machine's cable is taken out, and
while all its processes are killed, and resumed on the machine that is left. --quick: the last two, a rank on each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

from tests.commands.conftest import checkout, environment, write_data
from tests.machines import Machine, machines, missing
from tests.soak.common import Table, finish

LIMIT = 150  # seconds of a start
SILENT = 10  # seconds without a sign of life
COLUMNS = ("what happens", "status", "s to the end", "steps", "left", "named, or last line")
WIDTHS = (26, 6, 12, 12, 5, 70)


class Runs:
    """Starts on the two machines, one after the other, into one run folder.

    slots: ranks on each. every: steps between checkpoints.
    """

    def __init__(self, folder: Path, table: Table, slots: int, every: int) -> None:
        self.folder, self.table, self.every = folder, table, every
        self.out = folder / "run"
        (folder / "my data").mkdir()  # with a space: words must arrive as they were given
        write_data(folder / "my data")
        preset = folder / "my data" / "tiny.yaml"
        preset.write_text(re.sub(r"^eval:.*", "", preset.read_text(), flags=re.MULTILINE))
        (folder / "hosts").write_text(f"node1 slots={slots}\nnode2 slots={slots}\n")

    def words(self, *more: str) -> list[str]:
        """The command."""
        data = self.folder / "my data"
        options = ["--hostfile", str(self.folder / "hosts"), "--preset", str(data / "tiny.yaml")]
        keys = [f'data.shards=["{data}/train/{{000..003}}.tar"]', f"train.out={self.out}", "data.max_skipped=0.9"]
        keys += ["train.tensorboard=false", f"engine.silent_minutes={SILENT / 60}"]
        keys += ["train.resume=auto", f"train.save_every={self.every}", "train.log_every=1"]
        return [sys.executable, "-m", "silc", "train", *options, *keys, *more]

    def steps(self) -> int:
        """Of the newest checkpoint; 0 without one."""
        found = self.out.glob("checkpoints/step_*/manifest.json")
        return max((json.loads(path.read_text())["step"] for path in found), default=0)

    @contextlib.contextmanager
    def started(self, on: Machine, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """A start, and what it prints; all of it is ended with the block."""
        log = self.folder / f"log{time.monotonic_ns()}"
        with log.open("w") as output:
            process = on.start(
                self.words(*more), environment(PYTHONPATH=checkout(), DS_ACCELERATOR="cpu"), self.folder, output
            )
        try:
            yield process, log
        finally:
            for each in (
                [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []
            ):
                each.kill()
            process.wait()

    def row(
        self,
        title: str,
        pair: tuple[Machine, ...],
        *more: str,
        at: int | None = None,
        do: Callable[[], object] = lambda: None,
        status: int,
        said: str,
    ) -> None:
        """Start; `do` when `at` steps are done; what then must come: the status, a line, and no process left."""
        before = self.steps()
        mark = None if at is None else f"step {before + at}/"
        with self.started(pair[0], *more) as (process, log):
            ends = time.monotonic() + LIMIT
            while mark is not None and mark not in log.read_text() and process.poll() is None:
                assert time.monotonic() < ends, log.read_text()[-3000:]
                time.sleep(0.2)
            if process.poll() is None:
                do()
            began = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=LIMIT)
            seconds, code, text = time.monotonic() - began, process.poll(), log.read_text()
            left = self._left(pair)
        line = next((line for line in text.splitlines() if re.search(said, line)), "")
        holds = code == status and bool(line) and not left and "Traceback" not in text
        words = (line or (text.splitlines() or [""])[-1]).partition(". Start")[0].partition("; checkpoint")[0]
        self.table.row(title, code, f"{seconds:.0f}", f"{before}->{self.steps()}", left, words, holds=holds)
        if not holds:
            print(text[-6000:])

    def _left(self, pair: tuple[Machine, ...]) -> int:
        """Processes on the machines, a little later."""
        ends = time.monotonic() + 15
        while time.monotonic() < ends:
            left = [process for machine in pair if psutil.pid_exists(machine.pid) for process in machine.processes()]
            if not left:
                return 0
            time.sleep(0.5)
        print(left)
        return len(left)


def signal_a_rank(machine: Machine, number: int) -> None:
    """Send a signal to the first rank of a machine, and to nothing else."""
    ranks = [process for process in machine.processes() if {"--local_rank=0", "-u"} <= set(process.cmdline())]
    next(rank for rank in ranks if rank.ppid() not in {other.pid for other in ranks}).send_signal(number)


def signal_front(machine: Machine, number: int) -> None:
    """Send a signal to `silc train`, which has started the launcher."""
    words = ["-m", "silc", "train"]
    next(process for process in machine.processes() if process.cmdline()[1:4] == words).send_signal(number)


def check(folder: Path, quick: bool) -> Table:
    """The rows."""
    table = Table("`silc train --hostfile` on two machines, over ssh and pdsh", COLUMNS, WIDTHS)
    slots, every = (1, 10) if quick else (2, 20)
    runs = Runs(folder, table, slots, every)
    named = (
        rf"silc train: rank [{slots}-{2 * slots - 1}] \(host node2, pid \d+\) has not answered for \d+ s, last at step "
    )
    endless, alone = "train.steps=100000", ("--include", "node1", f"train.steps={4 * every}")
    (folder / "machines").mkdir()
    with machines(folder / "machines") as (one, two):
        pair = (one, two)
        if not quick:
            usr1 = partial(signal_a_rank, two, signal.SIGUSR1)
            runs.row("USR1 to a rank of node2", pair, endless, at=8, do=usr1, status=75, said="stopped by SIGUSR1 at")
            front = partial(signal_front, one, signal.SIGTERM)
            runs.row("TERM to `silc train`", pair, endless, at=8, do=front, status=75, said="stopped by SIGTERM at")
            runs.row("resumed", pair, "train.steps=40", status=0, said="node1: trained 40 steps")
            runs.row("cable of node2 out", pair, endless, at=8, do=two.cut, status=1, said=named)
            two.do("ip", "link", "set", "eth0", "up")
        runs.row("node2 killed", pair, endless, at=every + 1, do=two.kill, status=1, said=named)
        runs.row("resumed on node1", (one,), *alone, status=0, said=f"trained {4 * every} steps")
    return table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two starts")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up
    if missing():
        parser.error(f"needs {', '.join(missing())}")
    with tempfile.TemporaryDirectory() as name:
        table = check(Path(name), args.quick)
    finish(table)


if __name__ == "__main__":
    main()
