"""What servers do wrong: bytes are right all the same, or StoreFailed says what happened."""

from __future__ import annotations

import dataclasses
import os
import random
import threading
import time

import pytest

from silc.storage import Board, Range, StoreFailed, list_tars, open_store, put, read_whole, stat
from tests.storage.servers import SHORT, Answer, Faults, Server, WebServer

DATA = random.Random(0).randbytes(300_000)
MIXED = Faults(drop=0.05, stall=0.02, error=0.05, cut=0.03, longer=0.02, statuses=(500, 503, 429), seed=1)


@pytest.fixture(params=["web", "s3"])
def faulty(request):
    """(address of an object that holds DATA, its server)."""
    if request.param == "web":
        server = request.getfixturevalue("web")
        (server.folder / "x.tar").write_bytes(DATA)
        return server.address("x.tar"), server
    bucket = request.getfixturevalue("faulty_s3")
    put(bucket.address("x.tar"), DATA)
    return bucket.address("x.tar"), bucket.server


def some_ranges(address: str, count: int) -> list[Range]:
    rng = random.Random(count)
    starts = [rng.randrange(len(DATA) - 5) for _ in range(count)]
    return [Range(address, start, start + rng.randrange(2, 3000)) for start in starts]


def test_all_bytes_are_right_in_spite_of_faults(faulty):
    address, server = faulty
    server.faults = MIXED
    board = Board(1)
    asked = some_ranges(address, 400)
    found = open_store(patience=60, board=board, limits=SHORT).read(asked)
    assert found == [DATA[wanted.start : wanted.stop] for wanted in asked]
    assert all(server.counts[kind] for kind in ("drop", "stall", "error", "cut", "longer"))
    totals = board.totals()
    assert totals.retries >= sum(server.counts[kind] for kind in Faults.KINDS)
    assert (totals.ranges, totals.bytes_read) == (400, sum(map(len, found)))
    assert 0 < totals.seconds < 60
    assert board.waiting() == []


