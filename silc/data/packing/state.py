"""`pack.json`: what a folder of shards is made of, written before any work, and what became of it in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silc.data.shards.errors import few
from silc.data.shards.places import only_one
from silc.files import parse_json, read_text, write_text

NAME, LOCK = "pack.json", ".pack.lock"
LIMIT = 1 << 30  # bytes
VERSION = 1  # of the plan: other versions make other shards of the same rows

Plan = dict[str, Any]
"""Everything that decides about the bytes of the shards: `source`, `rows` (their number and hash), options by name."""


@dataclass
class Finished:
    """What a pack became.

    Attributes:
        samples, captions: in all shards.
        full: samples with as many captions as are read; further ones were left out.
        shards: name, samples and bytes of each.
        kinds: images by extension.
        skipped: rows that were left out, by reason.
        examples: names of some of them, by reason.
    """

    samples: int = 0
    captions: int = 0
    full: int = 0
    shards: list[tuple[str, int, int]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)


def read(folder: Path) -> tuple[Plan, Finished | None] | None:
    """The plan of a folder, and what became of it; None: the folder has none.

    Raises ValueError where it is damaged.
    """
    path = folder / NAME
    try:
        value = parse_json(read_text(path, LIMIT))
        plan, finished = value["plan"], value["finished"]
        if not isinstance(plan, dict):
            raise TypeError
        if finished is None:
            return plan, None
        done = Finished(**finished)
        done.shards = [(str(name), int(samples), int(size)) for name, samples, size in done.shards]
        done.kinds, done.skipped = Counter(done.kinds), Counter(done.skipped)
        return plan, done
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is damaged; remove it and the shards beside it, or take another --out") from None


def write(folder: Path, plan: Plan, finished: Finished | None = None) -> None:
    """Write the plan of a folder, and in the end what became of it. Raises OSError."""
    value = {"plan": plan, "finished": None if finished is None else vars(finished)}
    write_text(folder / NAME, json.dumps(value, indent=1) + "\n")


def difference(before: Plan, now: Plan) -> str:
    """What differs between two plans, in words; empty: nothing."""
    changed = []
    if before.get("source") != now["source"]:
        changed.append(f"the source was {before.get('source')}")
    elif before.get("rows") != now["rows"]:
        changed.append("the source has changed")
    if before.get("version") != now["version"]:
        changed.append("another version of this command began it")
    options = before.get("options")
    earlier = options if isinstance(options, dict) else {}
    for name, value in now["options"].items():
        if earlier.get(name) != value:
            changed.append(f"--{name} was {_shown(earlier.get(name))}, is {_shown(value)}")
    return few(changed)


def _shown(value: object) -> str:
    return "not given" if value is None else "off" if value is False else "on" if value is True else str(value)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only pack that writes into a folder, where its file system has locks.

    Raises ValueError where another one does.
    """

    def refuse(_: str) -> None:
        raise ValueError(f"another `silc shards pack` writes into {folder}; wait for it, or take another --out")

    with only_one(folder / LOCK, refuse):
        yield
