"""What evaluation reads: splits, lists of images with labels, captions or masks, read by index and in any order.

A split declares what it has, and each image's part is read on demand. Files that cannot be read raise Unreadable: such
an image is left out and counted. A file that contradicts another (a mask of another size, a class without a name) is a
mistake of the data set as a whole and raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from silc.config import DataConfig
from silc.data.captions import MAX_CAPTION, CaptionReader
from silc.data.images import pillow
from silc.data.images.decode import decode_image, stored_orientation
from silc.data.shards import ShardIndex, Unreadable
from silc.data.shards.caption_key import MAX_JSON
from silc.data.shards.reader import MAX_SAMPLE
from silc.files import parse_json

MAX_LABEL = 1000  # bytes of a `cls` that are read
VOID = 255  # in mask files: the usual value of pixels without a class
IGNORE = -1  # in masks: pixels that nothing is trained on and no metric counts
LABELS, CAPTIONS, MASKS = "labels", "captions", "masks"

MaskRule = Callable[[np.ndarray], np.ndarray]
"""The values of a mask file -> classes, int64 of the same shape; IGNORE where a pixel has no class."""


class Split(Protocol):
    """Images by index, from 0.

    Attributes:
        title: its name in messages.
        has: which of LABELS, CAPTIONS and MASKS its images have.
        upright: whether images are turned as their EXIF orientation says (eval.upright).
    """

    title: str
    has: frozenset[str]
    upright: bool

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The image's name, for messages."""

    def image(self, index: int, upright: bool | None = None) -> Tensor:
        """The pixels, uint8 [H, W, 3], turned or as they are stored; None: as `upright` says. Raises Unreadable."""

    def orientation(self, index: int) -> int:
        """How the stored pixels are to be turned: an EXIF orientation, 1 to 8. Raises Unreadable."""

    def label(self, index: int) -> int | None:
        """The image's class; None where it has none."""

    def captions(self, index: int) -> list[str]:
        """The image's captions."""

    def mask(self, index: int) -> Tensor:
        """Class of each pixel, or IGNORE: int64 [H, W]. Raises Unreadable, or ValueError for an unknown class."""


@dataclass(frozen=True)
class DataSet:
    """A data set to evaluate on.

    Attributes:
        name: for tables and messages.
        classes: their names, as used in prompts, in the order of the class numbers; empty: pairs alone, whatever
            classes its images may have.
        test: the split to measure on.
        train: the split that few-shot classifiers and segmentation heads are fitted to; None: there is none.
        templates: prompts that belong to the data set, or that it is usually measured with; None: there are none.
        background: how pixels without a class are treated, in words.
        notes: what there is to know of its files, such as those that are left out.
    """

    name: str
    classes: tuple[str, ...]
    test: Split
    train: Split | None = None
    templates: tuple[str, ...] | None = None
    background: str = "pixels without a class are not counted"
    notes: tuple[str, ...] = ()

    @property
    def training(self) -> Split:
        """`train`, for tasks that need it. Raises ValueError where there is none."""
        if self.train is None:
            raise ValueError(f"{self.name} has no training split")
        return self.train


def numbered_from_one(classes: int) -> MaskRule:
    """0: no class; i: class i - 1; 255 and the largest value of the file's type: no class, if none has that number."""

    def rule(values: np.ndarray) -> np.ndarray:
        found = values.astype(np.int64) - 1
        return _drop_void(found, values, classes + 1)

    return rule


def numbered_from_zero(classes: int) -> MaskRule:
    """i: class i; 255 and the largest value of the file's type: no class, unless a class has that number."""

    def rule(values: np.ndarray) -> np.ndarray:
        return _drop_void(values.astype(np.int64), values, classes)

    return rule


def by_table(table: dict[int, int]) -> MaskRule:
    """table: from value to class. Other values: no class."""
    lookup = np.full(max(table) + 2, IGNORE, dtype=np.int64)
    lookup[list(table)] = list(table.values())

    def rule(values: np.ndarray) -> np.ndarray:
        return lookup[np.minimum(values.astype(np.int64), len(lookup) - 1)]

    return rule


