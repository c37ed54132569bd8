"""The ranks of a stream as processes of their own: started, asked, measured with their workers, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ROOT
from benchmarks.data.fake import environment
from benchmarks.data.streams import Spec
from silc.ports import free_port

POLL = 1.0  # seconds between looks at the memory while ranks start
SHARED = Path("/dev/shm")
LEFT_BY_STREAMING = re.compile(r"^\d{6}_")


@dataclass(frozen=True)
class Memory:
    """Of all ranks and their workers together, in MiB. uss: pages that one process alone maps. pss: those, and of each
    page that several map the processes' part. held: pss without mapped files, whose pages others on the machine may map
    too, and which the system can drop; the tables are about this one.
    """

    uss: float
    pss: float
    held: float


@dataclass(frozen=True)
class Used:
    """Of all processes since they began. read: bytes that read calls returned, cached or not, by those that read the
    set. disk: bytes fetched from the disk, read-ahead too. processor: seconds.
    """

    read: int
    disk: int
    processor: float

    def __sub__(self, before: Used) -> Used:
        """What was used since."""
        return Used(self.read - before.read, self.disk - before.disk, self.processor - before.processor)


class Ended(Exception):
    """A stream that gives no batch: the text is why, short enough for a table."""


class Ranks:
    """Processes that each hold one rank.

    Args:
        python: interpreter that has the provider's library.
        specs: one for each rank.
        memory_gib: what all may hold together; past it they are ended.
        variables: of their environment, besides this process's.
    """

    def __init__(
        self,
        python: str,
        specs: Sequence[Spec],
        memory_gib: float = 8.0,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._variables = variables or {}
        self._limit = memory_gib * 1024
        self._workers = specs[0].workers
        self._folder = tempfile.TemporaryDirectory()
        self._before = set(os.listdir(SHARED))
        self._answers: queue.SimpleQueue[tuple[int, dict[str, Any] | None]] = queue.SimpleQueue()
        port = str(free_port())
        self._processes = [self._start(python, spec, port) for spec in specs]

    def _start(self, python: str, spec: Spec, port: str) -> subprocess.Popen[str]:
        rank, world = str(spec.rank), str(spec.world)
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TMPDIR": self._folder.name}
        places["SILC_CACHE"] = f"{self._folder.name}/cache"
        told = json.dumps(asdict(spec) | {"born": time.monotonic()})
        path = Path(self._folder.name) / f"spec{rank}.json"
        path.write_text(told)
        with (Path(self._folder.name) / f"errors{rank}").open("w") as errors:
            process = subprocess.Popen(
                [python, "-m", "benchmarks.data.rank", str(path)],
                cwd=ROOT,
                env=environment() | ranks | places | self._variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        threading.Thread(target=self._listen, args=(spec.rank, process), daemon=True).start()
        return process

    def _listen(self, rank: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._answers.put((rank, json.loads(line)))
        self._answers.put((rank, None))

    def first(self, timeout: float) -> tuple[list[dict[str, Any]], float]:
        """Wait for each rank's first batch.

        Returns:
            What each said, and the most memory held (MiB) seen until then.

        Raises:
            Ended: not in time, out of the memory allowed, or with an error.
        """
        peak = 0.0

        def look() -> None:
            nonlocal peak
            peak = max(peak, self.memory().held)
            if peak > self._limit:
                raise Ended(f"more than {self._limit / 1024:.3g} GiB")

        return self._collect(timeout, look), peak

    def ask(self, line: str, timeout: float = 3600.0) -> list[dict[str, Any]]:
        """Send a line to every rank; their answers. Raises Ended."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        return self._collect(timeout, lambda: None)

    def _collect(self, timeout: float, look: Any) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < len(self._processes):
            look()
            if time.monotonic() > deadline:
                raise Ended(f"not finished in {timeout:.0f} s")
            with contextlib.suppress(queue.Empty):
                rank, answer = self._answers.get(timeout=min(POLL, max(0.0, deadline - time.monotonic())))
                if answer is None:
                    raise Ended(self._complaint(rank))
                answers[rank] = answer
        return [answers[rank] for rank in range(len(self._processes))]

    def _complaint(self, rank: int) -> str:
        lines = (Path(self._folder.name) / f"errors{rank}").read_text(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "without a word")
        return f"ended: {said[:200]}"

    def memory(self) -> Memory:
        """What all processes hold now."""
        uss = pss = held = 0
        for process in self._all():
            with contextlib.suppress(OSError):  # it has just ended
                text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                fields = {name: int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
                uss += fields["Private_Clean"] + fields["Private_Dirty"]
                pss += fields["Pss"]
                held += fields["Pss_Anon"] + fields["Pss_Shmem"]
        return Memory(uss / 1024, pss / 1024, held / 1024)

    def used(self) -> Used:
        """Counters of all processes; a read by a rank counts where it has no workers, else it is a worker's message."""
        read = disk = 0
        processor = 0.0
        ranks = {process.pid for process in self._processes}
        for process in self._all():
            with contextlib.suppress(psutil.Error, OSError):
                times, io = process.cpu_times(), process.io_counters()
                processor += times.user + times.system
                disk += io.read_bytes
                if not self._workers or process.pid not in ranks:
                    read += io.read_chars
        return Used(read, disk, processor)

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until the workers have their batches ready and rest."""
        deadline = time.monotonic() + timeout
        before = self.used().processor
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = self.used().processor
            if now - before <= 0.02:
                return
            before = now

    def _all(self) -> Iterator[psutil.Process]:
        for process in self._processes:
            with contextlib.suppress(psutil.Error):
                rank = psutil.Process(process.pid)
                yield rank
                yield from rank.children(recursive=True)

    def close(self) -> None:
        """End every process, and remove what they leave in shared memory."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for left in set(os.listdir(SHARED)) - self._before:
            if LEFT_BY_STREAMING.match(left):
                (SHARED / left).unlink(missing_ok=True)
        self._folder.cleanup()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
