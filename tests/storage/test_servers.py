"""The servers of the tests: faults come as often as asked for and again the same, and no server outlives its test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.storage.servers import REQUIRED, Faults, WebServer, need_s3rver

ROOT = Path(__file__).resolve().parents[2]


def test_faults_have_their_shares_and_are_repeatable():
    faults, same = (Faults(drop=0.05, stall=0.02, error=0.3, seed=4) for _ in range(2))
    kinds = [faults.choose("GET", "x", f"bytes={i}-", 1)[0] for i in range(4000)]
    assert kinds == [same.choose("GET", "x", f"bytes={i}-", 1)[0] for i in range(4000)]
    assert 140 < kinds.count("drop") < 260
    assert 40 < kinds.count("stall") < 120
    assert 1080 < kinds.count("error") < 1320
    assert len({faults.choose("GET", "x", "", n)[0] for n in range(100)}) > 1  # another try, another fate


def test_a_plain_client_reads_ranges(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    with WebServer(tmp_path) as server:
        wanted = {"bytes=2-4": b"234", "bytes=7-": b"789", "bytes=8-99": b"89", "": b"0123456789"}
        for asked, expected in wanted.items():
            request = urllib.request.Request(server.address("x"), headers={"Range": asked} if asked else {})
            with urllib.request.urlopen(request) as answer:
                assert answer.read() == expected
                assert answer.status == (206 if asked else 200)
        assert server.counts["GET"] == 4
        assert server.counts["bytes"] == 18


def test_without_node_the_tests_are_skipped_or_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="node and npm not on PATH"):
        need_s3rver()
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="node and npm not on PATH"):
        need_s3rver()


@pytest.mark.usefixtures("s3rver")
def test_the_s3_server_ends_with_a_process_that_is_killed():
    code = (
        "import os, signal; from tests.storage.servers import S3Server; server = S3Server().__enter__(); "
        "print(server._process.pid, server.folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    pid, folder = done.stdout.split()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(timeout=30)
    assert not psutil.pid_exists(int(pid))
    shutil.rmtree(folder)
