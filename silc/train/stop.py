"""Signals that ask a run to stop: SIGINT, SIGTERM and SIGUSR1, answered by all ranks together at a step's end."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch

from silc.distributed import all_reduce_max_

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


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

    def agreed(self, device: torch.device) -> signal.Signals | None:
        """The signal that any rank received; the same on every rank (collective, one number).

        A launcher may reach some ranks and not others, and a rank that stopped alone would leave the rest waiting.
        """
        number = int(all_reduce_max_(torch.tensor(float(self._received), device=device)))
        return signal.Signals(number) if number else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
