"""Data sets named by their layout and folder: `LAYOUT:FOLDER`, such as `ade20k:/data/ADEChallengeData2016`.

    wds          CLIP_benchmark's: FOLDER/classnames.txt, zeroshot_classification_templates.txt ({c} is the name),
                 {test,train}/nshards.txt and {0..n-1}.tar with an image and `cls`, or `txt` with a caption a line
    imagefolder  FOLDER/{val,validation,test,train}/CLASS/*.jpg, or FOLDER/CLASS/*.jpg; class names: those of the
                 folders, or eval.classes
    imagenet     FOLDER/{val,validation,train}/nXXXXXXXX/*.JPEG, the 1,000 synsets of ILSVRC2012; names and prompts are
                 open_clip's
    masks        a user's own: FOLDER/images/*.jpg, FOLDER/masks/*.png of the same names (0: the first class, 255: not
                 counted), FOLDER/classes.txt; or images/{val,train}/*.jpg, masks/{val,train}/*.png
    ade20k       images/{training,validation}/*.jpg, annotations/{training,validation}/*.png (0: no class, 1 to 150)
    voc20        JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{train,val}.txt; 0 is not counted
    voc21        the same; 0 is the class "background", which competes under that name
    context59    JPEGImages, SegmentationClassContext/*.png, ImageSets/SegmentationContext/{train,val}.txt
    context60    the same with "background", as voc21
    coco_stuff   images/{train2017,val2017}/*.jpg, annotations/{...}/*.png: *_labelTrainIds.png (0 to 170), or the
                 original numbers (0 to 181)
    cityscapes   leftImg8bit/{train,val}/CITY/*_leftImg8bit.png, gtFine/{...}/CITY/*_gtFine_labelTrainIds.png, or
                 *_gtFine_labelIds.png

An imagefolder's images are JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF, by their suffix. Images are turned as their EXIF
orientation says where eval.upright is set; beside a mask that has the size of the turned image alone, or of the stored
one alone, that one is taken.

Pixels of 255, or of another value that the layout leaves out, are never counted. eval.classes names the classes of an
imagefolder, of ImageNet, and of a wds or masks without a list of their own; every other layout has its own.

Public data sets bring the prompts that papers use: ImageNet CLIP's 80, those of segmentation the nine of TCL
(silc.data.prompts). An imagefolder of ImageNet's synsets, and any list of its 1,000 names, count as ImageNet.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from silc.config import DataConfig
from silc.config_rules import is_prompt
from silc.data import class_names, imagenet
from silc.data.captions import lines_of
from silc.data.folders import ImageFolder, MaskFolder, Pair, class_folders, pairs_by_list, pairs_by_name
from silc.data.own_masks import open_masks
from silc.data.prompts import TCL, prompt_set
from silc.data.splits import (
    CAPTIONS,
    LABELS,
    DataSet,
    MaskRule,
    TarSplit,
    by_table,
    numbered_from_one,
    numbered_from_zero,
)
from silc.files import read_text
from silc.text import plural

MAX_BYTES = 4 << 20  # of a list of names or prompts
MAX_NAMES = 100_000  # classes or prompts
MAX_SHARDS = 1_000_000
NAMED_BACKGROUND = 'the background is a class and competes under the name "background"'


def read_names(path: Path, what: str) -> tuple[str, ...]:
    """The lines of a file, stripped.

    Raises ValueError when it cannot be read, is empty, too large (MAX_NAMES lines, MAX_BYTES) or has a blank line.
    """
    try:
        names = tuple(lines_of(read_text(path, MAX_BYTES).removeprefix("\ufeff").rstrip()))
    except OSError as error:
        raise ValueError(f"cannot read {what}={path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if len(names) > MAX_NAMES:
        raise ValueError(f"{what}={path} has {len(names):,} lines; at most {MAX_NAMES:,} names are read")
    if names == ("",):
        raise ValueError(f"{what}={path} is empty; write one name per line")
    if "" in names:
        raise ValueError(
            f"{what}={path}: line {names.index('') + 1} is blank, and a class has the number of its line; "
            "remove the line, or name the class"
        )
    return names


def open_data_set(spec: str, config: DataConfig, classes: tuple[str, ...] | None, *, upright: bool = False) -> DataSet:
    """The data set of a `LAYOUT:FOLDER`.

    Args:
        config: names of members in shards, and limits.
        classes: their names, for a layout without a list of its own.
        upright: turn images as their EXIF orientation says (eval.upright).

    Raises ValueError: an unknown layout, a missing file, an empty split, a class list or a prompt that does not fit.
    """
    layout, colon, folder = spec.partition(":")
    if not colon:
        raise ValueError(f"{spec!r} is not of the form LAYOUT:FOLDER; layouts: {', '.join(LAYOUTS)}")
    if layout not in LAYOUTS:
        close = difflib.get_close_matches(layout, LAYOUTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{spec!r}: {layout!r} is not a layout{hint}; layouts: {', '.join(LAYOUTS)}")
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"{spec}: {root} is not a folder")
    try:
        if layout in WITH_A_LIST:
            return WITH_A_LIST[layout](root, config, upright)
        return WITHOUT_A_LIST[layout](root, config, upright, classes)
    except ValueError as error:
        raise ValueError(f"{spec}: {error}") from None


def _wds(root: Path, config: DataConfig, upright: bool, classes: tuple[str, ...] | None) -> DataSet:
    listed = root / "classnames.txt"
    names = read_names(listed, "classnames.txt") if listed.is_file() else classes or ()
    prompts = root / "zeroshot_classification_templates.txt"
    templates = _read_templates(prompts) if prompts.is_file() else None
    splits = {}
    for split in ("test", "train"):
        if split == "train" and not (root / split).is_dir():
            continue
        counted = root / split / "nshards.txt"
        if counted.is_file():
            count = _number(counted)
            shards = [str(root / split / f"{number}.tar") for number in range(count)]
        else:
            shards = [str(root / split)]
        if not shards:
            raise ValueError(f"the {split} split is empty: {counted} contains 0")
        title = f"{root.name} {split}"
        splits[split] = TarSplit(config, shards, title=title, classes=len(names), upright=upright)
        _check_labels(splits[split], names)
    return imagenet.with_prompts(DataSet(root.name, names, splits["test"], splits.get("train"), templates))


def _number(path: Path) -> int:
    """The whole number in a file. Raises ValueError where it holds anything else, or more than MAX_SHARDS."""
    text = read_text(path, MAX_BYTES).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= MAX_SHARDS):
        raise ValueError(f"{path} contains {text!r:.80}; it should be the number of shards, at most {MAX_SHARDS:,}")
    return int(text)


def _read_templates(path: Path) -> tuple[str, ...]:
    templates = tuple(line.replace("{c}", "{}") for line in read_names(path, path.name))
    for number, template in enumerate(templates, 1):
        if not is_prompt(template):
            raise ValueError(f"{path}: line {number} must contain {{c}} once, for the class name, and no other brace")
    return templates


def _check_labels(split: TarSplit, names: tuple[str, ...]) -> None:
    if LABELS not in split.has or (not names and CAPTIONS in split.has):
        return
    if not names:
        raise ValueError(
            "the images have labels, but there is no classnames.txt; give eval.classes=FILE, or eval.classes=imagenet "
            "for ImageNet's 1,000"
        )
    check_labels(split, len(names))


def check_labels(split: TarSplit | ImageFolder, classes: int) -> None:
    """Raises ValueError for a label without a name."""
    for index in range(len(split)):
        label = split.label(index)
        if label is not None and not 0 <= label < classes:
            raise ValueError(
                f"{split.title}: {split.key(index)} has class {label}, the class list names 0 to {classes - 1}; add "
                "the missing names"
            )


def _image_folder(root: Path, config: DataConfig, upright: bool, classes: tuple[str, ...] | None) -> DataSet:
    def split(name: str) -> ImageFolder:
        title, pixels = f"{root.name} {name}".strip(), config.max_image_pixels
        return ImageFolder(root / name, title=title, max_pixels=pixels, upright=upright)

    held_out = next((name for name in ("val", "validation", "test") if (root / name).is_dir()), None)
    if held_out is None and class_folders(root / "train"):
        raise ValueError(
            f"{root}/train has class folders, but there is no val, validation or test folder beside it; add one, "
            f"or give imagefolder:{root}/train to measure on the images of train"
        )
    test = split(held_out or "")
    train = split("train") if held_out is not None and (root / "train").is_dir() else None
    if train is not None and train.folders != test.folders:
        odd = sorted(set(train.folders) ^ set(test.folders))
        raise ValueError(f"{train.title} and {test.title} have different class folders: {', '.join(odd[:5])}")
    notes = test.notes() + (train.notes() if train is not None else ())
    known = imagenet.names_of(test.folders) if classes is None else None
    if known is not None:
        return DataSet(root.name, known, test, train, prompt_set("imagenet"), notes=(imagenet.NAMES_NOTE, *notes))
    names = classes or tuple(folder.replace("_", " ") for folder in test.folders)
    if len(names) != len(test.folders):
        raise ValueError(f"there are {plural(len(test.folders), 'class folder')}, but eval.classes names {len(names)}")
    return imagenet.with_prompts(DataSet(root.name, names, test, train, notes=notes))


def _masks(root: Path, config: DataConfig, upright: bool, classes: tuple[str, ...] | None) -> DataSet:
    listed = root / "classes.txt"
    names = read_names(listed, "classes.txt") if listed.is_file() else classes
    if names is None:
        raise ValueError(f"{listed} is missing; write the name of a class in each line, or give eval.classes=FILE")
    return open_masks(root, config, upright, names)


def _masked(
    root: Path,
    config: DataConfig,
    upright: bool,
    names: tuple[str, ...],
    rule: MaskRule,
    pairs: Callable[[str], list[Pair]],
    marks: Callable[[str], Path],
    splits: tuple[str, str],
    background: str,
) -> DataSet:
    """A data set of mask folders.

    Args:
        pairs: finds the pairs of a split.
        marks: a path that exists where the split does; without the training split, tasks that need it are left out.
        splits: names of the test and the training split.
    """

    def split(name: str) -> MaskFolder:
        title, pixels = f"{root.name} {name}", config.max_image_pixels
        return MaskFolder(pairs(name), rule, title=title, classes=len(names), max_pixels=pixels, upright=upright)

    train = split(splits[1]) if marks(splits[1]).exists() else None
    return DataSet(root.name, names, split(splits[0]), train, TCL, background)


def _ade20k(root: Path, config: DataConfig, upright: bool) -> DataSet:
    names = class_names.ADE20K
    find = lambda split: pairs_by_name(root / "images" / split, root / "annotations" / split, ".jpg", ".png")  # noqa: E731
    marks = lambda split: root / "annotations" / split  # noqa: E731
    rule, background = numbered_from_one(len(names)), "pixels without a class (0) are not counted"
    return _masked(root, config, upright, names, rule, find, marks, ("validation", "training"), background)


def _listed(own: tuple[str, ...], masks: str, lists: str, *, background: bool) -> Callable[..., DataSet]:
    """A builder for VOC's layout: a file lists the names of a split."""

    def build(root: Path, config: DataConfig, upright: bool) -> DataSet:
        names = ("background", *own) if background else own
        rule = numbered_from_zero(len(names)) if background else numbered_from_one(len(names))
        words = NAMED_BACKGROUND if background else "background pixels (0) are not counted"

        def marks(split: str) -> Path:
            return root / "ImageSets" / lists / f"{split}.txt"

        def find(split: str) -> list[Pair]:
            return pairs_by_list(marks(split), root / "JPEGImages", root / masks)

        return _masked(root, config, upright, names, rule, find, marks, ("val", "train"), words)

    return build


