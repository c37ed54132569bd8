"""What evaluation reads: splits, lists of pictures with what is known of each, read by number and in any order.

A split tells what it has (labels, captions, masks), and each picture's share of it is read when it is asked for. Files
that cannot be read raise Unreadable: such a picture is left out and counted. A file that contradicts another (a mask of
another size, a class without a name) is a mistake of the data set as a whole and raises ValueError.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from silc.config import DataConfig
from silc.data.decode import decode_picture
from silc.data.shards import ABSENT, ShardIndex, Unreadable

IGNORE = -1  # in masks: pixels that nobody learns from and no metric counts
LABELS, CAPTIONS, MASKS = "labels", "captions", "masks"

MaskRule = Callable[[np.ndarray], np.ndarray]
"""The values of a mask file -> numbers of classes, IGNORE where there is none; int64, same shape."""


class Split(Protocol):
    """Pictures by number.

    Attributes:
        title: for people.
        has: what its pictures have, of LABELS, CAPTIONS, MASKS.
    """

    title: str
    has: frozenset[str]

    def __len__(self) -> int: ...

    def key(self, number: int) -> str:
        """The picture's name."""

    def picture(self, number: int) -> Tensor:
        """uint8 [H, W, 3]. Raises Unreadable."""

    def label(self, number: int) -> int | None:
        """Its class; None where it has none."""

    def captions(self, number: int) -> list[str]:
        """Its captions."""

    def mask(self, number: int) -> Tensor:
        """Class of each pixel, or IGNORE: int64 [H, W]. Raises Unreadable, or ValueError for an unknown class."""


@dataclass(frozen=True)
class DataSet:
    """A data set to evaluate on.

    Attributes:
        name: for people.
        classes: names, in the order of the class numbers; as they stand in prompts.
        test: what is measured on.
        train: what few-shot classifiers and segmentation heads are fitted to; None: nothing is.
        templates: prompts that belong to the data set; None: those of the configuration.
        background: what becomes of pixels that no class covers, in words.
    """

    name: str
    classes: tuple[str, ...]
    test: Split
    train: Split | None = None
    templates: tuple[str, ...] | None = None
    background: str = "pixels without a class are not counted"


def zero_is_nothing(classes: int) -> MaskRule:
    """0: no class; i: class i - 1; the largest value of the file's type: no class, where no class needs it."""

    def rule(values: np.ndarray) -> np.ndarray:
        found = values.astype(np.int64) - 1
        return _drop_largest(found, values, classes + 1)

    return rule


def as_they_are(classes: int) -> MaskRule:
    """i: class i; the largest value of the file's type (255): no class, where no class needs it."""

    def rule(values: np.ndarray) -> np.ndarray:
        return _drop_largest(values.astype(np.int64), values, classes)

    return rule


def by_table(table: dict[int, int]) -> MaskRule:
    """table: value -> class; other values: no class."""
    lookup = np.full(max(table) + 2, IGNORE, dtype=np.int64)
    lookup[list(table)] = list(table.values())

    def rule(values: np.ndarray) -> np.ndarray:
        return lookup[np.minimum(values.astype(np.int64), len(lookup) - 1)]

    return rule


def _drop_largest(found: np.ndarray, values: np.ndarray, needed: int) -> np.ndarray:
    if np.issubdtype(values.dtype, np.integer) and needed <= np.iinfo(values.dtype).max:
        found[values == np.iinfo(values.dtype).max] = IGNORE
    return found


def decode_mask(data: bytes | None, rule: MaskRule, classes: int, name: str) -> Tensor:
    """A mask file's classes, int64 [H, W].

    Raises:
        Unreadable: none, or undecodable.
        ValueError: several channels, or a class beyond `classes`, with the mask's name.
    """
    if data is None:
        raise Unreadable("no mask")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            # "P" holds numbers with a palette for the eye, "I;16" and "I" more than 8 bits; all are numbers here.
            values = np.array(opened)
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable("undecodable mask") from error
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype == np.int32:  # how Pillow hands out 16-bit PNGs in some versions
        values = values.astype(np.uint16)
    if values.ndim != 2:
        raise ValueError(f"the mask of {name} has {values.shape[-1]} channels; a mask holds one class number a pixel")
    found = rule(values)
    if found.size and (found.max() >= classes or found.min() < IGNORE):
        bad = int(found.max())
        raise ValueError(
            f"the mask of {name} has class {bad}, but the class list names {classes} (0 to {classes - 1}): give the "
            "list that belongs to the masks, or the layout that numbers them so"
        )
    return torch.from_numpy(found)


