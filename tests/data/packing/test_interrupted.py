"""An interrupted pack goes on where it was, whenever it was interrupted, and makes the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silc.data.packing import pack as packing
from silc.data.packing.pack import UNITS
from tests.data.packing.packed import captioned, contents, packed

ROOT = Path(__file__).resolve().parents[3]


def command(source: Path, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "silc", "shards", "pack", str(source), "--out", str(out), *words]


def start(source: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    """The command as a process of its own, with those that it starts in a group."""
    return subprocess.Popen(
        command(source, out, *words),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_the_same_command_goes_on(tmp_path, monkeypatch, sent):
    source = captioned(tmp_path / "in", 400)
    process = start(source, tmp_path / "out", "--samples-per-shard", "10", "--jobs", "2", "--verify")
    units = tmp_path / "out" / UNITS
    ends = time.monotonic() + 120
    while len(list(units.glob("*.json"))) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.005)
    process.send_signal(sent)
    _, errors = process.communicate()  # it ends when those that it started have ended too, which share its pipes
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert not list((tmp_path / "out").glob("*.tar"))  # no shard has a name before all are done
    if sent == signal.SIGINT:
        assert errors.decode().splitlines()[-1].endswith("interrupted; the same command goes on from here")
    before = {int(path.stem) for path in units.glob("*.json")}
    assert 4 <= len(before) < 40
    again: list[int] = []
    work = packing.pack_units
    with monkeypatch.context() as patch:
        patch.setattr(
            packing, "pack_units", lambda jobs, store: (again.append(jobs[0].unit.number), work(jobs, store))[1]
        )
        finished = packed(source, tmp_path / "out", samples=10, making={"verify": True})
    assert sorted(again) == sorted(set(range(40)) - before)  # what was done was not done again
    assert (finished.samples, len(finished.shards)) == (400, 40)
    packed(source, tmp_path / "whole", samples=10)
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")
    assert not units.exists()


@pytest.mark.parametrize("stage", ["name_shards", "write_classes", "_index", "write"])
def test_interrupted_at_the_end_it_goes_on(tmp_path, monkeypatch, stage):
    source = captioned(tmp_path / "in", 30)
    packed(source, tmp_path / "whole", samples=10)
    owner = packing if stage == "_index" else packing.state if stage == "write" else packing.finish
    real, calls = getattr(owner, stage), []

    def fail(*arguments):
        calls.append(stage)
        if stage == "write" and len(calls) == 1:  # the plan, before any work
            return real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, stage, fail)
        with pytest.raises(KeyboardInterrupt):
            packed(source, tmp_path / "out", samples=10)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "pack_units", None)  # nothing is packed again
        assert packed(source, tmp_path / "out", samples=10).samples == 30
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_interrupted_between_two_names_it_goes_on(tmp_path, monkeypatch):
    source = captioned(tmp_path / "in", 30)
    packed(source, tmp_path / "whole", samples=10)
    real, calls = Path.replace, []

    def fail(self, target):
        if self.name.endswith("-000.tar"):
            calls.append(self)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            packed(source, tmp_path / "out", samples=10)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    packed(source, tmp_path / "out", samples=10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_damaged_record_or_tar_of_a_unit_is_made_again(tmp_path, monkeypatch):
    source = captioned(tmp_path / "in", 40)
    packed(source, tmp_path / "whole", samples=10)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            packed(source, tmp_path / "out", samples=10)
    units = tmp_path / "out" / UNITS
    (units / "000000.json").write_text("[0, [[")
    os.truncate(units / "000001-000.tar", 100)
    (units / "000002-000.tar").unlink()
    packed(source, tmp_path / "out", samples=10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
