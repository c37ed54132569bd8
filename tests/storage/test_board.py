"""The board: what is noted is what is read, by whichever process."""

from __future__ import annotations

import multiprocessing
import threading
import time

import pytest

from silc.storage import Board, Totals
from silc.storage.board import ADDRESS, WORDS


def test_totals_are_sums():
    board = Board(3)
    assert board.totals() == Totals(0, 0.0, 0, 0, 0, 0)
    board.notes(0).add(ranges=2, bytes_read=30, bytes_used=20)
    board.notes(2).add(ranges=1, bytes_read=5, bytes_cached=7)
    board.notes(2).add(bytes_used=4)
    assert board.totals() == Totals(bytes_read=35, bytes_used=24, ranges=3, bytes_cached=7)
    assert Board(0).totals() == Totals()
    with pytest.raises(IndexError, match="3 slots, there is no slot 3"):
        board.notes(3)


def test_the_longest_wait_of_each_reader_is_shown():
    board, now = Board(3), time.monotonic()
    notes = board.notes(1)
    notes.wait("a", "s3://bucket/" + "x" * 100 + "/a.tar", "503 Service Unavailable" * 9, 3, now - 10)
    notes.wait("b", "s3://bucket/b.tar", "timed out", 1, now - 20)
    board.notes(2).wait("c", "/ä/€/c.tar", "x", 7, now - 5)
    first, second = board.waiting()
    assert (first.worker, first.address, first.words, first.tries) == (1, "s3://bucket/b.tar", "timed out", 1)
    assert 20 <= first.seconds < 60
    assert second[:4] == (2, "/ä/€/c.tar", "x", 7)
    notes.done("b")
    first = board.waiting()[0]
    assert first.address.endswith("x/a.tar")
    assert len(first.address) <= ADDRESS
    assert len(first.words) <= WORDS
    notes.done("a")
    notes.done("a")
    board.notes(2).done("c")
    assert board.waiting() == []
    totals = board.totals()
    assert totals.retries == 3
    assert 15 <= totals.seconds < 100  # 10 s together with the 20 s that the other waited, and 5 s


def test_notes_of_many_threads_are_all_counted():
    board = Board(1)

    def note() -> None:
        for i in range(300):
            board.notes(0).add(ranges=1, bytes_read=i)
            board.notes(0).wait(threading.get_ident(), "x", "y", i, 1.0)
            board.notes(0).done(threading.get_ident())

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals = board.totals()
    assert (totals.ranges, totals.bytes_read, totals.retries) == (1200, 4 * sum(range(300)), 1200)
    assert board.waiting() == []


def _note(board: Board, worker: int, count: int) -> None:
    notes = board.notes(worker)
    for i in range(count):
        notes.wait("k", f"{i:05}" * 9, f"{i:05}", i, 1.0 + i)
        notes.add(ranges=1)
    if worker:
        notes.done("k")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_other_processes_note_is_read(method):
    context = multiprocessing.get_context(method)
    board = Board(2)
    processes = [context.Process(target=_note, args=(board, worker, 3000)) for worker in range(2)]
    for process in processes:
        process.start()
    looked = 0
    while any(process.is_alive() for process in processes):
        for waiting in board.waiting():  # never half of one note and half of another
            assert waiting.address == f"{waiting.tries:05}" * 9
            assert waiting.words == f"{waiting.tries:05}"
            looked += 1
    for process in processes:
        process.join()
    assert looked
    assert board.totals().ranges == 6000
    (left,) = board.waiting()  # by a worker that ended while it waited
    assert (left.worker, left.tries) == (0, 2999)
    board.notes(0)  # its successor
    assert board.waiting() == []
    assert board.totals().ranges == 6000


def test_a_writer_that_was_killed_does_not_block():
    board = Board(1)
    board.notes(0).add(ranges=3)
    board._memory[0] |= 1  # killed between the two marks
    assert board.totals().ranges == 3
    board.notes(0).add(ranges=1)
    assert board.totals().ranges == 4
    assert board._memory[0] % 2 == 0