def check_mask_size(mask: Tensor, picture: Tensor, name: str) -> None:
    """Raises ValueError when a mask [H, W] is not of its picture's [H, W, 3] size."""
    if mask.shape != picture.shape[:2]:
        (mh, mw), (ph, pw) = mask.shape, picture.shape[:2]
        raise ValueError(
            f"the mask of {name} is {mw} x {mh} pixels, its picture {pw} x {ph}: they do not belong together"
        )


class TarSplit:
    """A split in WebDataset shards.

    Members of a sample: a picture; `cls` (a number in text, as in CLIP_benchmark's sets) or `class` in the json: its
    label; `txt`: its captions, one a line; `mask.png`: 0 for no class, i for class i - 1.

    Args:
        config: which members hold picture and caption.
        patterns: see :func:`silc.data.shards.expand_shards`.
        title: for people.
        classes: number of classes that masks may hold.
        single_objects: a picture whose json says `objects: 1` has the class of its only `concept_ids` (training
            scenes of the sample set, which carry no `class`).

    Raises:
        ValueError: shards that are missing, are no tars or hold no picture.
    """

    def __init__(
        self,
        config: DataConfig,
        patterns: Sequence[str],
        *,
        title: str,
        classes: int = 0,
        single_objects: bool = False,
    ) -> None:
        columns = {
            "picture": config.image_keys,
            "caption": [config.caption_key],
            "json": ["json"],
            "cls": ["cls"],
            "mask": ["mask.png"],
        }
        self.title = title
        self._index = ShardIndex(patterns, columns, required=("picture",))
        self._places = [(shard, sample) for shard, count in enumerate(self._index.counts) for sample in range(count)]
        self._max_pixels, self._classes, self._single_objects = config.max_image_pixels, classes, single_objects
        self._rule = zero_is_nothing(classes)
        self._one_reader = threading.Lock()  # the index opens and closes shards as it goes
        held = {
            name: any((shard.spans[:, number, 0] != ABSENT).any() for shard in self._index.shards)
            for number, name in enumerate(columns)
        }
        labelled = held["cls"] or (held["json"] and any(self.label(i) is not None for i in range(len(self))))
        found = {LABELS: labelled, CAPTIONS: held["caption"], MASKS: held["mask"]}
        self.has = frozenset(name for name, there in found.items() if there)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, number: int) -> str:
        return self._index.key(*self._places[number])

    def picture(self, number: int) -> Tensor:
        return decode_picture(self._read(number, "picture"), self._max_pixels)

    def label(self, number: int) -> int | None:
        """None also where the json cannot be read: whoever needs the label leaves such a picture out.

        Raises ValueError, with the picture's name, where what is read is no class number.
        """
        try:
            written = self._read(number, "cls")
            info: Any = {"class": written.decode()} if written is not None else None
            if info is None:
                info = json.loads(self._read(number, "json") or b"{}")
        except (Unreadable, ValueError):
            return None
        if not isinstance(info, dict):
            raise ValueError(f"{self.key(number)}: its json is a {type(info).__name__}, not an object with a `class`")
        if self._single_objects and info.get("objects") == 1:
            return info["concept_ids"][0]
        label = info.get("class")
        if label is None or type(label) is int:
            return label
        if isinstance(label, str) and label.strip().isdecimal():
            return int(label)
        raise ValueError(f"{self.key(number)}: its class is {label!r}; a class is a number, its line in the class list")

    def captions(self, number: int) -> list[str]:
        """None also where they cannot be read: such a picture takes no part in retrieval."""
        try:
            text = (self._read(number, "caption") or b"").decode("utf-8")
        except (Unreadable, UnicodeDecodeError):
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    def mask(self, number: int) -> Tensor:
        return decode_mask(self._read(number, "mask"), self._rule, self._classes, self.key(number))

    def _read(self, number: int, column: str) -> bytes | None:
        with self._one_reader:
            return self._index.read(*self._places[number], column)
