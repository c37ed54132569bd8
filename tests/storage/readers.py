"""python -m tests.storage.readers METHOD URL FOLDER: reads in processes that are started by METHOD, as a run does.

The parent fetches a manifest apart, starts two workers with a store, a cache and a board, and compares. It is a process
of its own, because the one that runs the tests has used obstore. The other functions are the work of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from typing import Any

from silc.errors import StoreFailed
from silc.storage import Board, NodeCache, Range, fetch_apart, open_store
from tests.storage.servers import SHORT

Versions = dict[str, str]


def work(store: Any, asked: list[Range], answers: Any, end: str) -> None:
    try:
        answers.put(store.read(asked))
        store.close()
    except (StoreFailed, RuntimeError) as error:
        answers.put(f"{type(error).__name__}: {error}")
    if end == "killed":
        answers.close()
        answers.join_thread()
        os.kill(os.getpid(), signal.SIGKILL)


def main(method: str, url: str, folder: str) -> None:
    manifest = fetch_apart(f"{url}/list", 1000)
    addresses = [f"{url}/{name}" for name in manifest.decode().split()]
    assert "obstore" not in sys.modules
    assert "torch" not in sys.modules
    context = multiprocessing.get_context(method)
    board = Board(2)
    cache = NodeCache(folder, 1 << 20, dict.fromkeys(addresses, "v"), page=4096)
    asked = [Range(address, i, 100 * i + 100) for i, address in enumerate(addresses)]
    answers = context.Queue()
    workers = []
    for number, end in enumerate(("", "killed")):
        store = open_store(patience=20, board=board, worker=number, limits=SHORT, cache=cache if number else None)
        workers.append(context.Process(target=work, args=(store, asked, answers, end)))
        workers[-1].start()
    found = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL]
    assert found[0] == found[1], found
    assert [len(data) for data in found[0]] == [wanted.stop - wanted.start for wanted in asked]
    totals = board.totals()
    assert totals.ranges == 2 * len(asked), totals
    assert totals.bytes_read > sum(map(len, found[0])), totals
    print("equal", found[0][0][:10].hex(), "waiting", board.waiting())
    if method == "fork":  # a parent that has used obstore: said, where obstore would hang
        open_store(limits=SHORT).read(asked[:1])
        child = context.Process(target=work, args=(open_store(limits=SHORT), asked, answers, ""))
        child.start()
        print(answers.get(timeout=60))
        child.join(60)


def hold(folder: str, address: str, ready: str, kill: bool) -> None:
    """Fetch a page of a NodeCache and hang meanwhile."""
    cache = NodeCache(folder, 1 << 20, {address: "v"}, page=4096)

    def fetch(ranges: Any) -> list[bytes]:
        open(ready, "w").close()
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
        return []

    cache.read([Range(address, 0, 10)], fetch)


def fill(folder: str, seed: int, limit: int, count: int) -> None:
    """Read many pages through a NodeCache."""
    cache = NodeCache(folder, limit, lambda address: "v", page=4096)
    for i in range(count):
        asked = [Range(f"s3://b/{(seed + i * j) % 97}", 10 * j, 10 * j + 9000) for j in range(1, 5)]
        found = cache.read(asked, generate)
        assert found == generate(asked)


def generate(ranges: Any) -> list[bytes]:
    """The bytes of objects of 20,000 bytes, made from their addresses."""
    return [(r.address[-2:].encode() * 10_000)[r.start : r.stop] for r in ranges]


if __name__ == "__main__":
    main(*sys.argv[1:])
