"""The house is in order: promised files, imports that point downwards, the lock within the ranges, files of a size."""

from __future__ import annotations

import ast
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CODE = [
    path
    for folder in ("silc", "kernels", "launch", "tools", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
] + [ROOT / "setup.py"]
PROMISED = [
    "README.md",
    "Makefile",
    "requirements.txt",
    "pyproject.toml",
    "setup.py",
    "LICENSE",
    "NOTICE",
    "CHANGELOG.md",
    ".ci/run",
    "launch/train.py",
    "launch/evaluate.py",
    "launch/claims.py",
    "tools/make_sample.py",
    "launch/hostfile.example",
    "launch/slurm.sh",
    "kernels/README.md",
    "benchmarks/train_bench.py",
    "silc/data/sample_set/drawings/NOTICE",
    "silc/presets/sample.yaml",
    "silc/presets/silc_vit_b16.yaml",
    "silc/presets/silc_vit_l16.yaml",
    "silc/presets/silc_so400m14.yaml",
    "silc/presets/clip_vit_b16.yaml",
    "silc/presets/clip_views_vit_b16.yaml",
    "silc/presets/siglip_vit_b16.yaml",
]

# Module or package -> its floor. A module imports from floors below, and on its own floor from its own package alone.
FLOORS = {
    "silc_kernels": 0,
    "silc.config": 0,
    "silc.config_io": 0,
    "silc.distributed": 0,
    "silc.errors": 0,
    "silc.text": 0,
    "silc.model": 1,
    "silc.data": 1,
    "silc.objective": 2,
    "silc.teacher": 2,
    "silc.evaluate": 3,
    "silc.train": 4,
    "silc.claims": 5,
}
FLOOR_0 = {"silc.config_io": {"silc.config"}}  # who may import whom on the lowest floor


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "kernels" if path.is_relative_to(ROOT / "kernels") else ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, `from a import b` as a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def home(module: str) -> str | None:
    """The entry of FLOORS that a dotted name lies in."""
    return next((entry for entry in FLOORS if module == entry or module.startswith(entry + ".")), None)


@pytest.mark.parametrize("file", PROMISED)
def test_a_promised_file_is_there(file):
    assert (ROOT / file).stat().st_size > 0


def test_the_scripts_run():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0" in text


def test_the_embedded_drawings_are_small():
    assert (
        sum(path.stat().st_size for path in (ROOT / "silc/data/sample_set/drawings").rglob("*") if path.is_file())
        <= 16 * 2**20
    )


def test_every_module_has_a_floor():
    for path in CODE:
        name = name_of(path)
        if name.startswith("silc") and name != "silc":
            assert home(name), f"{name} is on no floor"


@pytest.mark.parametrize("path", [p for p in CODE if home(name_of(p))], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    name = name_of(path)
    own = home(name)
    for module in imported(path):
        other = home(module)
        if other is None or other == own:
            continue
        allowed = FLOORS[other] < FLOORS[own] or other in FLOOR_0.get(own, set())
        assert allowed, f"{name} (floor {FLOORS[own]}) imports {module} (floor {FLOORS[other]})"


def test_the_library_does_not_know_its_users():
    for path in CODE:
        if name_of(path).startswith("silc"):
            tops = {module.split(".")[0] for module in imported(path)}
            assert not tops & {
                "launch",
                "benchmarks",
                "tests",
                "train",
                "pytest",
                "timm",
                "lightly",
                "sklearn",
                "torchmetrics",
            }, path


def test_the_kernels_need_torch_and_triton_alone():
    for path in (ROOT / "kernels").rglob("*.py"):
        tops = {module.split(".")[0] for module in imported(path)}
        assert tops <= {"silc_kernels", "torch", "triton", *sys.stdlib_module_names}, path


def test_reading_a_configuration_needs_no_torch():
    for file in ("silc/__init__.py", "silc/config.py", "silc/config_io.py"):
        tops = {module.split(".")[0] for module in imported(ROOT / file)}
        assert tops <= {"silc", "yaml", "pydantic", *sys.stdlib_module_names}, file


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_have_a_size_to_read(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


def lock() -> dict[str, str]:
    """The lock's packages and versions, every one pinned."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    pins = {}
    for requirement in requirements:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        pins[canonicalize_name(requirement.name)] = specifier.version
    assert len(pins) == len(requirements)
    return pins


@pytest.fixture
def described(monkeypatch) -> dict:
    """What setup.py hands to setuptools."""
    seen: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keywords: seen.update(keywords))
    monkeypatch.chdir(ROOT)
    exec(compile((ROOT / "setup.py").read_text(encoding="utf-8"), "setup.py", "exec"), {"__name__": "__main__"})
    return seen


def test_the_lock_lies_within_the_ranges(described):
    pins = lock()
    extras = {name: ranges for name, ranges in described["extras_require"].items() if name != "wandb"}
    for requirement in map(Requirement, itertools.chain(described["install_requires"], *extras.values())):
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"requirements.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} does not admit the locked {version}"


def test_optional_packages_stay_optional(described):
    names = {canonicalize_name(Requirement(text).name) for text in described["install_requires"]}
    assert not names & {"apex", "xformers", "wandb", "timm", "lightly"}
    assert "apex" not in lock()  # the package of that name on the index is another one


def test_every_import_is_installed_by_setup(described):
    names = {"open_clip_torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml"}
    listed = {Requirement(text).name for text in described["install_requires"]}
    known = {names.get(name, name) for name in listed} | {"silc", "silc_kernels", *sys.stdlib_module_names}
    optional = {"xformers", "wandb", "apex"}
    for path in CODE:
        if name_of(path).startswith("silc"):
            tops = {module.split(".")[0] for module in imported(path)}
            assert tops <= known | optional, f"{path}: {tops - known - optional} not in install_requires"


def test_the_package_holds_every_module_and_the_drawings(described):
    packages = set(described["packages"])
    for path in CODE:
        name = name_of(path)
        if name.startswith("silc") and path.name == "__init__.py":
            assert name in packages
    for path in CODE:
        if name_of(path).startswith("silc"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} is no package"
    assert described["package_data"]["silc.data.sample_set"] == ["drawings/*"]
