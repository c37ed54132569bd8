"""Fixtures of the servers, which another folder's conftest.py can import too."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.storage.servers import Proxy, S3Server, Server, WebServer, need_s3rver, s3_environment


@dataclass
class Bucket:
    """A folder of one's own on an S3 server, while the environment leads to that server.

    url: of the server; server: the proxy in front of it, where there is one.
    """

    root: S3Server
    url: str
    prefix: str
    server: Server | None = None

    def address(self, name: str = "") -> str:
        return f"s3://bucket/{self.prefix}/{name}".rstrip("/")

    def file(self, name: str) -> Path:
        """Where the server keeps the object."""
        return self.root.file(f"{self.prefix}/{name}")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """A web server of the files in tmp_path/web."""
    (tmp_path / "web").mkdir()
    with WebServer(tmp_path / "web") as server:
        yield server


@pytest.fixture(scope="session")
def s3rver() -> Iterator[S3Server]:
    """One S3 server for all tests of a process."""
    need_s3rver()
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3rver: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A folder on an S3 server that has no faults."""
    return _lead_to(s3rver, s3rver.url, tmp_path, monkeypatch)


@pytest.fixture
def faulty_s3(s3rver: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A folder on an S3 server, through a proxy that is given faults by `.server.faults`."""
    with Proxy(s3rver.port) as proxy:
        bucket = _lead_to(s3rver, proxy.url, tmp_path, monkeypatch)
        bucket.server = proxy
        yield bucket


def _lead_to(root: S3Server, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_environment(url, folder).items():
        monkeypatch.setenv(name, value)
    return Bucket(root, url, f"test-{secrets.token_hex(6)}")
