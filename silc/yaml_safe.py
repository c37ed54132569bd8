"""YAML from files that others wrote: no aliases, no key twice, of a limited size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from silc.files import read_text

MAX_BYTES = 1 << 20  # a configuration has about ten thousand
MAX_INTEGER, MAX_FLOAT = 1000, 100  # characters
# What PyYAML's constructors raise for text that is none of its type: a date of month 13, `!!bool x`, `!!float ""`.
NOT_OF_ITS_TYPE = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)


class _Plain(yaml.SafeLoader):
    """Without aliases, of which a few lines can stand for more values than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor} is not allowed; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except NOT_OF_ITS_TYPE:
            kind = node.tag.rpartition(":")[2][:40]
            raise yaml.constructor.ConstructorError(
                None, None, f"a value that is no {kind}; put text in quotes", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _short(construct: Callable[[Any, yaml.ScalarNode], Any], most: int) -> Callable[[_Plain, yaml.ScalarNode], Any]:
    """A constructor of numbers, for texts of at most `most` characters: the time of longer ones has no bound."""

    def checked(loader: _Plain, node: yaml.ScalarNode) -> Any:
        if len(node.value) > most:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} characters; at most {most} are read", node.start_mark
            )
        return construct(loader, node)

    return checked


_Plain.add_constructor("tag:yaml.org,2002:int", _short(yaml.SafeLoader.construct_yaml_int, MAX_INTEGER))
_Plain.add_constructor("tag:yaml.org,2002:float", _short(yaml.SafeLoader.construct_yaml_float, MAX_FLOAT))


def plain_value(text: str) -> Any:
    """The value that a text is. Raises yaml.YAMLError as :func:`read_plain` does, and RecursionError."""
    return yaml.load(text, Loader=_Plain)


def read_plain(path: str | Path) -> Any:
    """The value in a YAML file.

    Raises:
        ValueError: no regular file, one of more than `MAX_BYTES`, text that is not UTF-8, or values nested too deep.
        yaml.YAMLError: text that is no YAML, an alias, a key that is given twice in one mapping, or a value that is not
            of its type, as a date of month 13.
        OSError: a file that cannot be read.
    """
    text = read_text(path, MAX_BYTES)
    try:
        return plain_value(text)
    except RecursionError:
        raise ValueError(f"{path} nests values too deep") from None
