"""Who of a job's ranks is still there, and for whom the others wait.

A collective waits for every rank, up to engine.timeout_minutes, and does not say for which. So each rank notes in
the job's store, from a thread, that it lives, what it does, and how many collectives it has begun. Rank 0 reads the
notes: a rank that has written none for engine.silent_minutes ends the job, by name; one that others wait for is named
once. The other ranks see in the same way that rank 0, or the way to it, is gone. What a broken connection throws in the
training itself becomes a sentence with the same names.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import psutil
import torch.distributed as dist

from silc.distributed import World, all_gather_objects, collectives_begun, first_of_machine
from silc.errors import PAUSE, STOPPED_BY_SIGNAL, RunInterrupted, RunStopped
from silc.text import plural

SLOW = 60.0  # seconds after which a rank that others wait for is named; at most a third of the silence allowed
CONNECTS = 300.0  # seconds to reach the store, which answers at once where there is no crowd
NAMED = 8  # ranks in a message
GOES_ON = (
    "Start the run again on machines that answer: train.resume=auto continues from the last checkpoint, on any number "
    "of ranks"
)


class Note(NamedTuple):
    """What a rank last wrote. number: of the note. begun: collectives. state: "" while it goes on, "lost" when a
    connection broke, "left" or "failed" at its end.
    """

    number: int
    step: int
    doing: str
    seconds: float
    begun: int
    state: str


class PeerGone(RunStopped):
    """The connection to another rank broke. speaks: whether this rank is the one of its machine that says so."""

    def __init__(self, reason: str, *, speaks: bool) -> None:
        super().__init__(reason)
        self.speaks = speaks


class Peers:
    """Watches the ranks of this job from threads until :meth:`close`. Making one is collective.

    world: this rank's place. silent: seconds without a note after which a rank is taken for gone.
    prog: begins the last line of a job that is ended.
    """

    def __init__(self, world: World, silent: float, prog: str) -> None:
        self._rank, self._silent, self._prog = world.rank, silent, prog
        self._every = min(1.0, silent / 10)
        self._slow = min(SLOW, silent / 3)
        self._grace = 10 * self._every + 1  # for the main thread, whose collective may throw
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        limit = timedelta(seconds=max(silent, CONNECTS))
        self._store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=limit)
        self._doing, self._since, self._step, self._state, self._number = "starting", time.monotonic(), 0, "", 0
        self._write()
        if not self._rank:  # of an earlier attempt whose store a launcher has kept
            self._store.delete_key("silc/verdict")
        host = socket.gethostname()[:60]
        places = all_gather_objects((host, os.getpid(), first_of_machine()))
        self._names = [f"rank {rank} (host {where}, pid {pid})" for rank, (where, pid, _) in enumerate(places)]
        self._speakers = {rank for rank, (where, _, first) in enumerate(places) if first and where == host}
        self._here = {rank: pid for rank, (where, pid, _) in enumerate(places) if where == host}
        now = time.monotonic()
        self._answered, self._store_gone = now, False  # of the store
        self._verdict = ""  # why the job ends, as rank 0 has it
        self._notes: dict[int, Note] = {}
        self._heard = dict.fromkeys(range(world.size), now)  # when a rank's note last was a new one
        self._moved = dict.fromkeys(range(world.size), now)  # when its number of collectives last grew
        self._called: set[tuple[int, int]] = set()  # slow ranks that were named, with the collective they were at
        self._closing, self._main_ends = threading.Event(), False
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._talk, self._judge)]
        for thread in self._threads:
            thread.start()

    def note(self, doing: str, step: int) -> None:
        """From now on this rank does this, at this step."""
        self._doing, self._since, self._step = doing, time.monotonic(), step

    def close(self, *, failed: bool) -> None:
        """Watch no more, and tell the others that this rank has left, or why they will miss it."""
        if self._state != "lost":
            self._state = "failed" if failed else "left"
        self._closing.set()
        for thread in self._threads:
            thread.join(self._every)

    def lost(self) -> str:
        """Why this rank's connection to another broke: the ranks that are gone, by name where that is found out."""
        self._main_ends, self._state = True, "lost"  # the thread leaves the end of the job to this one
        ends = time.monotonic() + self._grace
        while time.monotonic() < ends and not self._store_gone and not self._verdict:
            time.sleep(self._every / 4)
            if not self._rank and all(self._absent(rank) or self._state_of(rank) for rank in self._others()):
                break
        if self._rank:
            return self._verdict or (self._gone([0]) if self._store_gone or self._absent(0) else "")
        gone = [rank for rank in self._others() if self._absent(rank)]
        self._verdict = self._gone(gone) if gone else ""
        self._pass_on(self._verdict)
        return self._verdict

    def speaks(self, reason: str) -> bool:
        """Whether this rank is the one of its machine that says why the job ends: the first, unless that is gone."""
        return self._rank in self._speakers or any(self._names[rank] in reason for rank in self._speakers)

    def _others(self) -> list[int]:
        return [rank for rank in range(len(self._names)) if rank != self._rank]

    def _state_of(self, rank: int) -> str:
        return self._notes[rank].state if rank in self._notes else ""

    def _absent(self, rank: int) -> bool:
        """Whether a rank has failed or ended, or has written nothing for some time, which alone ends nothing."""
        state = self._state_of(rank)
        if state:
            return state == "failed"
        return time.monotonic() - self._heard[rank] > 4 * self._every + 1 or self._ended_here(rank)

    def _ended_here(self, rank: int) -> bool:
        """Whether a rank of this machine has no process any more."""
        try:
            return rank in self._here and psutil.Process(self._here[rank]).status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return True

    def _write(self) -> None:
        self._number += 1
        note = Note(
            self._number, self._step, self._doing, time.monotonic() - self._since, collectives_begun(), self._state
        )
        self._store.set(f"silc/note/{self._rank}", json.dumps(note))

    def _talk(self) -> None:
        """Writes and reads notes. A store that is gone throws; one behind a dead link may keep this thread for ever."""
        ranks = range(len(self._names)) if self._rank == 0 else range(1)
        closing = False
        while not closing:
            closing = self._closing.wait(self._every)
            try:
                self._write()
                texts = self._store.multi_get([f"silc/note/{rank}" for rank in ranks])
                if self._rank and not self._verdict and self._store.check(["silc/verdict"]):
                    self._verdict = self._store.get("silc/verdict").decode()
            except RuntimeError:  # torch's DistError is one
                self._store_gone = True
                return
            self._answered = time.monotonic()
            for rank, text in zip(ranks, texts, strict=True):
                self._read(rank, Note(*json.loads(text)))

    def _read(self, rank: int, note: Note) -> None:
        before, now = self._notes.get(rank), time.monotonic()
        if before is None or note.number != before.number:
            self._heard[rank] = now
        if before is None or note.begun != before.begun:
            self._moved[rank] = now
        self._notes[rank] = note

    def _judge(self) -> None:
        """Ends the job when a rank is silent. The main thread cannot: it waits in a collective."""
        before = time.monotonic()
        while not self._closing.wait(self._every):
            before, slept = time.monotonic(), time.monotonic() - before - self._every
            if slept > 2 * self._every + 1:  # stopped meanwhile, as by a suspended job: the others may have been too
                self._answered, self._heard = before, dict.fromkeys(self._heard, before)
            if self._main_ends or self._state:
                continue
            if self._rank:
                reason = self._verdict or self._rank_0_is_gone()
            else:
                reason = self._silent_ranks()
                self._name_the_slow()
            if reason and not self._closing.is_set():
                self._end(reason)

    def _silent_ranks(self) -> str:
        """Why rank 0 can go on no more; empty while all others answer."""
        now = time.monotonic()
        states = {rank: self._state_of(rank) for rank in self._others()}
        broken = "lost" in states.values()  # a rank has seen it, and has told why it ends
        limits = {"": self._grace if broken else self._silent, "failed": self._grace, "lost": 2 * self._grace}
        silent = {rank: now - self._heard[rank] for rank, state in states.items() if state in limits}
        gone = [rank for rank, gap in silent.items() if gap > limits[states[rank]]]
        if gone:  # and those that went with it, a moment later
            gone = [rank for rank, gap in silent.items() if gap > limits[states[rank]] / 2]
        ended = [rank for rank, gap in silent.items() if gap > self._grace and self._ended_here(rank)]
        return self._gone(gone or ended)

    def _rank_0_is_gone(self) -> str:
        """Why this rank can go on no more; empty while rank 0 answers."""
        if 0 in self._notes and self._notes[0].state == "left":
            return ""
        now = time.monotonic()
        if self._store_gone:  # its process has ended; what the main thread's collective throws explains it first
            return self._gone([0]) if now - self._answered > self._grace else ""
        return self._gone([0]) if now - min(self._answered, self._heard[0]) > self._silent else ""

    def _gone(self, ranks: list[int]) -> str:
        """These ranks in words; empty for none."""
        if not ranks:
            return ""
        parts = [f"{self._names[rank]} {self._ending(rank)}" for rank in ranks[:NAMED]]
        more = [f"nor have {plural(len(ranks) - NAMED, 'other rank')}"] if len(ranks) > NAMED else []
        return f"{'; '.join([*parts, *more])}. {GOES_ON}"

    def _ending(self, rank: int) -> str:
        note = self._notes.get(rank)
        at = "" if note is None else f", last at step {note.step}, {note.doing}"
        if self._state_of(rank):
            return f"has {'ended with an error' if self._state_of(rank) == 'failed' else 'lost its connection'}{at}"
        if (rank == 0 and self._store_gone) or self._ended_here(rank):
            return f"has ended{at}"
        return f"has not answered for {time.monotonic() - self._heard[rank]:.0f} s{at}"

    def _name_the_slow(self) -> None:
        """Once for each time that others wait for a rank which lives."""
        notes, now = dict(self._notes), time.monotonic()
        most = max((note.begun for note in notes.values()), default=0)
        for rank, note in notes.items():
            waited = now - self._moved[rank]
            silent = now - self._heard[rank]
            lives = not note.state and silent < 3 * self._every
            if not lives or note.begun >= most or waited < self._slow or (rank, note.begun) in self._called:
                continue
            self._called.add((rank, note.begun))
            waiting = sum(other.begun > note.begun for other in notes.values())
            self._say(
                f"{self._names[rank]} is slow: {plural(waiting, 'rank')} {'waits' if waiting == 1 else 'wait'} for it "
                f"since {waited:.0f} s; it is {note.doing} for {note.seconds + silent:.0f} s, at step {note.step}"
            )

    @staticmethod
    def _say(text: str) -> None:
        with contextlib.suppress(OSError):
            print(text, flush=True)

    def _pass_on(self, verdict: str) -> None:
        """Have the other ranks read why the job ends before the store goes with this process."""
        if all(self._absent(rank) for rank in self._others()):
            return
        with contextlib.suppress(RuntimeError):
            self._store.set("silc/verdict", verdict or f"a connection between ranks broke. {GOES_ON}")
            time.sleep(3 * self._every)

    def _end(self, reason: str) -> NoReturn:
        """End this process in words, with those that it has started, whatever its main thread waits for."""
        if not self._rank:
            self._pass_on(reason)
        if self.speaks(reason):
            with contextlib.suppress(OSError):  # no one reads it any more
                print(f"{self._prog}: {reason}", file=sys.stderr, flush=True)
        else:
            time.sleep(PAUSE)  # this rank's end ends the others of its machine
        _leave()


