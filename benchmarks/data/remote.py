"""Samples a second from an S3 server, and bytes served for each byte used.

The server is npm's s3rver on this machine; on two cores it takes its share of the processor. silc reads ranges, a
batch's together; webdataset streams whole tars through curl, as open_clip's users pipe them (from the server's HTTP
address, as a client of AWS takes longer to start); mosaicml-streaming downloads whole shards into a folder. One
provider after the other, each from an empty cache. The first batches of a peer that reads ahead come from what it has
already; `served` shows how far ahead that is.

silc is measured as the only rank, whose batch is spread over the shuffle block, and as one of 64, whose share of the
sorted global batch lies together.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import ROOT
from benchmarks.data.fake import PairSet, environment
from benchmarks.data.processes import Ranks
from benchmarks.data.streams import Spec
from benchmarks.data.throughput import Source

UPLOAD = """
import sys
from pathlib import Path
from silc.storage import put
for path in sorted(Path(sys.argv[1]).iterdir()):
    put(f"{sys.argv[2]}/{path.name}", path.read_bytes())
"""


@dataclass(frozen=True)
class Plan:
    """warm: batches before the clock starts. batches: on the clock. ranks: of which silc is also measured as one."""

    pythons: dict[str, str]
    workers: int = 1
    batch: int = 64
    warm: int = 16
    batches: int = 64
    timeout: float = 600.0
    ranks: int = 64


@dataclass(frozen=True)
class Remote:
    """world: ranks, of which one reads. first: seconds to the first batch, imports included. served: bytes that left
    the server from the start to the last batch, over bytes of the images and captions in all batches taken.
    """

    provider: str
    world: int
    workers: int
    first: float
    per_second: float
    served: float


@dataclass(frozen=True)
class S3:
    """A running server. prefix: s3:// address of the set; variables: by which clients find the server."""

    url: str
    prefix: str
    variables: dict[str, str]
    server: psutil.Process

    def written(self) -> int:
        """Bytes that the server has written, to clients and, while objects are uploaded, to the disk."""
        return self.server.io_counters().write_chars


def upload(folder: Path, address: str, variables: dict[str, str]) -> None:
    """Put the files of a folder below an address; in a process of its own, as obstore does not survive a fork.

    Raises:
        subprocess.CalledProcessError: the server refused, or silc's extra `remote` is not installed.
    """
    subprocess.run(
        [sys.executable, "-c", UPLOAD, str(folder), address], cwd=ROOT, env=environment() | variables, check=True
    )


@contextmanager
def served(made: PairSet) -> Iterator[S3]:
    """The set on an S3 server."""
    from tests.storage.servers import S3Server, s3_environment

    with tempfile.TemporaryDirectory() as name, S3Server() as running:
        variables = s3_environment(running.url, Path(name)) | {"S3_ENDPOINT_URL": running.url}
        upload(made.tars, "s3://bucket/tars", variables)
        if made.mds is not None:
            upload(made.mds, "s3://bucket/mds", variables)
        yield S3(running.url, "s3://bucket", variables, _child("node"))


def _child(name: str) -> psutil.Process:
    return next(child for child in psutil.Process().children() if child.name() == name)


def remotes(plan: Plan, made: PairSet, source: Source) -> Iterator[Remote]:
    """Each provider. Raises Ended: no batch in time."""
    with served(made) as s3:
        for provider, python in plan.pythons.items():
            for world in (1, plan.ranks) if provider == "silc" else (1,):
                yield _measured(provider, python, plan, made, source, s3, world)


def _measured(provider: str, python: str, plan: Plan, made: PairSet, source: Source, s3: S3, world: int) -> Remote:
    tars = f"{s3.url}/bucket/tars" if provider == "webdataset" else f"{s3.prefix}/tars"
    spec = Spec(provider, tars, made.shards, f"{s3.prefix}/mds", plan.batch, world=world, workers=plan.workers)
    before = s3.written()
    with Ranks(python, [spec], variables=s3.variables) as processes:
        (start,), _ = processes.first(plan.timeout)
        processes.ask(f"take {plan.warm}", plan.timeout)
        (said,) = processes.ask(f"take {plan.batches}", plan.timeout)
        written = s3.written() - before
    taken = (1 + plan.warm + plan.batches) * plan.batch
    per_second = said["samples"] / said["seconds"]
    return Remote(provider, world, plan.workers, start["first"], per_second, written / (taken * source.mean))
