"""Folders of images: with a file of captions beside each image, or a folder for each class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from silc.config_rules import is_prompt
from silc.data.folders import SUFFIXES, class_folders
from silc.data.layouts import read_names
from silc.data.packing.options import SourceOptions
from silc.data.packing.rows import IRREGULAR, LINKED, NO_CAPTION, UNREADABLE_FOLDER, Listing, Row, Skip
from silc.data.packing.walk import Folder, walk
from silc.data.shards.errors import few
from silc.text import plural

TEMPLATE = "a photo of a {}"
LOOKED = 20_000  # images that decide of which kind a folder is
MOSTLY = 0.5  # share of images with captions beside above which a folder is one of captions
NOT_IN_A_CLASS = "not in a class folder"
_SPLITS = {"train", "val", "validation", "test", "training", "testing"}
_NUMBERS = re.compile(r"(n\d{8}|\d+)")


class Captioned:
    """A folder of images with their captions beside: `a/1.jpg` and `a/1.txt`.

    Args:
        root: absolute.
        captions: extension of the files with captions, or `json:FIELD`.
        leave_out: a folder in it that does not belong to it.
    """

    def __init__(self, root: str, captions: str, leave_out: str | None) -> None:
        self.extension = extension_of(captions)
        self.title = f"a folder of images with .{self.extension} files beside them"
        self.notes: list[str] = []
        self.root = root
        self.classes: tuple[str, ...] = ()
        self._leave_out = leave_out

    def rows(self) -> Iterator[Row | Skip]:
        for folder in walk(self.root, self._leave_out):
            yield from _not_usable(folder)
            there = set(folder.files)
            for name in folder.files:
                if not is_image(name):
                    continue
                beside = f"{_stem(name)}.{self.extension}"
                path = folder.path + name
                if beside in there:
                    yield Row(path, path, beside=folder.path + beside)
                else:
                    yield Skip(path, NO_CAPTION)


class Classes:
    """A folder for each class: `dog/1.jpg`. Captions are made from the names.

    Args:
        root: absolute.
        template: {} stands for the name of the class.
        names: file with a name a line; None: the folders' own, with blanks in place of underscores.
        leave_out: a folder in it that does not belong to it.

    Raises ValueError: a template without its {}, names that do not fit the folders, folders named by numbers.
    """

    def __init__(self, root: str, template: str, names: str | None, leave_out: str | None) -> None:
        if not is_prompt(template):
            raise ValueError(f"--template {template!r}: it must contain {{}} once, for the name of the class")
        folders = [name for name in class_folders(Path(root)) if not _same(os.path.join(root, name), leave_out)]
        if len(folders) > 1 and set(map(str.lower, folders)) <= _SPLITS:
            raise ValueError(f"{root} has the splits {few(folders)}; pack each by itself, such as {root}/{folders[0]}")
        if names is None and folders and all(map(_NUMBERS.fullmatch, folders)):
            raise ValueError(
                f"the class folders have numbers for names ({few(folders[:3])}); give a file with a name a line, in "
                "the alphabetical order of the folders, with --classes"
            )
        self.classes = _named_as(folders) if names is None else _given(names, folders)
        self.title = f"{plural(len(folders), 'class folder')} of images"
        self.notes = [f"captions as {template.replace('{}', self.classes[0])!r}"] if folders else []
        self.root, self._template = root, template
        self._numbers = {name: number for number, name in enumerate(folders)}
        self._leave_out = leave_out

    def rows(self) -> Iterator[Row | Skip]:
        for folder in walk(self.root, self._leave_out):
            yield from _not_usable(folder)
            top = folder.path.partition("/")[0]
            if folder.again and folder.path == f"{top}/" and top in self._numbers:  # a class that gets no images
                yield Skip(folder.path, LINKED)
            for name in filter(is_image, folder.files):
                path = folder.path + name
                label = self._numbers.get(top)
                if label is None:
                    yield Skip(path, NOT_IN_A_CLASS)
                    continue
                yield Row(path, path, [self._template.replace("{}", self.classes[label])], label=label)


def open_folder(root: str, options: SourceOptions, leave_out: str | None) -> Listing:
    """A folder of images, of the kind that it is found to be, or that the options say.

    Raises ValueError: no images, both kinds at once, or neither.
    """
    if options.captions is not None and (options.template is not None or options.classes is not None):
        raise ValueError(
            "--captions reads captions beside the images, --template and --classes make them of the names of class "
            "folders; give the one or the other"
        )
    looked = _Look(root, extension_of(options.captions or "txt"), leave_out)
    by_class = options.template is not None or options.classes is not None
    if options.captions is None and not by_class:
        by_class = looked.decide()
    if by_class:
        options.check("class folders", "template", "classes")
        found: Captioned | Classes = Classes(root, options.template or TEMPLATE, options.classes, leave_out)
    else:
        options.check("a folder of images with captions beside", "captions")
        found = Captioned(root, options.captions or "txt", leave_out)
    found.notes += looked.notes()
    return found


def extension_of(captions: str) -> str:
    """The extension of the files that `--captions` names, in the case in which it was given.

    Raises ValueError for what cannot be one.
    """
    extension = "json" if captions.startswith("json:") else captions.lstrip(".")
    plain = not captions.startswith("json:")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", extension) or captions == "json:" or (plain and _is_json(extension)):
        raise ValueError(f"--captions {captions}: give an extension, such as txt, or a field of json: json:caption")
    return extension


def _is_json(extension: str) -> bool:
    return extension.lower().rpartition(".")[2] == "json"


def is_image(name: str) -> bool:
    """Whether a file's name ends as those of images do."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