def _drop_void(found: np.ndarray, values: np.ndarray, needed: int) -> np.ndarray:
    if np.issubdtype(values.dtype, np.integer):
        for void in {VOID, int(np.iinfo(values.dtype).max)}:
            if needed <= void:
                found[values == void] = IGNORE
    return found


def decode_mask(data: bytes | None, rule: MaskRule, classes: int, name: str, max_pixels: int) -> Tensor:
    """A mask file's classes, int64 [H, W], within the limits of :func:`silc.data.images.decode.decode_image`.

    PNG, GIF, BMP, TIFF and grey AVIF are read, as they are stored: a mask is not turned, its image is (see
    :func:`image_and_mask`). A TIFF alone is turned by its orientation tag, as are images in TIFF: Pillow, and so all
    that read masks with it, do the same. name: of the image, for messages.

    Raises:
        Unreadable: no data, undecodable, or more than `max_pixels` pixels.
        ValueError: several channels, or a class beyond `classes`.
    """
    if data is None:
        raise Unreadable("no mask")
    # As for images, decoders raise nearly any exception.
    try:
        with pillow.opened(data, max_pixels) as opened:
            channels = len(opened.getbands())
            found = None if channels > 1 else pillow.in_strips(opened, lambda part: rule(_numbers(part)))
    except Unreadable as error:
        raise Unreadable(str(error).replace("image", "mask")) from None
    except Image.DecompressionBombError:
        raise Unreadable(pillow.TOO_MANY) from None
    except Exception as error:
        raise Unreadable("undecodable mask") from error
    if found is None:
        raise ValueError(f"the mask of {name} has {channels} channels; a mask has one class number a pixel")
    if found.size and (found.max() >= classes or found.min() < IGNORE):
        bad = int(found.max())
        raise ValueError(
            f"the mask of {name} has class {bad}, but the class list names {classes} (0 to {classes - 1}): give the "
            "list that belongs to the masks, or the layout with that numbering"
        )
    return torch.from_numpy(found)


def _numbers(image: Image.Image) -> np.ndarray:
    """The values of a mask's pixels. "P" has numbers with a palette for display, "I;16" and "I" have more than 8 bits.

    Raises Unreadable for values that are no whole numbers.
    """
    values = np.array(image)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.int32:  # how some versions of Pillow return 16-bit PNGs
        return values.astype(np.uint16)
    if not np.issubdtype(values.dtype, np.integer):
        raise Unreadable("mask of floating-point values")
    return values


def image_and_mask(split: Split, index: int) -> tuple[Tensor, Tensor]:
    """The pixels of an image, uint8 [H, W, 3], and the class of each: int64 [H, W].

    Masks are drawn on the image as it is stored, or as viewers show it: where the two differ in size, the mask decides
    which of them is returned. Where both have its size (a square image, one that is turned by half or mirrored), it is
    the one that eval.upright asks for.

    Raises:
        Unreadable: one of them cannot be read.
        ValueError: a mask of another size, or with an unknown class.
    """
    image, mask = split.image(index), split.mask(index)
    if mask.shape == image.shape[:2]:
        return image, mask
    number = split.orientation(index)
    (mh, mw), (ph, pw) = mask.shape, image.shape[:2]
    if number >= 5 and (mh, mw) == (pw, ph):
        return split.image(index, not split.upright), mask
    both = "" if number < 5 else f" as {'shown' if split.upright else 'stored'}, {ph} x {pw} otherwise"
    turn = "" if number == 1 else f" (EXIF orientation {number})"
    tiff = " (a mask in TIFF is turned by its own orientation tag)" if (mh, mw) == (pw, ph) else ""
    raise ValueError(
        f"the mask of {split.key(index)} is {mw} x {mh} pixels, its image {pw} x {ph}{both}{turn}: they do not belong "
        f"together{tiff}"
    )


