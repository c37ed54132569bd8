"""A time budget: how long each part of a step takes by itself, parts inside other parts counted once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch


class Span(NamedTuple):
    """The callable `owner.attribute` belongs to the part `part`."""

    owner: Any
    attribute: str
    part: str


class Stopwatch:
    """Adds up the seconds of each part; while a part runs inside another, the outer one stands still.

    wait: brings the device up to date, so that a part pays for the work that it started.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._wait = wait
        self._running: list[str] = []
        self._mark = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as `name`."""
        self._turn_over()
        self._running.append(name)
        try:
            yield
        finally:
            self._turn_over()
            self._running.pop()

    @contextmanager
    def watching(self, spans: Sequence[Span]) -> Iterator[None]:
        """Count every call of `spans` until the end of the block."""
        with ExitStack() as stack:
            for span in spans:
                timed = self._timed(getattr(span.owner, span.attribute), span.part)
                stack.enter_context(patch.object(span.owner, span.attribute, timed))
            yield

    def _timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return timed

    def _turn_over(self) -> None:
        self._wait()
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._mark
        self._mark = now
