"""Signals that ask for the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from silc.train import stop
from silc.train.stop import SIGNALS, StartInterrupted, StopRequest, undisturbed


@pytest.fixture(autouse=True)
def a_terminal():
    """SIGHUP is not ignored, as under nohup, where a StopRequest leaves it alone."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


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


def write(done: list[str]) -> None:
    """Something that is interrupted meanwhile."""
    with undisturbed():
        with undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("inner")
        done.append("outer")


def test_an_interrupt_waits_for_what_is_written():
    done = []
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            write(done)
    assert done == ["inner", "outer"]
    with undisturbed():  # without a request, as in a program of one's own
        done.append("alone")
    assert done[-1] == "alone"


def test_a_request_inside_another_is_the_same_one():
    with StopRequest() as outer:
        with StopRequest() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner is outer
        os.kill(os.getpid(), signal.SIGTERM)  # still remembered
        assert outer.agreed() == "SIGTERM"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_start_is_interrupted_at_once_and_only_once(number):
    with StopRequest(starting=True):
        with pytest.raises(StartInterrupted, match=f"^{number.name}$"):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # what is cleaned up is not interrupted


def test_a_signal_that_a_library_kept_back_ends_the_start_when_it_is_over():
    with StopRequest(starting=True) as request:
        with contextlib.suppress(BaseException):  # as some libraries do
            os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(StartInterrupted, match="SIGUSR1"):
            request.started()


def test_a_late_second_signal_is_answered_once(monkeypatch, capfd):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with StopRequest():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the same wish
        assert capfd.readouterr().err == ""
        monkeypatch.setattr(stop, "ONE_WISH", -1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == "SIGTERM: the run is stopping already, since SIGUSR1\n"


def test_the_end_of_a_launcher_is_a_reason_of_its_own():
    with StopRequest() as request:
        thread = threading.Thread(target=request.lose, args=("a launcher",))
        thread.start()
        thread.join()
        assert request.agreed() == "the end of its launcher"


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not request.received
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("starting", "status"), [(True, 128 + signal.SIGTERM), (False, 0)])
def test_a_fork_that_has_no_handlers_yet_neither_raises_nor_stops_its_parent(starting, status):
    """As a process that renders the sample set, and a data worker in its first moment."""
    with StopRequest(starting=starting) as request:
        child = os.fork()
        if not child:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
        assert not request.received


def test_another_rank_than_the_first_is_ended_while_it_defers():
    """By the launcher, which has seen the first one leave: it would say the same once more."""
    code = "from silc.errors import defer_to_first_rank; from silc.train.stop import StopRequest\n"
    code += "with StopRequest():\n    print(flush=True)\n    defer_to_first_rank()\n    print('the same', flush=True)"
    env = os.environ | {"LOCAL_RANK": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as rank:
        rank.stdout.readline()
        while rank.poll() is None:
            rank.terminate()
            time.sleep(0.05)
        assert rank.stdout.read() == ""
    assert rank.returncode == -signal.SIGTERM
