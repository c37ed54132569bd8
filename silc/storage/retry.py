"""Trying again: a store that fails for a while delays training, one that fails for long stops it with a message."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from silc.errors import StoreFailed
from silc.storage.address import shorten
from silc.storage.board import Notes
from silc.storage.store import Limits
from silc.text import plural

log = logging.getLogger(__name__)

_jitter = random.SystemRandom()  # its own: workers that were forked share the state of the others
T = TypeVar("T")


class Lasting(Enum):
    """How long a kind of failure is put up with."""

    PASSING = "passing"  # for the patience
    ABSENT = "absent"  # for Limits.absent
    REFUSED = "refused"  # for a few tries


class Trouble(Exception):
    """One try that failed.

    Args:
        words: what happened, from a vocabulary of ours: never text of a server or a library, which may hold headers.
        advice: what the user can do.
        lasting: how long to go on trying.
    """

    def __init__(self, words: str, advice: str = "check the store", lasting: Lasting = Lasting.PASSING) -> None:
        super().__init__(words)
        self.words, self.advice, self.lasting = words, advice, lasting


class Nothing(Trouble):
    """There is no file or object of that name."""


class Halted(Exception):
    """Another range of the same call has failed: what this one would bring is not needed."""


def persist(
    ask: Callable[[], T],
    address: str,
    *,
    patience: float,
    limits: Limits,
    notes: Notes | None = None,
    halt: threading.Event | None = None,
    verb: str = "read",
) -> T:
    """What `ask` returns, after as many tries as it takes.

    Args:
        ask: one try; raises Trouble.
        address: of the file or object, for messages.
        patience: seconds that tries may fail in a row, from the beginning of the first.
        notes: where waiting is noted; None: it is logged.
        halt: ends the waiting from outside.

    Raises:
        StoreFailed: all tries failed. Its cause is a Trouble.
        Halted: `halt` was set.
    """
    began, tries = time.monotonic(), 0
    try:
        while True:
            try:
                return ask()
            except Trouble as trouble:
                tries, last = tries + 1, trouble
            seconds = time.monotonic() - began
            left = (min(patience, limits.absent) if last.lasting is Lasting.ABSENT else patience) - seconds
            if left <= 0 or (last.lasting is Lasting.REFUSED and tries >= limits.refused):
                raise _failed(address, verb, seconds, tries, last) from last
            if notes is not None:
                notes.wait(ask, address, last.words, tries, began)
            elif tries == 2:
                log.warning("%s cannot be %s: %s; trying again for up to %.0f s", shorten(address), verb, last, left)
            halt = halt or threading.Event()
            if halt.wait(min(_pause(limits, tries), left)):
                raise Halted
    finally:
        if tries and notes is not None:
            notes.done(ask)


def _pause(limits: Limits, tries: int) -> float:
    """Seconds after the n-th failure; random, so that the ranks of a run do not come back all at once."""
    longest = min(limits.longest_pause, limits.first_pause * 2.0 ** min(tries - 1, 30))
    return longest * _jitter.uniform(0.5, 1.0)


def _failed(address: str, verb: str, seconds: float, tries: int, last: Trouble) -> StoreFailed:
    took = f" for {seconds:.0f} s" if last.lasting is not Lasting.REFUSED else ""
    return StoreFailed(
        f"{shorten(address)} could not be {verb}{took} ({plural(tries, 'try', 'tries')}, last: {last.words}); "
        f"{last.advice}"
    )
