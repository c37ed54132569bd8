"""silc_kernels inside: imports point down, without a circle, and to torch and triton alone."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "kernels" / "silc_kernels"
# A module imports from its own room, and from rooms on lower floors.
FLOORS = {
    "common": 0,
    "gate": 1,
    "contrastive": 2,
    "crops": 2,
    "distill": 2,
    "patch_embedding": 2,
    "photometry": 2,
    "gate.cases": 3,
    "gate.shapes": 4,
    "gate.fuzz": 4,
    "gate.__main__": 5,
    "": 6,  # silc_kernels itself
}


def modules() -> dict[str, Path]:
    """Dotted name below silc_kernels -> file; a package's is that of its folder, "" the whole."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room(name: str) -> str:
    return name if name in FLOORS else name.split(".")[0]


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, at its top or in a function."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                longer = f"{module}.{alias.name}".removeprefix(".")
                yield longer if longer in known else module
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(str(each).startswith("silc_kernels") for each in names), f"{path}: import it relatively"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("silc_kernels."):
            other = node.value.removeprefix("silc_kernels.")  # one that is imported by name, when a call wants it
            if other in known:
                yield other


def test_imports_point_down_inside_the_package():
    known = modules()
    assert {"common.dispatch", "gate.gate", "distill.triton_head_kernels"} <= known.keys()
    for name, path in known.items():
        for other in imported(name, path, known):
            down = room(other) == room(name) or FLOORS[room(other)] < FLOORS[room(name)]
            assert down, f"silc_kernels.{name} imports silc_kernels.{other}"


def test_there_is_no_circle():
    known = modules()
    graph = {name: set(imported(name, path, known)) - {name} for name, path in known.items()}
    assert "distill.triton_logits" in graph["distill.ops"]  # imported by its name in a string
    assert "contrastive.triton_tiles" in graph["contrastive.ops"]  # imported inside a function
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_importing_it_brings_torch_and_the_standard_library_alone():
    """numpy is blocked, as in an environment that lacks it. What torch's compiler brings is torch's own."""
    code = """
import sys
sys.modules["numpy"] = None  # an import of it raises ModuleNotFoundError
import torch, torch._dynamo
before = set(sys.modules)
import silc_kernels
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    new = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert "silc_kernels" in new
    assert new <= {"silc_kernels", "torch", "triton"}


def test_the_kernels_themselves_need_no_numpy():
    code = """
import sys
sys.modules["numpy"] = None
import silc_kernels.contrastive.triton_tiles, silc_kernels.distill.triton_logits, silc_kernels.distill.triton_head
import silc_kernels.patch_embedding.triton_backend, silc_kernels.gate.__main__
"""
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
