"""Digests of what jobs hang on: a copy of a checkout has no commit, and one with changes a wrong one."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import ROOT

KERNELS = "kernels/silc_kernels"  # in every job
NOT_READ = {"__pycache__", "compile_gate.csv"}


def digest(command: Iterable[str], reads: Iterable[str], root: Path = ROOT) -> str:
    """Of the kernels, of the script or module of benchmarks that `command` starts with what it imports of them, and of
    the files and folders `reads`.
    """
    found = {path for place in (KERNELS, *reads) for path in files(root / place)}
    for word in command:
        if (first := module_file(word, root)) is not None:
            found |= imported(first, root)
    total = hashlib.sha256()
    for path in sorted(found):
        total.update(f"{path.relative_to(root)}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def files(place: Path) -> Iterator[Path]:
    """Itself, or all below a folder."""
    if place.is_file():
        yield place
    for path in place.rglob("*"):
        if path.is_file() and not NOT_READ & set(path.parts):
            yield path


def module_file(word: str, root: Path) -> Path | None:
    """The file of a script, or of a module as in benchmarks.kernels.smoke; None: of nothing in benchmarks."""
    script = Path(word)
    if script.suffix == ".py" and script.is_relative_to(root / "benchmarks"):
        return script
    if not word.startswith("benchmarks."):
        return None
    path = root / word.replace(".", "/")
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def imported(first: Path, root: Path) -> set[Path]:
    """`first`, and what it imports of benchmarks, anywhere in it, and what that imports."""
    found: set[Path] = set()
    waiting = [first]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += filter(None, (module_file(name, root) for name in imports(path)))
    return found


def imports(path: Path) -> Iterator[str]:
    """The modules that a file names in its imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