def _coco_stuff(root: Path, config: DataConfig, upright: bool) -> DataSet:
    names = class_names.COCO_STUFF
    folder = root / "annotations"
    reduced = any((folder / "val2017").glob("*_labelTrainIds.png"))
    used = [number for number in range(182) if number not in class_names.COCO_STUFF_UNUSED]
    rule = numbered_from_zero(len(names)) if reduced else by_table({number: i for i, number in enumerate(used)})
    suffix = "_labelTrainIds.png" if reduced else ".png"
    find = lambda split: pairs_by_name(root / "images" / split, folder / split, ".jpg", suffix)  # noqa: E731
    marks = lambda split: folder / split  # noqa: E731
    words = "unlabelled pixels (255) are not counted"
    return _masked(root, config, upright, names, rule, find, marks, ("val2017", "train2017"), words)


def _cityscapes(root: Path, config: DataConfig, upright: bool) -> DataSet:
    names = class_names.CITYSCAPES
    reduced = any((root / "gtFine" / "val").glob("*/*_gtFine_labelTrainIds.png"))
    rule = (
        numbered_from_zero(len(names))
        if reduced
        else by_table({v: i for i, v in enumerate(class_names.CITYSCAPES_IDS)})
    )
    suffix = "_gtFine_labelTrainIds.png" if reduced else "_gtFine_labelIds.png"
    images, masks = root / "leftImg8bit", root / "gtFine"
    find = lambda split: pairs_by_name(images / split, masks / split, "_leftImg8bit.png", suffix)  # noqa: E731
    marks = lambda split: masks / split  # noqa: E731
    return _masked(
        root, config, upright, names, rule, find, marks, ("val", "train"), "void pixels (255) are not counted"
    )


_CONTEXT = ("SegmentationClassContext", "SegmentationContext")
_VOC = ("SegmentationClass", "Segmentation")
WITHOUT_A_LIST: dict[str, Callable[[Path, DataConfig, bool, tuple[str, ...] | None], DataSet]] = {
    "wds": _wds,
    "imagefolder": _image_folder,
    "imagenet": imagenet.open_imagenet,
    "masks": _masks,
}
WITH_A_LIST: dict[str, Callable[[Path, DataConfig, bool], DataSet]] = {
    "ade20k": _ade20k,
    "voc20": _listed(class_names.VOC, *_VOC, background=False),
    "voc21": _listed(class_names.VOC, *_VOC, background=True),
    "context59": _listed(class_names.CONTEXT, *_CONTEXT, background=False),
    "context60": _listed(class_names.CONTEXT, *_CONTEXT, background=True),
    "coco_stuff": _coco_stuff,
    "cityscapes": _cityscapes,
}
LAYOUTS = (*WITHOUT_A_LIST, *WITH_A_LIST)
