"""A rank whose output has lost its reader goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from silc.commands.output import Steady

from .conftest import checkout, environment

RANK = """
import pathlib, sys, time
from silc.commands.output import steady_output
steady_output()
print("begins", flush=True)
while not pathlib.Path("gone").exists():
    time.sleep(0.02)
for _ in range(3):
    print("step", flush=True)
    print("x" * 100_000, file=sys.stderr)
assert not sys.stdout.isatty()
pathlib.Path("saved").touch()
"""


def test_a_rank_outlives_the_reader_of_its_output(tmp_path: Path):
    read, write = os.pipe()
    env = environment(PYTHONPATH=checkout())
    process = subprocess.Popen([sys.executable, "-c", RANK], cwd=tmp_path, env=env, stdout=write, stderr=write)
    os.close(write)
    assert os.read(read, 100).startswith(b"begins")
    os.close(read)
    (tmp_path / "gone").touch()
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "saved").exists()


def test_a_disk_that_was_full_gets_what_is_said_later():
    class Stream:
        def __init__(self) -> None:
            self.said: list[str] = []

        def write(self, text: str) -> int:
            if not self.said:
                self.said.append("")
                raise OSError(errno.ENOSPC, "No space left on device")
            self.said.append(text)
            return len(text)

    stream = Stream()
    steady = Steady(stream)
    steady.write("lost")
    steady.write("said")
    assert stream.said == ["", "said"]
