"""Servers on this machine that tests read from, and their faults.

    WebServer(folder)    files by HTTP, with ranges
    S3Server()           npm's s3rver, installed below the user's cache folder at its first use
    Proxy(port)          hands on to another server

WebServer and Proxy have `faults`, `counts`, `die()` and `revive()`. All are context managers; fixtures.py has them as
`web`, `s3` and `faulty_s3`. SHORT are limits that fit to their faults.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pytest

from silc.storage import Limits

S3RVER = "3.7.1"
REQUIRED = "SILC_SERVERS_REQUIRED"
BUCKETS = ("bucket", "other-bucket")
SHORT = Limits(connect=4, stall=2, request=8, first_pause=0.01, longest_pause=0.05, absent=0.2)


@dataclass
class Faults:
    """Shares of the answers that go wrong. Which ones is a function of the seed, the request, and how often it came.

    drop: the connection breaks off in the middle of the body; stall: it stops there for `stalled` seconds; error: a
    status of `statuses` instead; cut: half of the body, with a Content-Length that says so; trickle: a byte every
    `trickled` seconds; longer: more bytes than were asked for.
    """

    drop: float = 0.0
    stall: float = 0.0
    error: float = 0.0
    cut: float = 0.0
    trickle: float = 0.0
    longer: float = 0.0
    statuses: tuple[int, ...] = (503,)
    stalled: float = 5.0
    trickled: float = 0.2
    methods: tuple[str, ...] = ("GET",)
    seed: int = 0

    KINDS = ("drop", "stall", "error", "cut", "trickle", "longer")

    def choose(self, *request: object) -> tuple[str | None, float]:
        """The kind of fault of a request, or None; and a number in [0, 1) for its details."""
        digest = hashlib.sha256(repr((self.seed, request)).encode()).digest()
        u, v = (int.from_bytes(digest[i : i + 6], "big") / 2**48 for i in (0, 6))
        for kind in self.KINDS:
            if u < (share := getattr(self, kind)):
                return kind, v
            u -= share
        return None, v


class Answer(NamedTuple):
    """status, headers, and a body, whose length has to be among the headers."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Server(ABC):
    """A server with faults; subclasses say what it answers."""

    def __init__(self, faults: Faults | None = None, latency: float = 0.0) -> None:
        self.faults, self.latency = faults or Faults(), latency
        self.counts: Counter[str] = Counter()  # requests by method, faults by kind, bytes of bodies
        self._seen: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server: Any = None
        self.port = 0

    @abstractmethod
    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer without its faults."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Any:
        self.revive()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def revive(self) -> None:
        """Serve, after `die` on the same port again."""
        owner = self

        class Handler(_Handler):
            server_of_tests = owner

        self._server = _Listener(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Refuse connections, and break off those that there are."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def count(self, **more: int) -> None:
        with self._lock:
            self.counts.update(more)

    def fault(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[str | None, float]:
        if method not in self.faults.methods:
            return None, 0.0
        # The name without its folders, which differ from test run to test run.
        request = (method, path.partition("?")[0].rpartition("/")[2], headers.get("Range", ""))
        with self._lock:
            self._seen[request] += 1
            times = self._seen[request]
        return self.faults.choose(*request, times)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server_of_tests: Server

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        with self.server_of_tests._lock:
            self.server_of_tests._open.add(self.connection)

    def finish(self) -> None:
        with self.server_of_tests._lock:
            self.server_of_tests._open.discard(self.connection)
        super().finish()

    def handle_any(self) -> None:
        owner = self.server_of_tests
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        owner.count(**{self.command: 1})
        kind, detail = owner.fault(self.command, self.path, self.headers)
        if owner.latency:
            time.sleep(owner.latency)
        answer = owner.answer(self.command, self.path, self.headers, body)
        if kind is not None and (kind == "error" or answer.body):
            owner.count(**{kind: 1})
            self._misbehave(kind, detail, answer)
        else:
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def _send(self, answer: Answer, body: bytes | None = None) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = answer.body if body is None else body
        self.server_of_tests.count(bytes=len(body))  # before the client has them and looks at the counts
        self.wfile.write(body)
        self.wfile.flush()

    def _misbehave(self, kind: str, detail: float, answer: Answer) -> None:
        faults = self.server_of_tests.faults
        half = answer.body[: int(detail * len(answer.body))]
        if kind == "error":
            status = faults.statuses[int(detail * len(faults.statuses))]
            text = f"<Error><Code>SlowDown</Code><Message>{dict(self.headers)}</Message></Error>".encode()
            self._send(Answer(status, {"Content-Length": str(len(text))}, b"" if self.command == "HEAD" else text))
        elif kind in ("cut", "longer"):
            body = half if kind == "cut" else answer.body + b"more"
            self._send(answer._replace(headers=answer.headers | {"Content-Length": str(len(body))}), body)
        elif kind == "trickle":
            self._send(answer, b"")
            for byte in answer.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(faults.trickled)
        else:
            self._send(answer, half)
            if kind == "stall":
                time.sleep(faults.stalled)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class WebServer(Server):
    """Serves the files of a folder.

    etags: path relative to the folder -> etag, in place of the one made of mtime and size.
    """

    def __init__(self, folder: str | Path, faults: Faults | None = None, latency: float = 0.0) -> None:
        super().__init__(faults, latency)
        self.folder, self.etags = Path(folder), dict[str, str]()

    def address(self, name: str) -> str:
        return f"{self.url}/{quote(name)}"

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        name = unquote(path.partition("?")[0]).lstrip("/")
        file = self.folder / name
        if method not in ("GET", "HEAD"):
            return Answer(405, {"Content-Length": "0"})
        if ".." in file.parts or not file.is_file():
            return Answer(404, {"Content-Length": "0"})
        found = file.stat()
        etag = self.etags.get(name, f"{found.st_mtime_ns:x}-{found.st_size:x}")
        told = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT"}
        if method == "HEAD":
            return Answer(200, told | {"Content-Length": str(found.st_size)})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2]) if asked and asked[2] else found.st_size - 1, found.st_size - 1)
        if asked and first >= found.st_size:
            return Answer(416, {"Content-Range": f"bytes */{found.st_size}", "Content-Length": "0"})
        with file.open("rb") as opened:
            opened.seek(first)
            data = opened.read(last - first + 1)
        told["Content-Length"] = str(len(data))
        if asked:
            told["Content-Range"] = f"bytes {first}-{last}/{found.st_size}"
        return Answer(206 if asked else 200, told, data)