def _leave() -> NoReturn:
    """End this process with status 1, and those that it has started: one that ended in order would wait for threads and
    groups that wait for the rank that is gone.
    """
    sys.stdout.flush()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(1)


_watching: Peers | None = None


def watch(world: World, silent_minutes: float, prog: str = "silc train") -> None:
    """Watch the other ranks of this job, if there are any, until :func:`in_words` ends (collective).

    A process group that a program made by itself, before it called :func:`silc.train.train`, is its own to watch.
    """
    global _watching
    if world.size > 1 and world.own:
        _watching = Peers(world, 60 * silent_minutes, prog)


def note(doing: str, step: int) -> None:
    """What this rank does from now on, at which step: others are told when they wait for it."""
    if _watching is not None:
        _watching.note(doing, step)


def is_of_connection(error: BaseException | None) -> bool:
    """Whether an error says that another rank, or the way to it, is gone: of torch's store, of NCCL, or of gloo."""
    gloo = isinstance(error, RuntimeError) and re.search(r"gloo/transport/|Gloo connect", str(error)) is not None
    return gloo or isinstance(error, dist.DistError)


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """What a broken connection to another rank throws inside becomes RunStopped, with the rank's name if it is found
    out. The watch ends with the block.
    """
    failed = True
    try:
        yield
        failed = False
    except RunInterrupted:
        failed = False
        raise
    except RuntimeError as error:
        if not is_of_connection(error):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        reason = "" if _watching is None else _watching.lost()
        reason = reason or f"the connection to another rank broke ({said}). {GOES_ON}"
        raise PeerGone(reason, speaks=_watching is None or _watching.speaks(reason)) from error
    finally:
        _end_watch(failed)


def answered(prog: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorates a command that returns its exit status: :func:`in_words`, printed, and the end with status 1."""

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(command)
        def call(*args: Any) -> int:
            try:
                with in_words():
                    status = command(*args)
                    _end_watch(status not in (0, STOPPED_BY_SIGNAL))
                    return status
            except PeerGone as error:
                if error.speaks:
                    print(f"{prog}: {error}", file=sys.stderr, flush=True)
                else:
                    time.sleep(PAUSE)
                _leave()

        return call

    return decorate


def _end_watch(failed: bool) -> None:
    global _watching
    watched, _watching = _watching, None
    if watched is not None:
        watched.close(failed=failed)
