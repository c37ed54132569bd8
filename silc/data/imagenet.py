"""ImageNet's 1,000 classes (ILSVRC2012): their names and prompts from open_clip, their folders by timm's list.

A folder is named by its WordNet synset, such as n01440764; the class numbers are those of the sorted synsets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from silc.config import DataConfig
from silc.data.folders import ImageFolder, class_folders
from silc.data.prompts import prompt_set
from silc.data.splits import DataSet
from silc.text import plural

CLASSES = 1000
HELD_OUT = ("val", "validation")
NAMES_NOTE = "the class folders are ImageNet's synsets: names and 80 prompts of open_clip"
PROMPTS_NOTE = "the class names are ImageNet's: 80 prompts of open_clip"
_SYNSET = re.compile(r"n\d{8}")


def class_names() -> tuple[str, ...]:
    """open_clip's names of the 1,000 classes, in the order of their numbers."""
    import open_clip

    return tuple(open_clip.IMAGENET_CLASSNAMES)


def synsets() -> tuple[str, ...]:
    """The 1,000 synsets, in the order of the class numbers, which is the alphabetical one."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def names_of(folders: Sequence[str]) -> tuple[str, ...] | None:
    """Names of class folders that are all synsets of ImageNet's, some of them or all; None of other folders."""
    if not folders or not all(map(_SYNSET.fullmatch, folders)):
        return None
    known = dict(zip(synsets(), class_names(), strict=True))
    return tuple(known[folder] for folder in folders) if known.keys() >= set(folders) else None


def with_prompts(data: DataSet) -> DataSet:
    """The data set with ImageNet's prompts and a note, where its classes are ImageNet's and it has no prompts."""
    if len(data.classes) != CLASSES or data.templates is not None or data.classes != class_names():
        return data
    return replace(data, templates=prompt_set("imagenet"), notes=(PROMPTS_NOTE, *data.notes))


def open_imagenet(root: Path, config: DataConfig, upright: bool, classes: tuple[str, ...] | None) -> DataSet:
    """root/{val,validation} and, for few-shot, root/train, with a folder a synset each.

    classes: 1,000 names in place of open_clip's.

    Raises ValueError where the folders are not the 1,000 synsets.
    """
    held_out = next((name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out is None:
        raise ValueError(
            f"{root} has no folder val or validation, with a folder a synset in it, such as val/n01440764; "
            "give the folder above them"
        )
    if classes is not None and len(classes) != CLASSES:
        raise ValueError(f"eval.classes names {plural(len(classes), 'class', 'classes')}, ImageNet has {CLASSES:,}")

    def split(name: str) -> ImageFolder:
        _check_folders(root, name)
        title, pixels = f"{root.name} {name}", config.max_image_pixels
        return ImageFolder(root / name, title=title, max_pixels=pixels, upright=upright)

    test = split(held_out)
    train = split("train") if (root / "train").is_dir() else None
    notes = test.notes() + (train.notes() if train is not None else ())
    return DataSet(root.name, classes or class_names(), test, train, prompt_set("imagenet"), notes=notes)


def _check_folders(root: Path, split: str) -> None:
    """Raises ValueError where a split's class folders are not the 1,000 synsets."""
    folder, known = root / split, synsets()
    found = class_folders(folder)
    if found == list(known):
        return
    if not found:
        raise ValueError(
            f"{folder} has no class folders; the images of ImageNet's validation set come without: sort them by its "
            "ground truth, as torchvision.datasets.ImageNet does"
        )
    missing, others = sorted(set(known) - set(found)), sorted(set(found) - set(known))
    wrong = [
        *([f"{plural(len(missing), 'synset is', 'synsets are')} missing, such as {missing[0]}"] if missing else []),
        *(
            [f"{plural(len(others), 'folder is', 'folders are')} none of them, such as {others[0]:.80}"]
            if others
            else []
        ),
    ]
    raise ValueError(
        f"{folder} has {plural(len(found), 'class folder')}, and ImageNet's are {CLASSES:,} synsets: "
        f"{' and '.join(wrong)}; for a part of them, or for other classes, give imagefolder:{root}"
    )
