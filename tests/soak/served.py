"""One indexed set on a disk, and the same files on an S3 and an HTTP server of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import ROOT
from benchmarks.data.remote import UPLOAD
from tests.storage.servers import Faults, Proxy, S3Server, Server, WebServer, s3_environment

PREFIX = "s3://bucket/set"


@dataclass(frozen=True)
class Place:
    """Where a set is read from. server: None for a disk; environment: variables that the reader needs."""

    name: str
    shards: str
    server: Server | None = None
    environment: dict[str, str] = field(default_factory=dict)


def run(*command: str, environment: dict[str, str] | None = None, limit: float = 1800) -> subprocess.CompletedProcess:
    """This Python with the packages of this checkout. The caller looks at the status."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment_of(environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
    )


def environment_of(more: dict[str, str]) -> dict[str, str]:
    """Of a process that runs this checkout's code on one thread."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | more


def index(folder: Path) -> None:
    """Build the index beside the shards. Raises RuntimeError."""
    _must(run("-m", "silc", "shards", "index", str(folder)))


@contextmanager
def places(folder: Path, faults: Faults | None = None) -> Iterator[list[Place]]:
    """The disk, and servers of the same files, which misbehave in the ways of `faults`. The folder is indexed."""
    with ExitStack() as stack:
        web = stack.enter_context(WebServer(folder, replace(faults) if faults else None))
        s3 = stack.enter_context(S3Server())
        proxy = stack.enter_context(Proxy(s3.port))
        environment = s3_environment(proxy.url, folder)
        _must(run("-c", UPLOAD, str(folder), PREFIX, environment=environment))
        if faults:
            proxy.faults = replace(faults)
        yield [
            Place("disk", str(folder)),
            Place("http", web.address("shards.manifest"), web),
            Place("s3", PREFIX, proxy, environment),
        ]


def _must(done: subprocess.CompletedProcess) -> None:
    if done.returncode:
        raise RuntimeError(f"{done.args[1:4]} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
