"""What ends a run between two steps, for all ranks together: a stop signal, the end of a launcher, a rank without data.

This module loads neither torch nor DeepSpeed: a rank can be stopped while it imports them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, ClassVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
ONE_WISH = 2.0  # seconds: a terminal, a launcher and other ranks may each send a signal for one and the same wish
# What ranks exchange, of which the largest is the reason given: SIGTERM comes from other ranks and launchers too.
_CODES = [0, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT]
_LOST, _FAILED = len(_CODES), len(_CODES) + 1


class StartInterrupted(KeyboardInterrupt):
    """A signal asked for the end before the first step: nothing is to be saved. Its text is the signal's name."""


class StopRequest:
    """Within this context a stop signal is remembered, not obeyed; a second SIGINT interrupts as ever.

    A context within another one is the same one. SIGTERM may come twice without a meaning: DeepSpeed's launcher sends
    it after the terminal's SIGINT. SIGHUP counts unless it is ignored, as under nohup. Python lets the main thread
    alone set handlers: in another one, a notebook's worker say, signals do what they did before.

    Args:
        starting: whether a signal raises StartInterrupted in the main thread until :meth:`started` is called.

    Attributes:
        starting: the same, now.
        lost: the launcher that has ended, where that is why the run stops.
        writing, late: of :func:`undisturbed`: how deep it stands, and whether an interrupt waits for its end.
        entered: the request of this process.
    """

    entered: ClassVar[StopRequest | None] = None

    def __init__(self, *, starting: bool = False) -> None:
        self.starting = starting
        self.lost: str | None = None
        self._received, self._interrupts, self._first = 0, 0, 0.0
        self.writing, self.late, self._said = 0, False, False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if StopRequest.entered is not None:
            return StopRequest.entered
        if threading.current_thread() is threading.main_thread():
            # A shell has its background jobs ignore SIGINT; what is sent to this very process is meant.
            taken = [one for one in SIGNALS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in taken}
        StopRequest.entered = self
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if StopRequest.entered is self:
            StopRequest.entered = None
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

    def started(self) -> None:
        """From now on a signal is remembered. Raises StartInterrupted where one came before, and went unheard."""
        self.starting = False
        if self._received:
            raise StartInterrupted(self._name())

    @property
    def received(self) -> bool:
        """Whether this rank has received a signal."""
        return self._received != 0

    def agreed(self, *, failed: bool = False) -> str | bool:
        """What the ranks do, the same on every rank (collective, one number on the host): True when any of them has
        failed, else the name of the signal that any received, else False.

        A launcher may reach some ranks and not others, and a rank that stopped alone would leave the rest waiting. The
        host answers, not the device, so that a GPU goes on with the step before.
        """
        from silc.distributed import largest

        number = largest(_FAILED if failed else self._code())
        return number == _FAILED if number in (0, _FAILED) else _name(number)

    def lose(self, launcher: str) -> None:
        """Stop for the end of a launcher; from any thread."""
        self.lost = launcher
        signal.raise_signal(signal.SIGTERM) if _in_main() else os.kill(os.getpid(), signal.SIGTERM)

    def _code(self) -> int:
        return _LOST if self._received and self.lost is not None else _CODES.index(self._received)

    def _name(self) -> str:
        return _name(self._code())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork that has no handlers of its own yet
            if self.starting:
                os._exit(128 + number)
            return
        self._interrupts += number == signal.SIGINT
        if not self._received:
            self._received, self._first = number, time.monotonic()
            if self.starting:
                raise StartInterrupted(self._name())
        elif self._interrupts > 1 and number == signal.SIGINT and not self.starting:
            if not self.writing:
                raise KeyboardInterrupt
            self.late = True
            say("interrupted: the checkpoint is written to its end first")
        elif time.monotonic() - self._first > ONE_WISH and not self._said:
            self._said = True
            say(f"{signal.Signals(number).name}: the run is stopping already, since {self._name()}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """What is written inside is written to its end, whatever comes; a second SIGINT interrupts afterwards."""
    request = StopRequest.entered
    if request is None:
        yield
        return
    request.writing += 1
    try:
        yield
    finally:
        request.writing -= 1
    if request.late and not request.writing:
        request.late = False
        raise KeyboardInterrupt


def _name(code: int) -> str:
    return "the end of its launcher" if code == _LOST else signal.Signals(_CODES[code]).name


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def say(text: str) -> None:
    """One line on the standard error, from a handler or another thread too, of the first rank of a machine alone."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode())


def ignore_signals() -> None:
    """At the end of a process of its own: a launcher's late signal must not change the status of what is done."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
