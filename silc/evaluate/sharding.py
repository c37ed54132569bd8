"""How a task's work is shared among the ranks, limited in time, and put together again.

Work is cut into items (a batch of pictures, a picture, a chunk of captions), item k goes to rank k modulo their number,
and what comes back is put in the order of the items: what an item gives does not depend on the number of ranks, so no
metric does. A rank that runs out of time or meets a mistake in the data says so at the next exchange, and the task ends
on all ranks with that rank's words; none is left waiting.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from silc.config import Config
from silc.data.crops import resize_into
from silc.data.shards import Unreadable
from silc.data.splits import Split
from silc.distributed import World, all_gather_objects
from silc.evaluate.windows import geometry

T = TypeVar("T")


class TimedOut(Exception):
    """A task took longer than it may."""


@dataclass(frozen=True)
class Metric:
    """A figure that a task yields.

    Attributes:
        name: of the figure, within its task.
        value: a fraction, except for what is named otherwise.
        chance: what guessing gives; None where that has no meaning (a deviation).
    """

    name: str
    value: float
    chance: float | None = None


def some_of(items: Sequence[int], count: int) -> list[int]:
    """So many of the items, in their order, chosen at random and always the same; all where there are no more.

    Not every n-th: splits deal their classes in turn, and every second picture can mean every second class.
    """
    return [items[i] for i in sorted(np.random.default_rng(0).permutation(len(items))[:count])]


class Job:
    """One task on one model.

    Args:
        config: the run's.
        world: the ranks.
        title: for messages, "fewshot, teacher".
        limited: by eval.timeout_minutes.

    Attributes:
        notes: the protocol in words, for people.
        details: what the report shows beside the metrics.
        geometry: how pictures are segmented.
        skipped: (key, reason) of pictures that could not be read, of this rank; of all ranks after an exchange.
    """

    def __init__(self, config: Config, world: World, title: str, *, limited: bool = True) -> None:
        self.config, self.world, self._title = config, world, title
        self.notes: list[str] = []
        self.details: dict[str, object] = {}
        self.skipped: set[tuple[str, str]] = set()
        self.geometry = geometry(config)
        self._ends = time.monotonic() + 60 * config.eval.timeout_minutes if limited else float("inf")

    def check(self) -> None:
        """Call between pieces of work. Raises TimedOut when the task's time is over."""
        if time.monotonic() > self._ends:
            raise TimedOut(
                f"{self._title} took longer than eval.timeout_minutes={self.config.eval.timeout_minutes:g} on rank "
                f"{self.world.rank} and was given up; raise that, or lower eval.limit"
            )

    def chosen(self, split: Split, limit: int | None = None) -> list[int]:
        """Numbers of the pictures to use, rising: all, or so many of them (None: eval.limit); see :func:`some_of`."""
        limit = self.config.eval.limit if limit is None else limit
        return some_of(range(len(split)), limit) if limit else list(range(len(split)))

    def each(self, items: Sequence[T], function: Callable[[T], object], split: Split | None = None) -> list:
        """[function(item) for item in items], computed by all ranks, in order, on every rank (collective).

        split: the items are numbers of its pictures; one that raises Unreadable is counted and gives None.
        """
        mine = self._together(lambda: [self._one(function, item, split) for item in self._share(items)])
        rows = itertools.zip_longest(*mine)  # item k is the (k // world)-th of rank k % world
        return list(itertools.islice(itertools.chain.from_iterable(rows), len(items)))

    def summed(self, numbers: Sequence[int], function: Callable[[int], Tensor], zero: Tensor, split: Split) -> Tensor:
        """zero plus the sum of function(number), int64 on the CPU, over pictures of a split (collective).

        Pictures that raise Unreadable are counted and left out.
        """

        def local() -> Tensor:
            total = zero
            for number in self._share(numbers):
                found = self._one(function, number, split)
                if found is not None:
                    total = total + found
            return total

        return sum(self._together(local))

    def on_main(self, function: Callable[[], T]) -> T:
        """What rank 0 computes, on every rank (collective); the others wait."""
        return self._together(function if self.world.main else lambda: None)[0]

    def over_pictures(
        self, split: Split, numbers: Sequence[int], size: int, function: Callable[[Tensor], Tensor]
    ) -> tuple[list[int], Tensor]:
        """Function of whole pictures resized to squares (collective).

        function: uint8 [b, 3, size, size] on the device -> [b, ...].

        Returns:
            The numbers of the pictures that could be read, and the function's values for them on the CPU.

        Raises ValueError when there is none.
        """
        step = self.config.eval.batch

        def one(first: int) -> tuple[list[int], Tensor]:
            kept, images = self._read(split, numbers[first : first + step], size)
            return kept, function(images.to(self.world.device)).cpu() if kept else images

        parts = [part for part in self.each(range(0, len(numbers), step), one) if part[0]]
        if not parts:
            why = self.why_unusable(split, numbers)
            raise ValueError(f"{split.title}: no picture of {len(numbers)} can be used; {why}")
        return [number for kept, _ in parts for number in kept], torch.cat([values for _, values in parts])

    def why_unusable(self, split: Split, numbers: Sequence[int]) -> str:
        """For messages: how many of these pictures could not be read, by reason; or a guess where all could."""
        keys = {split.key(number) for number in numbers}
        reasons = Counter(why for key, why in self.skipped if key in keys)
        return ", ".join(f"{count} have: {why}" for why, count in reasons.most_common()) or "is the split empty?"

    def _read(self, split: Split, numbers: Sequence[int], size: int) -> tuple[list[int], Tensor]:
        def one(number: int) -> Tensor | Unreadable:
            try:
                image = torch.empty(3, size, size, dtype=torch.uint8)
                resize_into(image, split.picture(number).contiguous())
                return image
            except Unreadable as error:
                return error

        with ThreadPoolExecutor(max(1, self.config.data.workers)) as pool:
            read = list(pool.map(one, numbers))
        for number, image in zip(numbers, read, strict=True):
            if isinstance(image, Unreadable):
                self.skipped.add((split.key(number), str(image)))
        kept = [number for number, image in zip(numbers, read, strict=True) if isinstance(image, Tensor)]
        images = [image for image in read if isinstance(image, Tensor)]
        return kept, torch.stack(images) if images else torch.empty(0, 3, size, size, dtype=torch.uint8)

    def _share(self, items: Sequence[T]) -> Iterable[T]:
        for item in items[self.world.rank :: self.world.size]:
            self.check()
            yield item

    def _one(self, function: Callable[[T], object], item: T, split: Split | None) -> object | None:
        try:
            return function(item)
        except Unreadable as error:
            if split is None:
                raise
            self.skipped.add((split.key(item), str(error)))
            return None

    def _together(self, local: Callable[[], T]) -> list[T]:
        """Every rank's local(), or the first rank's TimedOut or ValueError, on every rank."""
        try:
            mine = (None, local(), self.skipped)
        except (TimedOut, ValueError) as error:
            mine = (error, None, self.skipped)
        # A job of one rank may run beside others that wait: what the report shows is made by rank 0 alone.
        everyone = all_gather_objects(mine) if self.world.size > 1 else [mine]
        for error, _, _ in everyone:
            if error is not None:
                raise error
        self.skipped = set().union(*(skipped for _, _, skipped in everyone))
        return [value for _, value, _ in everyone]