class _Look:
    """What the first LOOKED images of a folder and the files around them tell."""

    def __init__(self, root: str, extension: str, leave_out: str | None) -> None:
        self.root, self.extension = root, extension
        self.images = self.with_captions = self.in_root = self.again = 0
        self.tables: list[str] = []
        self.others: Counter[str] = Counter()
        self.whole = True
        tops: set[str] = set()
        for folder in walk(root, leave_out):
            there = set(folder.files)
            images = [name for name in folder.files if is_image(name)]
            self.images += len(images)
            self.with_captions += sum(f"{_stem(name)}.{extension}" in there for name in images)
            self.in_root += 0 if folder.path else len(images)
            self.again += folder.again
            self.others.update(os.path.splitext(name)[1].lower() for name in folder.files if not is_image(name))
            self.tables += [folder.path + name for name in folder.files if name in _TABLES]
            tops |= {folder.path.partition("/")[0]} if folder.path and images else set()
            if self.images >= LOOKED:
                self.whole = False
                break
        self.folders = len(tops)

    def decide(self) -> bool:
        """Whether it has class folders. Raises ValueError where that is not clear."""
        shown = plural(self.images, "image")
        if not self.images:
            kinds = f"; it has {few([ending or 'no ending' for ending, _ in self.others.most_common()])}"
            raise ValueError(f"{self.root} has no images ({few(SUFFIXES)}){kinds if self.others else ''}")
        if self.tables:
            raise ValueError(
                f"{self.root} has a table, {few(self.tables)}: give that as the source to use its captions, or say "
                f"where else they are: --captions {self.extension} (beside the images), or --template '{TEMPLATE}' "
                "(class folders)"
            )
        if self.with_captions > MOSTLY * self.images:
            return False
        if self.with_captions:
            raise ValueError(
                f"{self.root}: {self.with_captions:,} of {shown} have a .{self.extension} beside; say whether these "
                f"are the captions (--captions {self.extension}) or the folders are classes (--template '{TEMPLATE}')"
            )
        if self.in_root or (self.folders < 2 and self.whole):
            where = f"{self.in_root:,} of them in no class folder" if self.in_root else "all in one folder"
            raise ValueError(
                f"{self.root}: {shown} without a .{self.extension} beside, {where}; put the caption of 1.jpg into "
                "1.txt, name another ending with --captions, or give the table of captions as the source"
            )
        return True

    def notes(self) -> list[str]:
        """What files are passed over."""
        found = []
        if self.again:
            links = plural(self.again, "link to a folder", "links to folders")
            found.append(f"{links} that are visited anyway: not followed")
        left = [(ending, count) for ending, count in self.others.most_common() if ending != f".{self.extension}"]
        if left:
            shown = few([f"{count:,} {ending or 'without ending'}" for ending, count in left])
            seen = "" if self.whole else f" (among the first {LOOKED:,} images)"
            found.append(f"other files are passed over{seen}: {shown}")
        return found


_TABLES = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}


def _not_usable(folder: Folder) -> Iterator[Skip]:
    if not folder.readable:
        yield Skip(folder.path, UNREADABLE_FOLDER)
    for name in filter(is_image, folder.odd):
        yield Skip(folder.path + name, IRREGULAR)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _same(path: str, other: str | None) -> bool:
    return other is not None and os.path.exists(other) and os.path.samefile(path, other)


def _named_as(folders: list[str]) -> tuple[str, ...]:
    names = tuple(name.replace("_", " ").strip() for name in folders)
    for name, folder in zip(names, folders, strict=True):
        if not (name and name.isprintable()):  # it would be no line of classnames.txt
            raise ValueError(f"the class folder {folder!r} has no name that can be read; rename it, or give --classes")
    return names


def _given(path: str, folders: list[str]) -> tuple[str, ...]:
    names = read_names(Path(path), "--classes")
    if len(names) != len(folders):
        raise ValueError(
            f"--classes {path} has {plural(len(names), 'name')} for {plural(len(folders), 'class folder')}"
        )
    return names