class Proxy(Server):
    """Hands requests on to the server at a port of this machine."""

    def __init__(self, port: int, faults: Faults | None = None, latency: float = 0.0) -> None:
        super().__init__(faults, latency)
        self.upstream = port

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():  # Host too: it is signed
                if name.lower() not in ("connection", "expect", "transfer-encoding"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            told = {n: v for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")}
            if method != "HEAD":
                told |= {"Content-Length": str(len(data))}
            return Answer(answer.status, told, data)
        finally:
            connection.close()


# s3rver answers that an object is stored before it is, takes bytes=0-0 for all bytes, and finds one in an empty object.
# Here it is as in a store: an object is whole or absent, and its ranges are right.
_S3_SCRIPT = """
const {createHash} = require('crypto');
const fs = require('fs/promises');
const path = require('path');
const Server = require('s3rver');
const Store = require('s3rver/lib/stores/filesystem');
Store.prototype.putObject = async function (object) {
  const parts = Buffer.isBuffer(object.content) ? [object.content] : [];
  if (!parts.length) for await (const part of object.content) parts.push(part);
  const data = Buffer.concat(parts);
  const md5 = createHash('md5').update(data).digest('hex');
  const file = this.getResourcePath(object.bucket, object.key, 'object');
  await fs.mkdir(path.dirname(file), {recursive: true});
  await this.putMetadata(object.bucket, object.key, object.metadata, md5);
  await fs.writeFile(file + '.draft', data);
  await fs.rename(file + '.draft', file);
  return {size: data.length, md5};
};
const get = Store.prototype.getObject;
Store.prototype.getObject = async function (bucket, key, options) {
  if (options && options.end === 0) options.end = new Number(0);
  const empty = async () => Number((await this.getMetadata(bucket, key))['content-length']) === 0;
  if (options && options.start !== undefined && await empty().catch(() => false)) options = {start: Infinity};
  return get.call(this, bucket, key, options);
};
const [, , directory, buckets] = process.argv;
const configureBuckets = JSON.parse(buckets).map(name => ({name}));
new Server({address: '127.0.0.1', port: 0, silent: true, directory, configureBuckets}).run()
  .then(at => console.log(at.port));
process.stdin.on('end', () => process.exit(0)).resume();
"""


@dataclass
class S3Server:
    """s3rver on a free port, with an empty folder. It ends with the block, or when this process ends in any way."""

    port: int = 0
    folder: Path = field(default_factory=Path)

    def __enter__(self) -> S3Server:
        modules = _install_s3rver()
        self.folder = Path(tempfile.mkdtemp(prefix="silc-s3rver-"))
        script = self.folder / "serve.js"
        script.write_text(_S3_SCRIPT, encoding="utf-8")
        (self.folder / "data").mkdir()
        self._process = subprocess.Popen(
            ["node", str(script), str(self.folder / "data"), json.dumps(BUCKETS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"NODE_PATH": str(modules), "NODE_NO_WARNINGS": "1"},
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def file(self, key: str, bucket: str = "bucket") -> Path:
        """Where the server keeps an object."""
        return self.folder / "data" / bucket / f"{key}._S3rver_object"


def s3_environment(url: str, folder: Path) -> dict[str, str]:
    """Variables by which obstore reads from an S3 server here. folder: where no file of AWS settings is."""
    return {
        "AWS_ACCESS_KEY_ID": "S3RVER",
        "AWS_SECRET_ACCESS_KEY": "S3RVER",
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        "AWS_CONFIG_FILE": str(folder / "no-config"),
    }


def need_s3rver() -> None:
    """Skip a test where there is no node or npm, or fail where SILC_SERVERS_REQUIRED is set."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        message = f"{' and '.join(missing)} not on PATH: no S3 server for tests"
        if os.environ.get(REQUIRED):
            pytest.fail(message)
        pytest.skip(message)


def _install_s3rver() -> Path:
    """The folder of node modules that holds s3rver; several processes may come at once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "silc-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"s3rver-{S3RVER}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run([*command, f"s3rver@{S3RVER}"], check=True, timeout=300, stdout=subprocess.DEVNULL)
            (folder / "installed").touch()
    return folder / "node_modules"
