"""The device tests import, at their top, what a machine with a GPU has: torch, triton, numpy and pytest alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEVICE = ROOT / "tests" / "kernels" / "device"
THERE = {*sys.stdlib_module_names, "torch", "triton", "numpy", "pytest", "silc_kernels"}
OURS = ("tests", "benchmarks")  # held to the same in their turn


def top(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that a file names in imports outside of functions, in conditions too."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names if str(node.module).startswith(OURS))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody"):
                yield from top(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from top(handler.body)


def strange(first: list[Path]) -> list[str]:
    """What such a machine has not, each behind the name of its file; also of the files that `first` import."""
    found, seen, waiting = [], set(), list(first)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in top(ast.parse(path.read_text(encoding="utf-8")).body):
            place = ROOT / name.replace(".", "/")
            if name.partition(".")[0] in OURS:
                waiting += (each for each in (place.with_suffix(".py"), place / "__init__.py") if each.is_file())
            elif name.partition(".")[0] not in THERE:
                found.append(f"{path.name}: {name}")
    return found


def test_device_tests_need_torch_triton_numpy_and_pytest_alone():
    above = [folder / "conftest.py" for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "kernels")]
    files = [*DEVICE.rglob("*.py"), *(path for path in above if path.is_file())]
    assert len(files) > 8
    assert strange(files) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import hypothesis", ["test_it.py: hypothesis"]),
        ("try:\n    from timm.layers import Mlp\nexcept ImportError:\n    pass", ["test_it.py: timm.layers"]),
        ("from tests.kernels.dropins import pages", ["pages.py: tools.run_blocks"]),
        ("import torch, os\nfrom silc_kernels.gate import dry\ndef test(): import timm", []),
        ("from tests.kernels.test_floors import room\nfrom tests import browser", []),
    ],
)
def test_an_import_of_something_else_is_found(text, expected, tmp_path):
    (tmp_path / "test_it.py").write_text(text)
    assert strange([tmp_path / "test_it.py"]) == expected
