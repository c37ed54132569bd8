"""The distribution silc-kernels: built as a wheel, it works from any folder, with torch and triton alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import silc_kernels

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "kernels"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "."], cwd=KERNELS, capture_output=True)
    files = listed.stdout.decode().split() or [str(p.relative_to(KERNELS)) for p in KERNELS.rglob("*") if p.is_file()]
    for file in files:
        if (KERNELS / file).is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes((KERNELS / file).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    done = subprocess.run([*command, str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds what the wheel installs."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def python(folder: Path, *arguments: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_what_belongs_to_them(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(KERNELS)) for path in (KERNELS / "silc_kernels").rglob("*.py")}
    tables = {str(path.relative_to(KERNELS)) for path in (KERNELS / "silc_kernels").rglob("*.csv")}
    held = {name for name in names if name.startswith("silc_kernels/")}
    assert held == modules | {"silc_kernels/py.typed", *tables}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.name.startswith(f"silc_kernels-{silc_kernels.__version__}-py3-none-any")


def test_it_requires_torch_and_triton_alone():
    project = tomllib.loads((KERNELS / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert {Requirement(text).name for text in project["dependencies"]} == {"torch", "triton"}


def test_it_ships_the_projects_license():
    assert (KERNELS / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_readmes_code_runs_from_an_empty_folder_without_numpy(installed, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (KERNELS / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    calls = ("distill_loss(", "distill_head_loss(", "contrastive_loss(", "patch_embed(")
    assert all(any(call in block for block in blocks) for call in calls)
    script = tmp_path / "readme.py"
    where = "import silc_kernels\nprint(silc_kernels.__file__)\n"
    script.write_text("import sys\nsys.modules['numpy'] = None\n" + "\n".join(blocks) + where)
    assert str(installed) in python(tmp_path, str(script), path=installed)


def test_the_gate_runs_from_the_installed_package(installed, tmp_path):
    found = python(tmp_path, "-m", "silc_kernels.gate", "--only", "distill_loss/merge", path=installed)
    assert "distill_loss/merge" in found
