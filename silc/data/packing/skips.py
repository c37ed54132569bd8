"""Rows that are left out: counted by reason with a few examples, and all of them in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from silc.data.packing.rows import Skip
from silc.data.shards.errors import SHOWN, few
from silc.files import replacing


class Tally:
    """Counts rows that were left out.

    Attributes:
        counts: by reason.
        examples: names of the first few of each reason.
    """

    def __init__(self, counts: dict[str, int] | None = None, examples: dict[str, list[str]] | None = None) -> None:
        self.counts: Counter[str] = Counter(counts or {})
        self.examples: dict[str, list[str]] = {reason: list(names) for reason, names in (examples or {}).items()}

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, skip: Skip) -> None:
        """Count a row."""
        self.counts[skip.reason] += 1
        self._show(skip.reason, [skip.name])

    def update(self, other: Tally) -> None:
        """Count what another has counted."""
        self.counts.update(other.counts)
        for reason, names in other.examples.items():
            self._show(reason, names)

    def _show(self, reason: str, names: list[str]) -> None:
        shown = self.examples.setdefault(reason, [])
        shown += names[: SHOWN - len(shown)]

    def __str__(self) -> str:
        """The reasons, the most frequent one first, with an example of each."""
        return few([f"{count:,} {why} ({self.examples[why][0]})" for why, count in self.counts.most_common()])


class SkipFile(Tally):
    """A tally that writes each row into a file of JSON lines, as long as it is entered."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file: TextIO

    def __enter__(self) -> SkipFile:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()

    def add(self, skip: Skip) -> None:
        super().add(skip)
        self._file.write(json.dumps({"source": skip.name, "reason": skip.reason}) + "\n")


def join(paths: Iterable[Path], out: Path) -> None:
    """Write the lines of several files into one, which is whole or absent; no file where there is no line."""
    with replacing(out) as draft, draft.open("wb") as file:
        for path in paths:
            if path.exists():
                with path.open("rb") as lines:
                    while part := lines.read(1 << 20):
                        file.write(part)
    if not out.stat().st_size:
        out.unlink()
