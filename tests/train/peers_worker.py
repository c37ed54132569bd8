"""Jobs of three ranks over gloo to which something happens; run by test_peers.py. Prints what each rank ended with.

A job is a step after the other, without a model: an exchange of a number, a note before it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from silc.distributed import World
from silc.ports import free_port
from silc.train import peers

RANKS, STEPS, SILENT = 3, 4, 5.0
LIMIT = 60  # seconds for a job
HAPPENS = {  # name of a job -> rank and what happens to it at step 2
    "nothing": (None, ""),
    "stopped": (1, "stop"),
    "stopped_0": (0, "stop"),
    "killed": (2, "kill"),
    "killed_0": (0, "kill"),
    "slow": (1, "sleep"),
    "failed": (1, "raise"),
    "mistake": (1, "own"),
    "suspended": (None, ""),  # all of it, see main
}


def happen(what: str) -> None:
    """To this process."""
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "sleep":
        peers.note("reading data", 2)
        time.sleep(SILENT)
    elif what == "raise":
        raise KeyError("a mistake of this program")
    elif what == "own":
        raise RuntimeError("gloomy, but no connection")


@peers.answered("job")
def job(rank: int, port: int, name: str, folder: Path) -> int:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"LOCAL_RANK": "0"}  # each is the first of a machine, and prints
    dist.init_process_group("gloo", timeout=timedelta(seconds=LIMIT))
    peers.watch(World(rank, RANKS, torch.device("cpu"), own=True), SILENT / 60)
    (folder / "begun").touch()
    who, what = HAPPENS[name]
    for step in range(STEPS):
        peers.note("training", step)
        time.sleep(0.5)
        if step == 2 and rank == who:
            happen(what)
        dist.all_reduce(torch.ones(1))
    return 0


def start(rank: int, port: int, name: str, folder: Path) -> int:
    """A rank as a fork of this process."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(folder / f"{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)
    status = 70
    try:
        status = job(rank, port, name, folder)
    except Exception as error:
        print(f"escaped: {type(error).__name__}", flush=True)
    finally:
        os._exit(status)


def ended(pids: list[int]) -> list[int | None]:
    """Exit statuses, -n for a signal n, of the ranks that end by themselves; None: still there, and killed now."""
    found: dict[int, int] = {}
    ends = time.monotonic() + LIMIT
    stopped = 0
    while len(found) + stopped < len(pids) and time.monotonic() < ends:
        stopped = 0
        for pid in pids:
            if pid not in found:
                got, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
                if got and not os.WIFSTOPPED(status):
                    found[pid] = os.waitstatus_to_exitcode(status)
                elif Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    stopped += 1
        time.sleep(0.1)
    for pid in set(pids) - set(found):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [found.get(pid) for pid in pids]


def suspend(folder: Path, pids: list[int]) -> None:
    """Stop all ranks of a job that has begun, and let them go on after longer than they may be silent."""
    ends = time.monotonic() + LIMIT
    while not (folder / "begun").exists() and time.monotonic() < ends:
        time.sleep(0.05)
    for number, pause in ((signal.SIGSTOP, SILENT + 2), (signal.SIGCONT, 0.0)):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(pause)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        jobs = {}
        for name in names:
            folder, port = Path(place, name), free_port()
            folder.mkdir()
            jobs[name] = folder, [start(rank, port, name, folder) for rank in range(RANKS)]
        if "suspended" in jobs:
            suspend(*jobs["suspended"])
        results = {}
        for name, (folder, pids) in jobs.items():
            statuses = ended(pids)
            said = [(folder / str(rank)).read_text() for rank in range(RANKS)]
            results[name] = {"statuses": statuses, "said": said, "pids": pids}
        print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:] or list(HAPPENS))
