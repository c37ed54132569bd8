"""Both distributions built, installed and used in an empty folder, without the checkout on the path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from silc.version import __version__

from .conftest import ROOT, environment, free_port

SOURCES = ["silc", "kernels", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]
# In one process, which saves imports: argv is the folder of the installation and that of a run.
COMMANDS = """
import sys
from pathlib import Path
import silc, silc_kernels
from silc.commands.main import main

site, run = sys.argv[1:]
for package in (silc, silc_kernels):
    assert Path(package.__file__).is_relative_to(site), package.__file__
for words in (
    ["--version"],
    ["train", "--dry-run", "--preset", "silc_vit_b16"],
    ["claims", "--dry-run", "--pairs", "6400"],
    ["evaluate", run, "--tasks=retrieval", "--out=measured"],
    ["export", run, "exported"],
):
    status = main(words)
    assert status == 0, (words, status)
"""


@pytest.fixture(scope="session")
def installed(once) -> Path:
    """A folder with what the two wheels hold."""

    def make(folder: Path) -> str:
        source, target = folder / "source", folder / "site"
        source.mkdir()
        for name in SOURCES:  # a copy: a build leaves files beside the code
            if (ROOT / name).is_dir():
                left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
                shutil.copytree(ROOT / name, source / name, ignore=left_out)
            else:
                shutil.copy(ROOT / name, source / name)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "wheels"]
        install = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--find-links", "wheels", "--target", "site"]
        for command in ([*build, "./source/kernels", "./source"], [*install, "silc", "silc-kernels"]):
            done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        shutil.rmtree(source)
        return str(target)

    return Path(once("installed", make))


def files(package: Path) -> dict[str, bytes]:
    """Every file of a package by its path there, compiled ones left out."""
    found = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize(("package", "source"), [("silc", "silc"), ("silc_kernels", "kernels/silc_kernels")])
def test_the_wheel_holds_every_file_of_the_package(installed, package, source):
    """Presets, drawings, the table of the compile gate and py.typed too."""
    ours, theirs = files(ROOT / source), files(installed / package)
    assert ours.keys() == theirs.keys()
    assert ours == theirs
    assert "py.typed" in theirs


def test_the_distributions_are_two_and_name_each_other(installed):
    found = {one.name: one for one in metadata.distributions(path=[str(installed)])}
    assert found.keys() == {"silc", "silc-kernels"}
    assert found["silc"].version == __version__
    (kernels,) = [one for one in map(Requirement, found["silc"].requires or []) if one.name == "silc-kernels"]
    assert kernels.specifier.contains(found["silc-kernels"].version)
    assert (installed / "bin" / "silc").is_file()


def test_everything_runs_in_an_empty_folder(installed, data, tmp_path):
    env = environment(PYTHONPATH=str(installed))
    words = ["--preset", str(data / "tiny.yaml"), f"data.shards={data}/train", f"eval.shards={data}/eval.tar"]
    words += [f"eval.classes={data}/classes.txt", "eval.after=[]", "eval.report=false", "data.workers=0"]
    words += ["train.steps=3", "train.save_every=0", "data.max_skipped=0.9", "train.out=run"]
    train = [sys.executable, "-m", "silc", "train", "--num_gpus", "1", "--master_port", str(free_port()), *words]
    probe = [sys.executable, "-c", COMMANDS, str(installed), "run"]
    output = ""
    for command in (train, probe):
        done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=500, check=False)
        output += done.stdout
        assert done.returncode == 0, done.stdout + done.stderr
    assert "trained 3 steps" in output
    assert f"silc {__version__}\n" in output
    assert "unverified:" in output  # of the preset
    assert "5 runs, " in output  # the plan of the claims
    assert json.loads((tmp_path / "measured/evaluation.json").read_text())["step"] == 3
    assert not (tmp_path / "measured/report.html").exists()  # the run's eval.report=false
    assert (tmp_path / "exported/open_clip_config.json").is_file()
