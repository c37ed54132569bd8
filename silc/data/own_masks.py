"""A user's own masks: a folder of images, a folder of masks with the same names, a list of classes.

    images/NAME.jpg    masks/NAME.png    classes.txt: a name a line

or with splits, images/{val,train}/... and masks/{val,train}/...; at any depth. A mask has one class number a pixel,
from 0 in the order of the names; 255 is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from silc.config import DataConfig
from silc.data.folders import SUFFIXES, MaskFolder, Pair, files_in, in_suffixes
from silc.data.shards import Unreadable
from silc.data.splits import IGNORE, DataSet, numbered_from_zero
from silc.text import plural

HELD_OUT = ("val", "validation", "test")
MASK_SUFFIXES = (".png", ".gif", ".bmp", ".tif", ".tiff", ".avif")  # of formats that keep numbers
LOOKED_AT = 8  # masks, when the data set is opened
BACKGROUND = "pixels of 255 are not counted"


def open_masks(root: Path, config: DataConfig, upright: bool, names: tuple[str, ...]) -> DataSet:
    """The data set below `root`.

    names: of the classes, in the order of their numbers.

    Raises ValueError: a folder that is missing, an image without a mask or a mask without an image, two files of one
    name.
    """
    images, masks = root / "images", root / "masks"
    for folder in (images, masks):
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is missing; put images into images/ and their masks, of the same names, into masks/"
            )
    held_out = next((name for name in HELD_OUT if (images / name).is_dir()), None)
    has_train = (images / "train").is_dir()
    if held_out is None and has_train:
        raise ValueError(f"{images} has train, but no val, validation or test beside it; add the one to measure on")
    notes: list[str] = []

    def split(name: str) -> MaskFolder:
        title, pixels = f"{root.name} {name}".strip(), config.max_image_pixels
        pairs = _pairs(images / name, masks / name, notes)
        rule = numbered_from_zero(len(names))
        return MaskFolder(pairs, rule, title=title, classes=len(names), max_pixels=pixels, upright=upright)

    test = split(held_out or "")
    train = split("train") if has_train else None
    if held_out is not None:
        used = {held_out} | ({"train"} if has_train else set())
        beside = [path for path in files_in(images) if path.relative_to(images).parts[0] not in used]
        if beside:
            notes.append(
                f"left out {plural(len(beside), 'file')} of {images} that are in none of {', '.join(sorted(used))}"
            )
    notes += _white(test, names)
    words = BACKGROUND + ("; the background is a class and competes under that name" if "background" in names else "")
    return DataSet(root.name, names, test, train, background=words, notes=tuple(notes))


def _white(split: MaskFolder, names: tuple[str, ...]) -> list[str]:
    """A note where the first masks look like drawings in black and white. Raises ValueError for an unknown class."""
    void = False
    for index in range(min(LOOKED_AT, len(split))):
        try:
            mask = split.mask(index)
        except Unreadable:
            continue  # left out and counted in the measurement
        if (mask > 0).any():
            return []
        void = void or bool((mask == IGNORE).any())
    if not void or len(names) < 2:
        return []
    return [
        f"{split.title}: the first masks have no class but {names[0]!r} (0), and pixels of 255, which are not counted; "
        "if 255 is meant as a class, save it as that class's number"
    ]


def _pairs(images: Path, masks: Path, notes: list[str]) -> list[Pair]:
    """A pair for each image, in the order of their names. Files with other suffixes are counted in `notes`.

    Raises ValueError.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise ValueError(f"{folder} is missing")
    pictures, numbers = _by_name(images, SUFFIXES, notes), _by_name(masks, MASK_SUFFIXES, notes)
    if not pictures:
        raise ValueError(f"{images} has no image; images end in {', '.join(SUFFIXES)}")
    lonely = [name for name in pictures if name not in numbers]
    if lonely:
        raise ValueError(_without_mask(lonely, pictures, masks))
    spare = [name for name in numbers if name not in pictures]
    if spare:
        raise ValueError(
            f"{plural(len(spare), 'mask has', 'masks have')} no image in {images}, such as {numbers[spare[0]]}; add "
            "the image under the same name, or remove the mask"
        )
    return [Pair(name, path, numbers[name]) for name, path in pictures.items()]


def _without_mask(lonely: list[str], pictures: Mapping[str, Path], masks: Path) -> str:
    said = f"{plural(len(lonely), 'image has', 'images have')} no mask in {masks}, such as {pictures[lonely[0]]}"
    lossy = next((path for path in masks.glob(f"{lonely[0]}.jp*g")), None) if _plain(lonely[0]) else None
    if lossy is not None:
        return f"{said}: {lossy.name} is JPEG, which does not keep class numbers; save masks as PNG"
    return f"{said}: add {lonely[0]}.png, or remove the image"


def _plain(name: str) -> bool:
    """Whether a name means itself in a pattern."""
    return not set(name) & set("*?[]")


def _by_name(folder: Path, suffixes: tuple[str, ...], notes: list[str]) -> dict[str, Path]:
    """Files by their path in the folder without the suffix, in order. Raises ValueError for two of one name."""
    found: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in files_in(folder):
        if path.suffix.lower() not in suffixes:
            others[path.suffix.lower()] += 1
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} have the same name but for the suffix; keep one of them")
        found[name] = path
    if others:
        notes.append(f"{folder}: left out {in_suffixes(others)}")
    return found
