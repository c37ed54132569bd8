"""Splits in folders: one folder of images for each class, or folders of images and folders of their masks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torch import Tensor

from silc.data.captions import lines_of
from silc.data.images.decode import decode_image, stored_orientation
from silc.data.shards import Unreadable
from silc.data.splits import LABELS, MASKS, MaskRule, decode_mask
from silc.files import read_regular, read_text
from silc.text import plural

MAX_FILE = 256 << 20  # bytes of an image or a mask
MAX_LIST = 64 << 20  # bytes of a list of names
# Of files whose format is decoded: silc.data.images.pillow.FORMATS and JPEG.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
NAMED = 5  # suffixes that a message names


class ImageFolder:
    """root/CLASS/*.jpg: the classes are the folders that are not hidden, in alphabetical order (as in torchvision).

    Images are the files, at any depth, whose suffix is in SUFFIXES, in upper case or lower case.

    Attributes:
        others: how many files in the class folders, not hidden, have another suffix, by suffix.

    Raises:
        ValueError: no such folder, or no image in it.
    """

    has = frozenset({LABELS})

    def __init__(self, root: Path, *, title: str, max_pixels: int, upright: bool = False) -> None:
        self.title, self.upright, self._root, self._max_pixels = title, upright, root, max_pixels
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder")
        self.folders = class_folders(root)
        self._files: list[tuple[Path, int]] = []
        self.others: Counter[str] = Counter()
        for number, folder in enumerate(self.folders):
            for path in files_in(root / folder):
                if (suffix := path.suffix.lower()) in SUFFIXES:
                    self._files.append((path, number))
                else:
                    self.others[suffix] += 1
        if not self._files:
            there = (
                f"; there are {in_suffixes(self.others)}, images end in {', '.join(SUFFIXES)}" if self.others else ""
            )
            raise ValueError(f"{root} has no image in a class folder, such as {root}/dog/1.jpg{there}")

    def __len__(self) -> int:
        return len(self._files)

    def key(self, index: int) -> str:
        return str(self._files[index][0].relative_to(self._root))

    def notes(self) -> tuple[str, ...]:
        """A sentence on the files that are left out; none where there are none."""
        return (f"{self.title}: left out {in_suffixes(self.others)}",) if self.others else ()

    def image(self, index: int, upright: bool | None = None) -> Tensor:
        return _image(self._files[index][0], self._max_pixels, self.upright if upright is None else upright)

    def orientation(self, index: int) -> int:
        return stored_orientation(_bytes(self._files[index][0]))

    def label(self, index: int) -> int | None:
        return self._files[index][1]

    def captions(self, index: int) -> list[str]:
        return []

    def mask(self, index: int) -> Tensor:
        raise Unreadable("no mask")


def in_suffixes(others: Counter[str]) -> str:
    """How many files have other suffixes than those of images, by suffix."""
    kinds = [f"{suffix:.20} ({count})" if suffix else f"none ({count})" for suffix, count in others.most_common()]
    more = f" and {len(kinds) - NAMED} more" if len(kinds) > NAMED else ""
    return f"{plural(others.total(), 'file')} with other suffixes: {', '.join(kinds[:NAMED])}{more}"


def class_folders(root: Path) -> list[str]:
    """Sorted names of the folders in `root` that are not hidden; empty where `root` is not a folder."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not _hidden(Path(path.name)))


def files_in(folder: Path) -> list[Path]:
    """Files, sorted, at any depth; hidden ones, and those in hidden folders, are left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@dataclass(frozen=True)
class Pair:
    """The file of an image and that of its mask."""

    key: str
    image: Path
    mask: Path


class MaskFolder:
    """Images with masks.

    Args:
        pairs: in order.
        rule: turns the values of a mask file into classes.
        classes: their number.
        upright: turn images as their EXIF orientation says; where that makes another size, the mask decides (see
            :func:`silc.data.splits.image_and_mask`).

    Raises:
        ValueError: no pair; an image or mask that is missing, named in the message.
    """

    has = frozenset({MASKS})

    def __init__(
        self,
        pairs: Sequence[Pair],
        rule: MaskRule,
        *,
        title: str,
        classes: int,
        max_pixels: int,
        upright: bool = False,
    ) -> None:
        self.title, self.upright, self._pairs, self._rule = title, upright, list(pairs), rule
        self._classes, self._max_pixels = classes, max_pixels
        if not self._pairs:
            raise ValueError(f"{title}: the split is empty")
        for pair in self._pairs:
            for path in (pair.image, pair.mask):
                if not path.is_file():
                    raise ValueError(f"{title}: {path} is missing")

    def __len__(self) -> int:
        return len(self._pairs)

    def key(self, index: int) -> str:
        return self._pairs[index].key

    def image(self, index: int, upright: bool | None = None) -> Tensor:
        return _image(self._pairs[index].image, self._max_pixels, self.upright if upright is None else upright)

    def orientation(self, index: int) -> int:
        return stored_orientation(_bytes(self._pairs[index].image))

    def label(self, index: int) -> int | None:
        return None

    def captions(self, index: int) -> list[str]:
        return []

    def mask(self, index: int) -> Tensor:
        data, limit = _bytes(self._pairs[index].mask), self._max_pixels
        return decode_mask(data, self._rule, self._classes, self.key(index), limit)


def pairs_by_name(images: Path, masks: Path, image_suffix: str, mask_suffix: str) -> list[Pair]:
    """A pair for each mask `masks/**/NAME + mask_suffix`: its image is `images/**/NAME + image_suffix`.

    Raises ValueError for a folder that is missing.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise ValueError(f"{folder} is missing")
    names = [path.relative_to(masks).as_posix() for path in sorted(masks.rglob(f"*{mask_suffix}"))]
    stems = [name.removesuffix(mask_suffix) for name in names]
    return [Pair(stem, images / (stem + image_suffix), masks / (stem + mask_suffix)) for stem in stems]


def pairs_by_list(names: Path, images: Path, masks: Path) -> list[Pair]:
    """A pair for each line of a file: `images/LINE.jpg`, `masks/LINE.png`.

    Raises ValueError for a missing file, and for a line that leads out of the folder.
    """
    if not names.is_file():
        raise ValueError(f"{names} is missing")
    stems = [line for line in lines_of(read_text(names, MAX_LIST).removeprefix("\ufeff")) if line]
    for stem in stems:
        path = PurePosixPath(stem)
        if path.is_absolute() or ".." in path.parts or "\0" in stem:
            raise ValueError(f"{names}: {stem!r:.200} leads out of {images}; a line is the name of an image in it")
    return [Pair(stem, images / f"{stem}.jpg", masks / f"{stem}.png") for stem in stems]


def _image(path: Path, max_pixels: int, upright: bool) -> Tensor:
    return decode_image(_bytes(path), max_pixels, upright=upright)


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_FILE)
    except OSError as error:
        raise Unreadable(f"unreadable file ({error.strerror})") from error
    except ValueError:
        raise Unreadable(f"no regular file of at most {MAX_FILE >> 20} MiB") from None
