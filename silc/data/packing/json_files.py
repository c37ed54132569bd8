"""JSON: lines of objects, lists of objects, COCO's captions, and Karpathy's splits of COCO and Flickr.

A file that is one JSON value is read as a whole, up to MAX_FILE bytes, and takes about seven times its size of memory;
JSON lines are read line by line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from silc.data.packing.columns import choose
from silc.data.packing.lines import bounded, opened
from silc.data.packing.options import SourceOptions, chosen_splits
from silc.data.packing.rows import Skip
from silc.data.packing.tables import Record, Table
from silc.files import parse_json, read_json
from silc.text import plural

MAX_FILE = 2 << 30  # bytes of a JSON file that is one value
HEADS = 64  # rows that are looked at for the names of columns
BAD_LINE, NO_FIELD, NO_CAPTION = "not a JSON object", "field missing", "image without caption"
NO_ID, TWICE = "image without an id", "id of several images"


def open_json_lines(path: str, options: SourceOptions) -> Table:
    """A file with a JSON object a line. Raises ValueError: no columns of these names."""
    return _table(path, "a file of JSON lines", partial(_lines, path), options)


def open_json(path: str, options: SourceOptions) -> Table:
    """A .json file, whichever of the kinds it is.

    Raises ValueError: another kind, damaged, larger than MAX_FILE.
    """
    if _is_lines(path):
        return open_json_lines(path, options)
    value = read_json(path, MAX_FILE)
    if isinstance(value, list):
        return _table(path, "a JSON list of rows", partial(_items, path, value), options)
    if isinstance(value, dict) and isinstance(images := value.get("images"), list):
        if isinstance(annotations := value.get("annotations"), list):
            return _coco(path, images, annotations, options)
        if any(isinstance(image, dict) and "sentences" in image for image in images[:HEADS]):
            return _karpathy(path, images, options)
    raise ValueError(
        f"{path} is none of the JSON files that are known: COCO's captions (images and annotations), Karpathy's splits "
        "(images with sentences), a list of objects, JSON lines"
    )


def _is_lines(path: str) -> bool:
    """Whether the first line by itself is a JSON object, and there are more."""
    with opened(path) as file:
        try:
            lines = bounded(file, path)
            return isinstance(parse_json(next(lines, "")), dict) and bool(next(lines, "").strip())
        except ValueError:
            return False


def _lines(path: str) -> Iterator[tuple[str, Any]]:
    name = os.path.basename(path)
    with opened(path) as file:
        for number, line in enumerate(bounded(file, path), 1):
            if line.strip():
                try:
                    value = parse_json(line)
                except ValueError:
                    value = None
                yield f"{name}:{number}", value


def _items(path: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    name = os.path.basename(path)
    return ((f"{name}:{number}", value) for number, value in enumerate(values))


def _table(path: str, title: str, items: Any, options: SourceOptions) -> Table:
    """items: () -> iterator of (name, value)."""
    options.check(title, "image_column", "caption_column", "root")
    heads = [value for _, value in islice(items(), HEADS) if isinstance(value, dict)]
    if not heads:
        raise ValueError(f'{path}: none of the first rows is a JSON object, such as {{"image": ..., "caption": ...}}')
    columns = choose(list(dict.fromkeys(key for head in heads for key in head)), *_named(options))

    def records() -> Iterator[Record | Skip]:
        for name, value in items():
            if not isinstance(value, dict):
                yield Skip(name, BAD_LINE)
            elif columns.image not in value or columns.caption not in value:
                yield Skip(name, NO_FIELD)
            else:
                yield name, value[columns.image], value[columns.caption]

    return Table(title, columns, records, path, options.root)


def _named(options: SourceOptions) -> tuple[str | None, str | None]:
    return options.image_column, options.caption_column


def _coco(path: str, images: list[Any], annotations: list[Any], options: SourceOptions) -> Table:
    title = "COCO captions"
    options.check(title, "root")
    captions: dict[int | str, list[str]] = {}
    lost = 0
    for each in annotations:
        number = _id(each.get("image_id")) if isinstance(each, dict) else None
        if number is not None and isinstance(each.get("caption"), str):
            captions.setdefault(number, []).append(each["caption"])
        else:
            lost += 1
    if not captions:
        raise ValueError(
            f"{path} has no captions with the id of their image: give captions_*.json, not instances_*.json"
        )
    files = _files_by_id(images)

    def records() -> Iterator[Record | Skip]:
        for place, image in enumerate(images):
            number = _id(image.get("id")) if isinstance(image, dict) else None
            if number is None:
                yield Skip(f"{os.path.basename(path)}: image {place}", NO_ID)
                continue
            name = f"{os.path.basename(path)}:{number}"
            if files[number] is None:
                yield Skip(name, TWICE)
            elif number in captions:
                yield name, image.get("file_name"), captions[number]
            else:
                yield Skip(name, NO_CAPTION)

    notes = [f"{plural(len(images), 'image')}, {plural(sum(map(len, captions.values())), 'caption')}"]
    if lost:
        notes.append(f"{plural(lost, 'annotation')} left out: no text, or no image_id")
    if unknown := [number for number in captions if number not in files]:
        count = sum(len(captions[number]) for number in unknown)
        notes.append(f"{plural(count, 'caption')} left out: of images that are not listed, such as {unknown[0]}")
    return Table(title, None, records, path, options.root, notes, higher=True)


def _files_by_id(images: list[Any]) -> dict[int | str, str | None]:
    """Files of the images by their ids; None: several images share the id, and whose captions they are is not known."""
    names: dict[int | str, str | None] = {}
    for image in images:
        if isinstance(image, dict) and (number := _id(image.get("id"))) is not None:
            name = _text(image, "file_name")
            names[number] = name if names.get(number, name) == name else None
    return names


def _id(value: object) -> int | str | None:
    """An id as a key: 7, 7.0 (as pandas writes it) and "7" are the same; None: it is none, and stands for nothing."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 20 and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) and value != "" else None


def _karpathy(path: str, images: list[Any], options: SourceOptions) -> Table:
    title = "Karpathy's splits"
    options.check(title, "root", "split")
    found = list(dict.fromkeys(_text(image, "split") for image in images if isinstance(image, dict)))
    wanted = set(chosen_splits(found, options.split))
    chosen = [image for image in images if isinstance(image, dict) and _text(image, "split") in wanted]

    def records() -> Iterator[Record | Skip]:
        for number, image in enumerate(chosen):
            sentences = image.get("sentences")
            raw = (
                [each.get("raw") for each in sentences if isinstance(each, dict)] if isinstance(sentences, list) else []
            )
            yield f"{os.path.basename(path)}:{image.get('imgid', number)}", _place(image), raw

    note = f"split {', '.join(sorted(wanted))} of {', '.join(found)}"
    return Table(title, None, records, path, options.root, [note], higher=True)


def _place(image: dict[str, Any]) -> str:
    """COCO's images lie in folders that `filepath` names, Flickr's do not."""
    return os.path.join(_text(image, "filepath"), _text(image, "filename"))


def _text(image: dict[str, Any], field: str) -> str:
    value = image.get(field)
    return value if isinstance(value, str) else ""
