"""A job, one task on one model: its work shared among the ranks, limited in time, and gathered again.

Work is cut into items (a batch of images, one image, a chunk of captions). Item k goes to rank k modulo the number of
ranks, and results come back in the order of the items: what an item gives does not depend on the number of ranks, so no
metric does. A rank on which anything goes wrong (time, a mistake in the data, memory, a file system) reports it at the
next exchange; the task then ends on every rank with that rank's message, and none is left waiting. A task ends with an
exchange too (:meth:`Job.settle`), so that all ranks make equally many, wherever one of them failed.
"""

from __future__ import annotations

import itertools
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from silc.config import Config
from silc.data.shards import Unreadable
from silc.data.splits import Split, image_and_mask
from silc.data.views.crops import resize_into
from silc.distributed import World, all_gather_objects
from silc.evaluate.bootstrap import Resamples, groups_of
from silc.evaluate.kept import Kept
from silc.evaluate.segmentation.windows import geometry
from silc.text import plural

S = TypeVar("S")
T = TypeVar("T")

LONGEST = 1000  # characters of a message
TOGETHER = 16  # images whose windows go through a model together, at most
HELD = 64 << 20  # bytes that they and what is made of them take together; one image may take more
GROUPS = 1024  # images whose groups are read between two looks at the clock
VALUES = "values"  # what over_images keeps


_asked: Callable[[], bool] | None = None  # see ended_when


class TimedOut(Exception):
    """A task took longer than eval.timeout_minutes."""


class Ended(Exception):
    """Some rank was asked to end the evaluation: no task of it goes on, and nothing is measured."""


@contextmanager
def ended_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Jobs inside raise Ended, on every rank, soon after `asked` says so on one."""
    global _asked
    before, _asked = _asked, asked
    try:
        yield
    finally:
        _asked = before


def bytes_of(tensor: Tensor) -> int:
    """Of its numbers."""
    return tensor.numel() * tensor.element_size()


class TaskFailed(Exception):
    """A task ended by something that is neither a lack of time nor a mistake in the data; the message names it."""


def failure(error: Exception) -> Ended | TimedOut | TaskFailed | ValueError:
    """What ended a task, in a form that can be sent to other ranks, with a message of at most LONGEST characters."""
    text = str(error)[:LONGEST]
    if isinstance(error, Ended | TimedOut | TaskFailed):
        return type(error)(text)
    if isinstance(error, ValueError):
        return ValueError(text)
    return TaskFailed(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def some_of(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, in their order, a random choice that is always the same; all where there are no more.

    Not every n-th: splits deal their classes in turn, and every second image can mean every second class.
    """
    return [items[i] for i in sorted(np.random.default_rng(0).permutation(len(items))[:count])]