class TarSplit:
    """A split in WebDataset shards.

    Members of a sample: an image; its label, as `cls` (a number in text, as in CLIP_benchmark's data sets) or as
    `class` in the json; its captions, where `data.caption_key` says, in text one a line; `mask.png`: 0 for no class, i
    for class i - 1.

    Args:
        config: which members contain the image and the captions.
        patterns: see :func:`silc.data.shards.expand_shards`.
        title: its name in messages.
        classes: number of classes in the masks.
        upright: turn images as their EXIF orientation says.
        single_objects: an image whose json has `objects: 1` has the class of its only `concept_ids` (training
            scenes of the sample set, which have no `class`).

    Raises:
        ValueError: shards that are missing, are not tar files or have no image.
    """

    def __init__(
        self,
        config: DataConfig,
        patterns: Sequence[str],
        *,
        title: str,
        classes: int = 0,
        upright: bool = False,
        single_objects: bool = False,
    ) -> None:
        self._captions = CaptionReader(config.caption_key, lines=True)
        columns = {
            "image": config.image_keys,
            "caption": [self._captions.extension],
            "json": ["json"],
            "cls": ["cls"],
            "mask": ["mask.png"],
        }
        self.title, self.upright = title, upright
        self._index = ShardIndex(patterns, columns, required=("image",), what=title, max_lost=config.max_skipped)
        self._places = [(shard, sample) for shard, count in enumerate(self._index.counts) for sample in range(count)]
        self._max_pixels, self._classes, self._single_objects = config.max_image_pixels, classes, single_objects
        self._rule = numbered_from_one(classes)
        held = {name: self._index.holds(name) for name in columns}
        labelled = held["cls"] or (held["json"] and any(self.label(i) is not None for i in range(len(self))))
        captioned = held["caption"]
        if captioned and self._captions.key.field is not None:  # the json may be there for other things
            captioned = any(self.captions(i) for i in range(len(self)))
        found = {LABELS: labelled, CAPTIONS: captioned, MASKS: held["mask"]}
        self.has = frozenset(name for name, present in found.items() if present)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, index: int) -> str:
        return self._index.key(*self._places[index])

    def image(self, index: int, upright: bool | None = None) -> Tensor:
        turn = self.upright if upright is None else upright
        return decode_image(self._read(index, "image"), self._max_pixels, upright=turn)

    def orientation(self, index: int) -> int:
        return stored_orientation(self._read(index, "image") or b"")

    def label(self, index: int) -> int | None:
        """None also where the json cannot be read: tasks that need labels leave such an image out.

        Raises ValueError, with the image's name, where the label is not a class number.
        """
        try:
            written = self._read(index, "cls", MAX_LABEL)
            info: Any = {"class": written.decode()} if written is not None else None
            if info is None:
                info = parse_json(self._read(index, "json", MAX_JSON) or b"{}")
        except (Unreadable, ValueError):
            return None
        if not isinstance(info, dict):
            raise ValueError(f"{self.key(index)}: its json is a {type(info).__name__}, not an object with a `class`")
        label = info.get("class")
        if self._single_objects and info.get("objects") == 1:
            concepts = info.get("concept_ids")
            label = concepts[0] if isinstance(concepts, list) and concepts else None
        if label is None or type(label) is int:
            return label
        if isinstance(label, str) and len(label) < MAX_LABEL and label.strip().isdecimal():
            return int(label)
        raise ValueError(
            f"{self.key(index)}: its class is {label!r:.80}; a class is a number, its line in the class list from 0"
        )

    def group(self, index: int) -> tuple[int, str] | None:
        """What images of one drawing have in common: the concept and the artist in a json with `objects: 1`, as those
        of the sample set are. None: the image stands for itself.
        """
        if not self._index.holds("json"):
            return None
        try:
            info: Any = parse_json(self._read(index, "json", MAX_JSON) or b"{}")
        except (Unreadable, ValueError):
            return None
        if not isinstance(info, dict) or info.get("objects") != 1:
            return None
        match info.get("concept_ids"), info.get("artists"):
            case [int(concept)], [str(artist)] if len(artist) < MAX_LABEL:
                return concept, artist
        return None

    def captions(self, index: int) -> list[str]:
        """None also where they cannot be read: retrieval leaves such an image out."""
        limit = MAX_CAPTION if self._captions.key.field is None else MAX_JSON
        try:
            return self._captions.read(self._read(index, "caption", limit))
        except Unreadable:
            return []

    def mask(self, index: int) -> Tensor:
        name, limit = self.key(index), self._max_pixels
        return decode_mask(self._read(index, "mask"), self._rule, self._classes, name, limit)

    def _read(self, index: int, column: str, limit: int = MAX_SAMPLE) -> bytes | None:
        return self._index.read(*self._places[index], column, limit)
