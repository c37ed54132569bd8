"""Many short texts in one block of memory.

A list of a million addresses is a million objects, and each process that looks at one copies the page it lies in, since
looking changes its reference count. Here they are one object, which forked workers share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import overload

import numpy as np

TOGETHER = 8192  # texts decoded at a time by an iteration


class Texts(Sequence[str]):
    """An immutable sequence of texts.

    Args:
        data: the texts one after the other, utf-8 (bytes that are not, as in names of files, become surrogates).
        stops: int64 [n], the end of each in `data`.
    """

    def __init__(self, data: bytes, stops: np.ndarray) -> None:
        self._data, self._stops = data, stops

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        return cls(b"".join(encoded), np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded)))

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of several sequences, in order."""
        firsts = [0, *accumulate(len(part._data) for part in parts)]
        stops = [part._stops + first for part, first in zip(parts, firsts, strict=False)]
        return cls(b"".join(part._data for part in parts), np.concatenate(stops) if stops else np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self._stops)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Texts: ...

    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        index = range(len(self))[index]
        first = int(self._stops[index - 1]) if index else 0
        return self._data[first : int(self._stops[index])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        first = 0
        for start in range(0, len(self), TOGETHER):
            for stop in self._stops[start : start + TOGETHER].tolist():
                yield self._data[first:stop].decode("utf-8", "surrogateescape")
                first = stop

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({list(self[:3])}{', ...' if len(self) > 3 else ''})"

    def take(self, indices: np.ndarray) -> Texts:
        """The texts at these indices, in their order."""
        starts = np.concatenate([[0], self._stops[:-1]]) if len(self) else self._stops
        starts, stops = starts[indices], self._stops[indices]
        pieces = [self._data[first:stop] for first, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        return Texts(b"".join(pieces), np.cumsum(stops - starts))
