"""Which configuration keys the code reads: a small type inference over attribute chains.

A read is `x.key` where `x` is known to be the key's section: a parameter annotated with the section's class, a name or
`self` attribute assigned from one, an attribute named `config` (`job.config`), or a chain from any of them
(`config.views.flip`, `views.flip`, `self._views.flip`). A property or method of a section counts with what it reads,
where it is read itself.
"""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from silc import config as config_module

Key = tuple[str, str]  # class, field

# A key that only these read is unused.
CONFIGURATION = ("silc/config/", "silc/config_rules.py", "silc/config_io.py")

SECTIONS = {
    name: cls for name, cls in vars(config_module).items() if dataclasses.is_dataclass(cls) and isinstance(cls, type)
}
MEMBERS = {  # properties and methods
    (section, name)
    for section, cls in SECTIONS.items()
    for name, value in vars(cls).items()
    if isinstance(value, property | types.FunctionType) and not name.startswith("_")
}


def fields() -> set[Key]:
    """Every key that holds a value; the fields that hold sections are not among them."""
    return {key for key, section in _field_types().items() if section is None}


def _field_types() -> dict[Key, str | None]:
    """(class, field) -> the section it holds, or the class of a list's items, or None for a plain value."""
    out: dict[Key, str | None] = {}
    for name, cls in SECTIONS.items():
        for field, hint in typing.get_type_hints(cls).items():
            out[name, field] = hint.__name__ if dataclasses.is_dataclass(hint) else None
    return out


ITEMS = {("OptimConfig", "rules"): "ParameterRule", ("DataConfig", "sources"): "SourceRule"}
TYPES = _field_types()


class _Reads(ast.NodeVisitor):
    """Collects reads of one module."""

    def __init__(self, self_type: str | None = None) -> None:
        self.keys: set[Key] = set()
        self.members: set[Key] = set()
        self._names: list[dict[str, str | None]] = [{}]
        self._self: dict[str, str] = {}
        self._self_type = self_type

    def resolve(self, node: ast.AST) -> str | None:
        """The section that an expression holds, or None."""
        if isinstance(node, ast.Name):
            if node.id == "self":
                return self._self_type
            return next((scope[node.id] for scope in reversed(self._names) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self" and self._self_type is None:
                return self._self.get(node.attr)
            owner = self.resolve(node.value)
            if owner is None and node.attr == "config":  # what carries the run's configuration calls it so
                return "Config"
            return TYPES.get((owner, node.attr)) if owner else None
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.resolve(node.value)
        if owner and isinstance(node.ctx, ast.Load):
            if (owner, node.attr) in TYPES:
                self.keys.add((owner, node.attr))
            elif (owner, node.attr) in MEMBERS:
                self.members.add((owner, node.attr))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._self = self._self, {}
        for method in sorted(node.body, key=lambda item: getattr(item, "name", "") != "__init__"):
            self.visit(method)
        self._self = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        annotated = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments}
        self._names.append({name: kind if kind in SECTIONS else None for name, kind in annotated.items()})
        self.generic_visit(node)
        self._names.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for left, right in pairs:
                self._bind(left, self.resolve(right))

    def visit_For(self, node: ast.For) -> None:
        self._bind_items(node.target, node.iter)
        self.generic_visit(node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self._names.append({})
        for generator in node.generators:
            self._bind_items(generator.target, generator.iter)
        self.generic_visit(node)
        self._names.pop()

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def _bind_items(self, target: ast.AST, iterated: ast.AST) -> None:
        """Loops over a list of sections, or over (x, section) pairs that keep the section's name."""
        if isinstance(iterated, ast.Attribute):
            item = ITEMS.get((self.resolve(iterated.value) or "", iterated.attr))
            if item:
                self._bind(target, item)
        elif isinstance(target, ast.Tuple) and isinstance(iterated, ast.Name) and iterated.id == "rules":
            self._bind(target.elts[-1], "ParameterRule")

    def _bind(self, target: ast.AST, section: str | None) -> None:
        if isinstance(target, ast.Name):
            self._names[-1][target.id] = section
        elif section and isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            self._self[target.attr] = section


def _modules(root: Path) -> Iterator[Path]:
    for folder in ("silc", "launch", "kernels"):
        for path in sorted((root / folder).rglob("*.py")):
            if not path.relative_to(root).as_posix().startswith(CONFIGURATION):
                yield path


def reads(root: Path) -> set[Key]:
    """Every key read outside CONFIGURATION, directly or through a member of a section."""
    keys: set[Key] = set()
    members: set[Key] = set()
    for path in _modules(root):
        found = _Reads()
        found.visit(ast.parse(path.read_text(encoding="utf-8")))
        keys |= found.keys
        members |= found.members
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((root / "silc/config").glob("*.py"))]
    for section in (node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in section.body:
            if isinstance(node, ast.FunctionDef) and (section.name, node.name) in members:
                found = _Reads(self_type=section.name)
                found.visit(node)
                keys |= found.keys
    return keys
