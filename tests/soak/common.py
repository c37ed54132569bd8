"""What the long checks share: a table that counts failures, and sets of tiny pairs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data.pairs import pairs, pictures, write_tar
from silc.config import (
    Config,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    SourceRule,
    TextConfig,
    TrainConfig,
    ViewsConfig,
)

SIDE = 16  # pixels of an image
BATCH = 120  # divisible by 1, 2, 3, 5 and 8 ranks


class Table:
    """Rows of a check as they are found; a row that is not as promised is marked, and counted.

    Args:
        title: what is promised.
        columns: their names.
        widths: in characters.
    """

    def __init__(self, title: str, columns: Sequence[str], widths: Sequence[int]) -> None:
        self._widths, self._start = widths, time.monotonic()
        self.rows = self.failures = 0
        print(f"\n{title}\n{self._line(columns)}", flush=True)

    def row(self, *cells: object, holds: bool) -> None:
        """Print a row."""
        self.rows += 1
        self.failures += not holds
        seconds = time.monotonic() - self._start
        print(f"{self._line(cells)}  {'ok' if holds else 'BROKEN':8s}{seconds:8.0f} s", flush=True)

    def _line(self, cells: Sequence[object]) -> str:
        return "  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, self._widths, strict=True))


def finish(*tables: Table) -> None:
    """End the program: status 1 if a row of a table was not as promised."""
    failures = sum(table.failures for table in tables)
    print(f"\n{failures} broken" if failures else "\nall promises held", flush=True)
    sys.exit(1 if failures else 0)


def write_set(folder: Path, counts: Sequence[int], prefix: str = "") -> int:
    """Shards PREFIXNNN.tar of the given numbers of tiny pairs. Returns the number of samples."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = pictures(64, SIDE, SIDE)
    first = 0
    for number, count in enumerate(counts):
        path = folder / f"{prefix}{number:03}.tar"
        first += write_tar(path, pairs(first, count, pool))
        path.with_name(f"{path.name}.idx").unlink()  # the index is the loader's to make
    return first


def config(shards: Sequence[str] = (), sources: Sequence[tuple[str, float]] = (), **data: object) -> Config:
    """A run that takes tiny crops; keywords are keys of its data section."""
    rules = [SourceRule(shards=[folder], weight=weight) for folder, weight in sources]
    return Config(
        data=DataConfig(shards=list(shards), sources=rules, **{"workers": 0, "shuffle_block": 1024} | data),
        model=ModelConfig(text=TextConfig(context_length=8)),
        views=ViewsConfig(n_global=1, n_local=0, global_size=SIDE),
        objective=ObjectiveConfig(distill=False),
        train=TrainConfig(global_batch=BATCH, seed=0),
    )
