"""`make setup`: the lock once for an environment, the checkout whenever another one is installed in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ["Makefile", "requirements.txt", "setup.py", "kernels/pyproject.toml", "silc/version.py"]


def checkout(folder: Path) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_setup_does_what_is_missing_and_no_more(tmp_path):
    venv, log = tmp_path / "venv", tmp_path / "log"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    (venv / "bin/python").chmod(0o755)
    one, two = checkout(tmp_path / "one"), checkout(tmp_path / "two")

    def installed(folder: Path) -> list[str]:
        """Which of the lock and the checkout `make setup` hands to pip."""
        log.write_text("")
        command = ["make", "setup", f"VENV={venv}", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        calls = log.read_text().splitlines()
        assert all("--no-deps --no-build-isolation" in call for call in calls if "--editable" in call)  # no network
        return ["lock" if "--requirement" in call else call.partition("--editable ")[2] for call in calls]

    this = "./kernels --editable ."
    assert installed(one) == ["lock", this]
    assert installed(one) == []
    assert installed(two) == [this]
    assert installed(two) == []
    assert installed(one) == [this]
    (one / "setup.py").write_text("# other console scripts\n")
    assert installed(one) == [this]
    (one / "requirements.txt").write_text("torch==0\n")
    assert installed(one) == ["lock", this]


SILC = """#!/bin/sh
echo "$@" >> {log}
for word in "$@"; do
    case "$word" in train.out=*) mkdir -p "${{word#train.out=}}" ;; esac
done
case "$*" in *"$FAILS"*) exit 3 ;; esac
"""


def test_train_compares_the_two_runs_that_it_has_just_made(tmp_path):
    venv, log = tmp_path / "venv", tmp_path / "log"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").write_text("#!/bin/sh\n")
    (venv / "bin/silc").write_text(SILC.format(log=log))
    for name in ("python", "silc"):
        (venv / "bin" / name).chmod(0o755)
    folder = checkout(tmp_path / "one")

    def called(*words: str, fails: str = "none", status: int = 0) -> list[str]:
        """What `make train` has `silc` do."""
        log.write_text("")
        command = ["make", "train", f"VENV={venv}", f"PYTHON={sys.executable}", *words]
        ours = {name: value for name, value in os.environ.items() if name not in ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES")}
        env = ours | {"FAILS": fails}
        done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False)
        assert done.returncode == status, done.stderr
        return log.read_text().splitlines()

    def three(end: str) -> list[str]:
        return [
            f"train train.out=runs/sample{end}",
            f"train --preset sample_clip train.out=runs/sample_clip{end}",
            f"compare --brief runs/sample_clip{end} runs/sample{end}",
        ]

    assert called("ARGS=--preset silc_vit_b16 train.steps=5") == ["train --preset silc_vit_b16 train.steps=5"]
    assert called() == three("")
    assert called() == three("-2")
    (folder / "runs/sample_clip-3").mkdir()  # of a training by hand: the pair takes the next number
    assert called() == three("-4")
    assert called(fails="train.out=runs/sample-5", status=2) == three("-5")[:1]  # what failed is not compared
    assert called(fails="train.out=runs/sample_clip-6", status=2) == three("-6")[:2]
    assert called() == three("-7")
