"""The house is in order: promised files, imports that point downwards, the lock within the ranges, files of a size."""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from silc.version import __version__

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
    "docs/configuration.md",
    "launch/train.py",
    "launch/evaluate.py",
    "launch/export.py",
    "launch/claims.py",
    "tools/make_sample.py",
    "tools/update_docs.py",
    "launch/hostfile.example",
    "launch/slurm.sh",
    "kernels/README.md",
    "kernels/pyproject.toml",
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
    "silc.config_rules": 0,
    "silc.config_io": 0,
    "silc.distributed": 0,
    "silc.errors": 0,
    "silc.text": 0,
    "silc.files": 0,
    "silc.ports": 0,
    "silc.rendezvous": 0,
    "silc.processes": 0,
    "silc.storage": 0,
    "silc.presets": 0,
    "silc.version": 0,
    "silc.yaml_safe": 0,
    "silc.model": 1,
    "silc.data": 1,
    "silc.interchange": 2,
    "silc.objective": 2,
    "silc.teacher": 2,
    "silc.evaluate": 3,
    "silc.train": 4,
    "silc.claims": 5,
    "silc.pretrained": 5,
    "silc.commands": 6,
    "silc.__main__": 7,
}
FLOOR_0 = {  # who may import whom on the lowest floor
    "silc.config_rules": {"silc.config"},
    "silc.files": {"silc.text"},
    "silc.config_io": {"silc.config", "silc.presets", "silc.yaml_safe"},
    "silc.yaml_safe": {"silc.files"},
    "silc.storage": {"silc.errors", "silc.files", "silc.text"},
    "silc.distributed": {"silc.ports", "silc.rendezvous"},
}


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


def test_no_imports_run_in_a_circle():
    """Nor those under TYPE_CHECKING, or inside a function: a circle is two modules that should be one, or three."""
    modules = {name_of(path): path for path in CODE if name_of(path).startswith("silc.")}
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        known = {found if found in modules else found.rpartition(".")[0] for found in imported(path)}
        edges[name] = {found for found in known & modules.keys() if not name.startswith(f"{found}.")}
    while free := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges, f"in a circle, or leading into one: {sorted(edges)}"


def test_the_library_does_not_know_its_users():
    for path in CODE:
        if name_of(path).startswith("silc"):
            tops = {module.split(".")[0] for module in imported(path)}
            # One gives timm the names of towers, one takes its list of synsets, and one has timm load what was written
            # for it; nothing is built by it.
            if name_of(path) in ("silc.model.timm_tower", "silc.data.imagenet", "silc.interchange.write.timm"):
                tops -= {"timm"}
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
    for file in ("silc/__init__.py", "silc/config/__init__.py", "silc/config_io.py", "silc/presets/__init__.py"):
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


def kernels() -> dict:
    """The project table of kernels/pyproject.toml."""
    return tomllib.loads((ROOT / "kernels/pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_lock_lies_within_the_ranges(described):
    pins = lock()
    extras = {name: ranges for name, ranges in described["extras_require"].items() if name != "wandb"}
    ranges = itertools.chain(described["install_requires"], kernels()["dependencies"], *extras.values())
    for requirement in map(Requirement, ranges):
        if requirement.name == "silc-kernels":  # of this repository: tests/commands/test_installation.py
            continue
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"requirements.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} does not admit the locked {version}"


def test_optional_packages_stay_optional(described):
    names = {canonicalize_name(Requirement(text).name) for text in described["install_requires"]}
    assert not names & {"apex", "xformers", "wandb", "lightly"}
    assert "apex" not in lock()  # the package of that name on the index is another one


def test_every_import_is_installed_by_setup(described):
    names = {
        "open_clip_torch": "open_clip",
        "pillow": "PIL",
        "pyyaml": "yaml",
        "markdown-it-py": "markdown_it",
        "silc-kernels": "silc_kernels",
    }
    listed = {Requirement(text).name for text in described["install_requires"]}
    known = {names.get(name, name) for name in listed} | {"silc", *sys.stdlib_module_names}
    optional = {"xformers", "wandb", "apex", "obstore", "py3langid", "pyarrow", "datasets", "transformers"}
    optional |= {"tokenizers", "onnx", "onnxruntime"}
    known.add("huggingface_hub")  # of open_clip_torch
    for path in CODE:
        if name_of(path).split(".")[0] == "silc":
            tops = {module.split(".")[0] for module in imported(path)}
            assert tops <= known | optional, f"{path}: {tops - known - optional} not in install_requires"


def test_the_package_holds_every_module(described):
    packages = set(described["packages"])
    for path in CODE:
        name = name_of(path)
        if name.split(".")[0] == "silc" and path.name == "__init__.py":
            assert name in packages
        if name.startswith("silc"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} is no package"
    assert described["package_data"]["silc.data.sample_set"] == ["drawings/*"]
    for folder in {path.parent for path in (ROOT / "silc").rglob("*.j2")}:
        package = ".".join(folder.parent.relative_to(ROOT).parts)
        assert described["package_data"][package] == ["templates/*.j2"]
    assert {name.split(".")[0] for name in packages} == {"silc"}  # the kernels are a distribution of their own


def test_the_kernels_depend_on_torch_and_triton_alone():
    assert {Requirement(text).name for text in kernels()["dependencies"]} == {"torch", "triton"}


def test_one_place_has_the_version(described):
    assert described["version"] == __version__


def test_a_source_distribution_holds_the_package_and_its_licence_but_no_tests(tmp_path):
    for folder in ("silc", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=tmp_path, check=True, capture_output=True)
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "requirements.txt", "silc/presets/sample.yaml", "silc/ports.py"} <= inside
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "tools"))]
