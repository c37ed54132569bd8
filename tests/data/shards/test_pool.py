"""Jobs of several processes; none of them outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silc.data.shards import pool
from silc.data.shards.build import JOURNAL, build
from silc.errors import RunStopped
from tests.data.shards.indexed import copies, expected, read

ROOT = Path(__file__).resolve().parents[3]


def die(jobs, store):
    os.kill(os.getpid(), signal.SIGKILL)


def echo(jobs, store):
    return [(job, os.getpid()) for job in jobs]


def test_a_process_that_is_killed_is_told():
    with pytest.raises(RunStopped, match="was killed, perhaps for want of memory"):
        list(pool.done(die, [1, 2, 3], 2))


def test_processes_share_the_jobs():
    outcomes = list(pool.done(echo, list(range(100)), 2))
    assert sorted(job for job, _ in outcomes) == list(range(100))
    assert os.getpid() not in {process for _, process in outcomes}
    assert [process for _, process in pool.done(echo, [1, 2], 0)] == [os.getpid()] * 2


def processes_with(word: str) -> list[int]:
    """Processes whose environment holds a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_build_that_is_killed_leaves_nothing_half_and_the_next_goes_on(tmp_path):
    folder = tmp_path / "set"
    paths = copies(folder, 60, 1500)
    environment = os.environ | {"SILC_CACHE": str(tmp_path / "cache"), "PYTHONPATH": f"{ROOT}:{ROOT}/kernels"}
    command = [sys.executable, "-m", "silc", "shards", "index", str(folder), "--captions", "txt", "--jobs", "2"]
    started = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, until = folder / JOURNAL, time.monotonic() + 200
    while not (journal.exists() and journal.read_text().count("\n") > 8):
        assert started.poll() is None
        assert time.monotonic() < until
    started.kill()
    started.wait()
    noted = journal.read_text().count("\n") - 1
    assert 8 <= noted < 60
    while processes_with(str(tmp_path / "cache")):
        assert time.monotonic() < until
        time.sleep(0.1)
    for sidecar in folder.glob("*.idx"):
        assert sidecar.stat().st_size == 1501 * 8
    for sidecar in folder.glob("*.cap"):
        assert sidecar.stat().st_size == 1500 * 8
    assert not (folder / "shards.manifest").exists()
    built = build(paths, f"{folder}/", caption="txt")
    assert built.how["kept"] >= noted - 1  # the last line may have been cut
    assert built.how.total() == 60
    assert built.manifest is not None
    assert read(built.manifest) == expected(built.manifest)
    visible = {name for name in os.listdir(folder) if not name.startswith(".")}
    assert visible == {"shards.manifest", *(f"{i:05}.tar{end}" for i in range(60) for end in ("", ".idx", ".cap"))}
