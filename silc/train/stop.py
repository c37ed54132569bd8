"""What ends a run between two steps, for all ranks together: SIGINT, SIGTERM and SIGUSR1, or a rank without data."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from silc.distributed import largest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_FAILED = 1 << 16  # larger than any signal's number, so that it wins


class StopRequest:
    """Within this context a stop signal is remembered, not obeyed; a second SIGINT interrupts as ever.

    SIGTERM may come twice without a meaning: DeepSpeed's launcher sends it after the terminal's SIGINT. Python lets the
    main thread alone set handlers: in another one, a notebook's worker say, signals do what they did before.
    """

    def __init__(self) -> None:
        self._received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def received(self) -> bool:
        """Whether this rank has received a signal."""
        return self._received != 0

    def agreed(self, *, failed: bool = False) -> signal.Signals | bool:
        """What the ranks do, the same on every rank (collective, one number on the host): True when any of them has
        failed, else the signal that any received, else False.

        A launcher may reach some ranks and not others, and a rank that stopped alone would leave the rest waiting. The
        host answers, not the device, so that a GPU goes on with the step before.
        """
        number = largest(_FAILED if failed else self._received)
        return True if number == _FAILED else signal.Signals(number) if number else False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
