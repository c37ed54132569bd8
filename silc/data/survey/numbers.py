"""Many numbers in few: quantiles, and histograms with fixed borders."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
NAMES = ("least", "5 %", "25 %", "median", "75 %", "95 %", "most")
MEGAPIXELS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
RATIOS = (1 / 3, 1 / 2, 2 / 3, 4 / 5, 0.95, 1 / 0.95, 5 / 4, 3 / 2, 2.0, 3.0)
RATIO_NAMES = (
    "narrower than 1:3",
    "1:3 to 1:2",
    "1:2 to 2:3",
    "2:3 to 4:5",
    "4:5 to 0.95",
    "square, within 5 %",
    "1.05 to 5:4",
    "5:4 to 3:2",
    "3:2 to 2:1",
    "2:1 to 3:1",
    "wider than 3:1",
)


class Bin(NamedTuple):
    """A range of a histogram in words, and how many lie in it."""

    name: str
    images: int


def quantiles(values: Sequence[float] | np.ndarray) -> list[float]:
    """The values at SHARES, each one that occurs (of two the lower); none of no values."""
    found = np.sort(np.asarray(values, np.float64))
    return [float(found[int(share * (len(found) - 1))]) for share in SHARES] if len(found) else []


def megapixels(width: np.ndarray, height: np.ndarray) -> list[Bin]:
    """How many images have so many million pixels."""
    borders = [f"{border:g}" for border in MEGAPIXELS]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(borders)]
    names = [f"less than {borders[0]}", *between, f"{borders[-1]} or more"]
    return _bins(width * height / 1e6, MEGAPIXELS, names)


def ratios(width: np.ndarray, height: np.ndarray) -> list[Bin]:
    """How many images have such a ratio of width to height."""
    return _bins(width / height, RATIOS, RATIO_NAMES)


def _bins(values: np.ndarray, borders: Sequence[float], names: Sequence[str]) -> list[Bin]:
    """A border belongs to the range above it. Empty ranges at both ends are left out."""
    counts = np.bincount(np.searchsorted(borders, values, side="right"), minlength=len(names)).tolist()
    bins = [Bin(name, count) for name, count in zip(names, counts, strict=True)]
    filled = [number for number, one in enumerate(bins) if one.images]
    return bins[filled[0] : filled[-1] + 1] if filled else []