def test_whole_objects_and_lists_in_spite_of_faults(faulty_s3):
    faulty_s3.server.faults = Faults(error=0.4, drop=0.1, methods=("GET", "HEAD", "PUT"), seed=3)
    for i in range(12):
        data = DATA[i : 7 * i + 5]
        put(faulty_s3.address(f"{i}.tar"), data, limits=SHORT)
        assert stat(faulty_s3.address(f"{i}.tar"), limits=SHORT).size == len(data)
        assert read_whole(faulty_s3.address(f"{i}.tar"), 1000, limits=SHORT) == data
    assert len(list_tars(faulty_s3.address(), limits=SHORT)) == 12
    assert faulty_s3.server.counts["error"] > 5
    assert faulty_s3.server.counts["drop"] > 1


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(error=1.0), "503 Service Unavailable"),
        (Faults(error=1.0, statuses=(429,)), "429 Too Many Requests"),
        (Faults(cut=1.0), r"the answer was cut short: \d+ of 100 bytes"),
        (Faults(longer=1.0), "the server sent more bytes than were asked for"),
        (Faults(drop=1.0), "the (answer was cut short|connection broke off)"),
        (Faults(stall=1.0), "timed out"),
        (Faults(trickle=1.0), "timed out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_goes_on_failing_is_said(web, faults, words):
    (web.folder / "x.tar").write_bytes(DATA)
    web.faults = faults
    limits = dataclasses.replace(SHORT, request=0.9)
    tries = r"(\d+ tries|1 try)"
    message = rf"^{web.address('x.tar')} could not be read for \d s \({tries}, last: {words}.*\); check the store$"
    with pytest.raises(StoreFailed, match=message):
        open_store(patience=0.7, limits=limits).read([Range(web.address("x.tar"), 0, 100)])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_refused_fails_after_a_few_tries(faulty, status):
    address, server = faulty
    server.faults = Faults(error=1.0, statuses=(status,))
    began = time.monotonic()
    with pytest.raises(StoreFailed, match=rf"{address} could not be read \(4 tries, last: {status} \w+.*; check the "):
        open_store(patience=600, limits=SHORT).read([Range(address, 0, 9)])
    assert time.monotonic() - began < 60
    assert server.counts["error"] == 4


def test_what_is_refused_once_is_asked_again(faulty):
    address, server = faulty
    server.faults = Faults(error=0.4, statuses=(403, 404), seed=2)
    asked = some_ranges(address, 12)
    limits = dataclasses.replace(SHORT, refused=12)
    assert open_store(patience=60, limits=limits).read(asked) == [DATA[a:b] for _, a, b in asked]
    assert server.counts["error"] > 1


def test_an_object_that_is_not_there_is_named(web, s3):
    for address in (web.address("none.tar"), s3.address("none.tar")):
        with pytest.raises(
            StoreFailed, match=rf"{address} could not be read \(4 tries, last: 404 Not Found.*; check the"
        ):
            open_store(patience=600, limits=SHORT).read([Range(address, 0, 9)])
    with pytest.raises(StoreFailed, match=r"s3://nowhere-x could not be listed \(.*check the name of the bucket"):
        list_tars("s3://nowhere-x", limits=SHORT)


def test_a_dead_store_stops_the_run_within_its_patience(faulty):
    address, server = faulty
    store, board = open_store(patience=1.0, limits=SHORT), Board(2)
    assert store.read([Range(address, 3, 8)]) == [DATA[3:8]]
    server.die()
    with pytest.raises(
        StoreFailed, match=rf"{address} could not be read for \d s \(\d+ tries, last: connection refused"
    ):
        store.read(some_ranges(address, 100))
    seen = []
    waiter = open_store(patience=60.0, limits=SHORT, board=board, worker=1)
    reader = threading.Thread(target=lambda: seen.extend(waiter.read([Range(address, 3, 8)])))
    reader.start()
    while not (waiting := board.waiting()):
        time.sleep(0.01)
    assert waiting[0].worker == 1
    assert address.endswith(waiting[0].address.removeprefix("..."))
    assert waiting[0].words == "connection refused"
    assert waiting[0].tries >= 1
    server.revive()
    reader.join(60)
    assert seen == [DATA[3:8]]
    assert board.waiting() == []
    assert board.totals().seconds > 0


def test_one_failure_ends_the_other_waits(web):
    """A range that fails for good is not kept by those that are still tried."""
    (web.folder / "x.tar").write_bytes(DATA)
    store = open_store(patience=600, limits=SHORT)
    began = time.monotonic()
    with WebServer(web.folder, Faults(error=1.0)) as other, pytest.raises(StoreFailed, match="404"):
        store.read([Range(web.address("none.tar"), 0, 5), *some_ranges(other.address("x.tar"), 100)])
    assert time.monotonic() - began < 60
    assert store.read([Range(web.address("x.tar"), 0, 5)]) == [DATA[:5]]


@pytest.mark.parametrize(("requests", "size"), [(64, 64 << 20), (5, 64 << 20), (64, 9000)])
def test_ranges_are_asked_for_together_within_limits(web, requests, size):
    (web.folder / "x.tar").write_bytes(DATA)
    lock, now, most = threading.Lock(), [], [0, 0]

    class Counting(WebServer):
        def answer(self, method, path, headers, body):
            answer = super().answer(method, path, headers, body)
            with lock:
                now.append(len(answer.body))
                most[:] = max(most[0], len(now)), max(most[1], sum(now))
            time.sleep(0.05)
            with lock:
                now.remove(len(answer.body))
            return answer

    limits = dataclasses.replace(SHORT, stall=20, request=40, requests=requests, bytes=size, piece=4000)
    with Counting(web.folder) as server:
        asked = [*some_ranges(server.address("x.tar"), 150), Range(server.address("x.tar"), 5, 50_005)]
        found = open_store(patience=60, limits=limits).read(asked)
    assert found == [DATA[wanted.start : wanted.stop] for wanted in asked]
    assert 3 <= most[0] <= requests
    assert most[1] <= max(size, 4000)
    assert most[0] >= 16 or requests == 5 or size == 9000


def test_an_object_that_is_cut_between_its_pieces_is_said_to_change(web):
    """The pieces of a range come from an object that has meanwhile become shorter, and longer again."""
    (web.folder / "x").write_bytes(DATA)

    class Changing(WebServer):
        def answer(self, method, path, headers, body):
            os.truncate(self.folder / "x", 1500 if headers.get("Range", "").startswith("bytes=1000-") else 5000)
            found = super().answer(method, path, headers, body)
            return found

    limits = dataclasses.replace(SHORT, piece=1000, requests=1)
    with Changing(web.folder) as server, pytest.raises(StoreFailed, match=r"changed while it was read|cut short"):
        open_store(patience=1, limits=limits).read([Range(server.address("x"), 0, 4000)])


class Odd(Server):
    """Answers ranges in ways of its own."""

    def __init__(self, headers: dict[str, str], status: int = 206) -> None:
        super().__init__()
        self._answer = Answer(status, headers, b"0123456789")

    def answer(self, method, path, headers, body):
        return self._answer


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (200, {"Content-Length": "10"}, "the server answers no ranges"),
        (206, {"Content-Length": "10"}, "the server tells no Content-Range"),
        (206, {"Content-Length": "10", "Content-Range": "bytes 5-14/50"}, "other bytes than were asked for"),
        (301, {"Content-Length": "10"}, "301 Moved Permanently|redirected to nowhere"),
        (501, {"Content-Length": "10"}, "501 Not Implemented"),
    ],
)
def test_odd_servers_are_described(status, headers, words):
    with Odd(headers, status) as server, pytest.raises(StoreFailed, match=words):
        open_store(patience=0.5, limits=SHORT).read([Range(f"{server.url}/x", 0, 10)])


def test_a_flood_is_not_taken():
    """A body of a gigabyte for ten bytes: the connection is given up."""

    class Flood(WebServer):
        sent = 0

        def _flood(self, handler) -> None:
            handler.send_response_only(206)
            handler.send_header("Content-Range", "bytes 0-9/50")
            handler.send_header("Content-Length", str(1 << 40))
            handler.end_headers()
            while Flood.sent < 1 << 30:
                handler.wfile.write(bytes(1 << 20))
                Flood.sent += 1 << 20

    with Flood("/") as server:
        server._server.RequestHandlerClass.do_GET = lambda handler: server._flood(handler)
        with pytest.raises(StoreFailed, match="more bytes than were asked for"):
            open_store(patience=0.01, limits=SHORT).read([Range(f"{server.url}/x", 0, 10)])
    assert Flood.sent < 1 << 27


def test_an_object_that_changes_meanwhile_is_read_again_as_a_whole(web):
    versions = [b"first" * 1000, b"second" * 1000]

    class Changing(WebServer):
        def answer(self, method, path, headers, body):
            if method == "GET" and len(versions) > 1:
                versions.pop(0)
            (self.folder / "x").write_bytes(versions[0])
            self.etags["x"] = str(len(versions))
            return super().answer(method, path, headers, body)

    with Changing(web.folder) as server:
        assert read_whole(server.address("x"), 10_000, limits=SHORT) == b"second" * 1000


def test_a_dead_name_is_not_waited_for_long():
    with pytest.raises(StoreFailed, match=r"last: (the name of its host is not known|no connection|timed out)"):
        read_whole("http://nosuchhost.invalid/x", 5, patience=0.3, limits=SHORT)
