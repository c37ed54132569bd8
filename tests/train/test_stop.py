"""Signals that ask for the end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from silc.train.stop import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_handlers_come_back(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    with StopRequest() as request:
        assert request.agreed() is False
        assert not request.received
        os.kill(os.getpid(), number)
        assert request.received
        assert request.agreed() == number.name
        os.kill(os.getpid(), signal.SIGTERM)  # the launcher's, behind the terminal's SIGINT
        assert request.agreed() == number.name
        assert request.agreed(failed=True) is True
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_another_thread_than_the_main_one_leaves_signals_alone():
    """As a notebook's worker; Python refuses to set a handler there."""
    before = [signal.getsignal(one) for one in SIGNALS]
    seen = []

    def work():
        with StopRequest() as request:
            seen.extend([request.agreed(), [signal.getsignal(one) for one in SIGNALS]])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]


def test_a_second_interrupt_interrupts():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
