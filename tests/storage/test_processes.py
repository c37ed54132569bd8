"""Processes: forked and spawned readers, reading apart, what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import silc.storage.objects as objects
from silc.storage import StoreFailed, fetch_apart, put
from tests.storage.servers import Faults

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nor a warning of the resource tracker
    return done.stdout


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_read_however_they_were_started(web, tmp_path, method):
    names = [f"{i}.tar" for i in range(8)]
    (web.folder / "list").write_text("\n".join(names))
    for i, name in enumerate(names):
        (web.folder / name).write_bytes(bytes([i + 1]) * 5000)
    web.faults = Faults(error=0.2, methods=("GET", "HEAD"), seed=5)
    output = run("-m", "tests.storage.readers", method, web.url, str(tmp_path / "cache"))
    assert f"equal {'01' * 10} waiting []" in output
    assert web.counts["error"] > 0
    if method == "fork":
        assert "RuntimeError: process" in output
        assert "which had read from a remote store" in output


def test_the_package_imports_neither_torch_nor_obstore():
    code = "import sys, silc.storage, silc.storage.fetch; print({'torch', 'obstore', 'numpy'} & set(sys.modules))"
    assert run("-c", code) == "set()\n"


def test_a_process_without_remote_reads_does_not_use_obstore(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    code = (
        "import sys; from silc.storage import *; from silc.storage import fetch_apart, read_whole; "
        f"x = {str(tmp_path / 'x')!r}; print(open_store().read([Range(x, 1, 3)]), stat(x).size, fetch_apart(x, 10)); "
        "print('obstore' in sys.modules)"
    )
    assert run("-c", code) == "[b'12'] 10 b'0123456789'\nFalse\n"


def test_reading_apart(s3, web, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "silc.py").write_text("raise SystemExit('the folder it is started in is not searched')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    data = bytes(range(256)) * 5000
    put(s3.address("m"), data)
    assert fetch_apart(s3.address("m"), len(data)) == data
    with pytest.raises(ValueError, match=r"/m has 1280000 bytes; at most 99 are read$"):
        fetch_apart(s3.address("m"), 99)
    with pytest.raises(ValueError, match="does not exist"):
        fetch_apart(s3.address("none"), 99)
    with pytest.raises(ValueError, match="holds a query"):
        fetch_apart(s3.address("none") + "?secret", 99)
    web.die()
    with pytest.raises(StoreFailed, match=r"/m could not be looked at for \d s .*last: connection refused\)") as caught:
        fetch_apart(web.address("m"), 99, patience=0.5)
    assert "\n" not in str(caught.value)


def test_a_reading_process_that_dies_or_hangs_is_described(web, monkeypatch, tmp_path):
    (web.folder / "x").write_bytes(b"x")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho noise >&2\nexit 9\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(StoreFailed, match=r"/x could not be read: the process that reads it ended with status 9"):
        fetch_apart(web.address("x"), 9)
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(objects, "SPARE", 0.1)
    with pytest.raises(StoreFailed, match="/x could not be read in 0 s"):
        fetch_apart(web.address("x"), 9, patience=0.1)