class Job:
    """One task on one model.

    Args:
        config: of the run.
        world: the ranks.
        title: for messages, such as "fewshot, teacher".
        limited: whether eval.timeout_minutes applies.

    Attributes:
        notes: the protocol in words, for the table and the report.
        details: what the report shows beside the metrics.
        geometry: how images are cut for segmentation.
        skipped: (key, reason) of images that could not be read, of this rank; of all ranks after an exchange.
        kept: what it shares with the other jobs of an evaluation.
    """

    def __init__(
        self, config: Config, world: World, title: str, *, limited: bool = True, kept: Kept | None = None
    ) -> None:
        self.config, self.world, self._title = config, world, title
        self.kept = kept or Kept()
        self.notes: list[str] = []
        self.details: dict[str, Any] = {}
        self.skipped: set[tuple[str, str]] = set()
        self.geometry = geometry(config)
        self._ends = time.monotonic() + 60 * config.eval.timeout_minutes if limited else float("inf")
        self._agreed: Exception | None = None  # what ended the task, known to all ranks

    def check(self) -> None:
        """Call between pieces of work. Raises TimedOut when the task's time is over, Ended when that was asked for."""
        if _asked is not None and _asked():
            raise Ended
        if time.monotonic() > self._ends:
            raise TimedOut(
                f"{self._title} took longer than eval.timeout_minutes={self.config.eval.timeout_minutes:g} on rank "
                f"{self.world.rank} and was given up; raise that, or lower eval.limit"
            )

    def chosen(self, split: Split, limit: int | None = None) -> list[int]:
        """Indices of the images to use, ascending: all of them (limit 0), or `limit` that :func:`some_of` chooses.

        limit: None for eval.limit.
        """
        limit = self.config.eval.limit if limit is None else limit
        return some_of(range(len(split)), limit) if limit else list(range(len(split)))

    def each(self, items: Sequence[S], function: Callable[[S], T]) -> list[T]:
        """[function(item) for item in items], computed by all ranks, in order, on every rank (collective)."""
        mine = self._together(lambda: [function(item) for item in self._share(items)])
        rows = itertools.zip_longest(*mine)  # item k is the (k // world)-th of rank k % world
        return list(itertools.islice(itertools.chain.from_iterable(rows), len(items)))

    def several(
        self,
        split: Split,
        indices: Sequence[int],
        read: Callable[[int], S],
        function: Callable[[list[tuple[int, S]]], list[T]],
        size: Callable[[S], int],
    ) -> list[T]:
        """A function of a few images of a split at a time, which gives a value for each (collective).

        read: of an image's index; one that raises Unreadable is counted and left out.
        function: of (index, what was read); small models take longer to call than to run.
        size: bytes that what was read and what is made of it take; at most TOGETHER images are read before a call,
            and of large ones only as many as HELD allows.

        Returns the values, of the images that could be read, in order.
        """

        def one(first: int) -> list[T]:
            values: list[T] = []
            found: list[tuple[int, S]] = []
            held = 0
            for index in indices[first : first + TOGETHER]:
                self.check()
                try:
                    item = read(index)
                except Unreadable as error:
                    self.skipped.add((split.key(index), str(error)))
                    continue
                if found and held + size(item) > HELD:
                    values += function(found)
                    found, held = [], 0
                found.append((index, item))
                held += size(item)
            return values + function(found) if found else values

        return [value for part in self.each(range(0, len(indices), TOGETHER), one) for value in part]

    def on_main(self, function: Callable[[], T]) -> T:
        """What rank 0 computes, on every rank (collective); the others wait."""
        return cast(T, self._together(lambda: function() if self.world.main else None)[0])

    def over_images(
        self,
        split: Split,
        indices: Sequence[int],
        size: int,
        function: Callable[[Tensor], Tensor],
        name: Hashable = None,
    ) -> tuple[list[int], Tensor]:
        """A function of whole images, each resized to a square (collective).

        function: uint8 [b, 3, size, size] on the device -> [b, ...].
        name: of the function; a later job of the evaluation that asks for one of this name, for the same images, is
            given what it returned here. None: not to be kept.

        Returns:
            The indices of the images that could be read, and the function's values for them on the CPU.

        Raises ValueError when no image can be read.
        """

        def made() -> tuple[list[int], Tensor, set[tuple[str, str]]]:
            kept, values = self._over_images(split, indices, size, function)
            lost = {split.key(index) for index in set(indices) - set(kept)}
            return kept, values, {(key, why) for key, why in self.skipped if key in lost}

        key = (VALUES, name, id(split), size, tuple(indices))
        kept, values, lost = made() if name is None else self.kept.small(key, made)
        self.skipped |= lost
        return kept, values

    def _over_images(
        self, split: Split, indices: Sequence[int], size: int, function: Callable[[Tensor], Tensor]
    ) -> tuple[list[int], Tensor]:
        step = self.config.eval.batch

        def one(first: int) -> tuple[list[int], Tensor]:
            kept, images = self._read(split, indices[first : first + step], size)
            return kept, function(images.to(self.world.device)).cpu() if kept else images

        parts = [part for part in self.each(range(0, len(indices), step), one) if part[0]]
        if not parts:
            why = self.why_unusable(split, indices)
            raise ValueError(f"{split.title}: none of {plural(len(indices), 'image')} can be used; {why}")
        return [index for kept, _ in parts for index in kept], torch.cat([values for _, values in parts])

    def resamples(self, split: Split, indices: Sequence[int]) -> Resamples:
        """Of images, for the errors of metrics (collective): see :func:`silc.evaluate.bootstrap.groups_of`."""

        def made() -> Resamples:
            chunks = [indices[first : first + GROUPS] for first in range(0, len(indices), GROUPS)]
            return Resamples(
                list(itertools.chain.from_iterable(self.each(chunks, lambda chunk: groups_of(split, chunk))))
            )

        return self.kept.small(("resamples", id(split), tuple(indices)), made)

    def image_and_mask(self, split: Split, index: int) -> tuple[Tensor, Tensor]:
        """:func:`silc.data.splits.image_and_mask`, read once in an evaluation; neither may be changed."""
        key = ("mask", id(split), index)
        return self.kept.large(key, lambda: image_and_mask(split, index), lambda both: sum(map(bytes_of, both)))

    def why_unusable(self, split: Split, indices: Sequence[int]) -> str:
        """For messages: how many of these images could not be read, by reason; a question where all could be read."""
        keys = {split.key(index) for index in indices}
        reasons = Counter(why for key, why in self.skipped if key in keys)
        return ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common()) or "is the split empty?"

    def _read(self, split: Split, indices: Sequence[int], size: int) -> tuple[list[int], Tensor]:
        def one(index: int) -> Tensor | Unreadable:
            try:
                return self.kept.large(("square", id(split), index, size), lambda: square(index), bytes_of)
            except Unreadable as error:
                return error

        def square(index: int) -> Tensor:
            out = torch.empty(3, size, size, dtype=torch.uint8)
            resize_into(out, split.image(index).contiguous())
            return out

        with ThreadPoolExecutor(max(1, self.config.data.workers)) as pool:
            read = list(pool.map(one, indices))
        for index, image in zip(indices, read, strict=True):
            if isinstance(image, Unreadable):
                self.skipped.add((split.key(index), str(image)))
        kept = [index for index, image in zip(indices, read, strict=True) if isinstance(image, Tensor)]
        images = [image for image in read if isinstance(image, Tensor)]
        return kept, torch.stack(images) if images else torch.empty(0, 3, size, size, dtype=torch.uint8)

    def _share(self, items: Sequence[S]) -> Iterable[S]:
        for item in items[self.world.rank :: self.world.size]:
            self.check()
            yield item

    def settle(self, error: Exception | None = None) -> None:
        """End the task: every rank calls it once it has left the task (collective).

        error: what the task ended with on this rank; None: nothing went wrong here.

        Raises Ended, TimedOut, ValueError or TaskFailed where something went wrong on any rank, the same on all.
        """
        if error is not None and error is self._agreed:
            raise error
        self._exchange(None if error is None else self._told(error), None)

    def _together(self, local: Callable[[], T]) -> list[T]:
        """Every rank's local(), or what the first rank failed with, on every rank."""
        wrong, value = None, None
        try:
            value = local()
        except Exception as error:
            wrong = self._told(error)
        return [cast(T, each) for each in self._exchange(wrong, value)]

    def _told(self, error: Exception) -> Ended | TimedOut | TaskFailed | ValueError:
        """The failure to send. Of what no one foresaw, where it happened is printed here, on the rank that knows it."""
        if not isinstance(error, Ended | TimedOut | ValueError):
            print(f"rank {self.world.rank}: {self._title} failed:", file=sys.stderr)
            traceback.print_exception(error)
        return failure(error)

    def _exchange(self, wrong: Exception | None, value: object) -> list[object]:
        """Every rank's value; raises the first rank's failure, the same on all (collective)."""
        mine = wrong, value, self.skipped
        # A job of one rank may run while the others wait: what the report shows is made by rank 0 alone.
        everyone = all_gather_objects(mine) if self.world.size > 1 else [mine]
        self.skipped = set().union(*(skipped for _, _, skipped in everyone))
        for found, _, _ in everyone:
            if found is not None:
                self._agreed = found
                raise found
        return [each for _, each, _ in everyone]
