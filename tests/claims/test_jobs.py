"""Runs side by side: so many at a time, in order, and all of them stopped together."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

import pytest

from silc.claims import jobs
from silc.errors import STOPPED_BY_SIGNAL

SAVES = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1] + ".saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_so_many_at_a_time_begun_in_order(at_a_time):
    lock, begun, now, most = threading.Lock(), [], [], []

    def work(number):
        def one():
            with lock:
                begun.append(number)
                now.append(number)
                most.append(len(now))
            time.sleep(0.05)
            with lock:
                now.remove(number)
            return number

        return one

    found = list(jobs.side_by_side(at_a_time, [work(number) for number in range(7)], lambda: pytest.fail("stopped")))
    assert sorted(found) == begun == list(range(7))
    assert max(most) == at_a_time


def test_leaving_early_begins_no_more_and_stops_what_runs():
    stop, begun = threading.Event(), []

    def quick():
        return "quick"

    def slow():
        begun.append(1)
        assert stop.wait(30)
        return "slow"

    with contextlib.closing(jobs.side_by_side(2, [slow, quick, slow], stop.set)) as results:
        assert next(results) == "quick"
    assert stop.is_set()
    assert len(begun) == 1


def test_an_error_of_the_work_is_the_callers():
    with pytest.raises(OSError, match="no room"):
        list(jobs.side_by_side(2, [lambda: (_ for _ in ()).throw(OSError("no room"))], lambda: None))


def test_a_stop_reaches_every_process_and_begins_none_any_more(tmp_path):
    processes, statuses = jobs.Processes(), []
    names = [str(tmp_path / name) for name in "ab"]

    def run(name):
        statuses.append(processes.run([sys.executable, "-c", SAVES, name], dict(os.environ)))

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while not all(os.path.exists(name) for name in names):
        assert time.monotonic() < deadline, "they never began"
        time.sleep(0.05)
    processes.stop()
    for thread in threads:
        thread.join(60)
    assert statuses == [STOPPED_BY_SIGNAL] * 2
    assert all(os.path.exists(f"{name}.saved") for name in names)
    assert processes.run([sys.executable, "-c", "open('x', 'w')"], dict(os.environ)) == STOPPED_BY_SIGNAL


def test_output_goes_to_a_log_whose_end_can_be_shown(tmp_path):
    log = tmp_path / "logs" / "run.log"
    for _ in range(2):
        words = [sys.executable, "-c", "import sys; print('\\n'.join(map(str, range(99)))); sys.exit('a mistake')"]
        assert jobs.Processes().run(words, dict(os.environ), log) == 1
    assert log.read_text().count("a mistake") == 2
    assert jobs.tail(log).splitlines()[-1] == "a mistake"
    assert len(jobs.tail(log).splitlines()) == jobs.TAIL


def test_a_status_is_that_of_the_process():
    assert jobs.Processes().run([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ)) == 3
