"""Export folders: which are this package's, what may be replaced, the card, and the SHA-256 of each file.

An export of this package has a last line in README.md that says so, and SHA256SUMS, which lists its files. What else is
in its folder belongs to others.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from silc.files import read_json, read_text, write_text
from silc.interchange.write.formats import Format
from silc.model.timm_tower import BASE
from silc.version import __version__

CARD = "README.md"
SUMS = "SHA256SUMS"
MAX_BYTES = 1 << 20
_MARK = re.compile(r"^<!-- exported by silc \S+ -->\s*$", re.MULTILINE)
_LINE = re.compile(r"[0-9a-f]{64} [ *](.+)")
EARLIER = frozenset({"open_clip_config.json", "open_clip_model.safetensors", "vision/config.json"})
"""What exports of versions without SHA256SUMS hold."""
_EVALUATED = {"evaluation.json", "report.html"}  # `silc evaluate EXPORT` leaves them there: of the replaced weights


def check_target(out: Path, to: Format, path: Path) -> None:
    """Refuse a place that an export may not take: a file, the folder that is being exported, other files, an export of
    another format.

    path: what is being exported. Raises ValueError saying what is there.
    """
    nearest = next((folder for folder in out.absolute().parents if folder.exists()), out)
    if not out.exists() and nearest.is_dir():
        return
    if not nearest.is_dir():
        raise ValueError(f"{out} cannot be made: {nearest} is a file; give another name")
    if not out.is_dir():
        raise ValueError(f"{out} is a file; an export is a folder: give a new name")
    if path.exists() and (out.samefile(path) or path.resolve().is_relative_to(out.resolve())):
        raise ValueError(f"{out} holds what is to be exported; give a new folder")
    if next(files(out), None) is None:
        return
    kind = kind_of(out)
    if kind is None:
        raise ValueError(f"{out} holds other files and no earlier export of this package; give a new folder")
    own = own_files(out)
    strange = next((name for name in files(out) if name not in own), None)
    if strange is not None:
        raise ValueError(
            f"{out} holds an export and {strange}, which is no part of it; move that, or give a new folder"
        )
    if kind != to:
        raise ValueError(f"{out} holds an export for {kind}; give a new folder, or remove it")


def kind_of(folder: Path) -> Format | None:
    """The format of an export of this package; None for another folder."""
    if not own_files(folder):
        return None
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    if (folder / "image.onnx").is_file():
        return "onnx"
    config = _described(folder / "config.json")
    return "hf" if config.get("model_type") == "siglip" else "timm" if "architecture" in config else None


def own_files(folder: Path) -> frozenset[str]:
    """Paths, relative to the folder, of the files of an export of this package, and of the results of evaluating it;
    none for another folder, whatever it holds.
    """
    try:
        lines = read_text(folder / SUMS, MAX_BYTES).splitlines()
        marked = _MARK.search(read_text(folder / CARD, MAX_BYTES)) is not None
    except (OSError, ValueError):
        return EARLIER if _is_earlier(folder) else frozenset()
    if not marked:
        return frozenset()
    listed = (match[1] for line in lines if (match := _LINE.fullmatch(line)))
    return frozenset({SUMS, *_EVALUATED, *filter(_is_inside, listed)})


def files(folder: Path) -> Iterator[str]:
    """Paths of all files and links below a folder, relative to it."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in sorted([*names, *links]):
            yield (Path(place) / name).relative_to(folder).as_posix()


def write_card(folder: Path, text: str) -> None:
    """Write README.md, with the line that marks an export of this package at its end. Raises OSError."""
    write_text(folder / CARD, f"{text.rstrip()}\n\n<!-- exported by silc {__version__} -->\n")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all files below a folder, as `sha256sum -c` reads it, and bring them to the disk. Raises
    OSError.
    """
    names = sorted(name for name in files(folder) if name != SUMS)
    write_text(folder / SUMS, "".join(f"{_hash(folder / name)}  {name}\n" for name in names))


def renew_sum(folder: Path, name: str) -> None:
    """Bring the line of one file of an export in SHA256SUMS up to date. Raises OSError and ValueError."""
    lines = read_text(folder / SUMS, MAX_BYTES).splitlines()
    others = [line for line in lines if (match := _LINE.fullmatch(line)) is None or match[1] != name]
    added = sorted([*others, f"{_hash(folder / name)}  {name}"], key=lambda line: line[66:])
    write_text(folder / SUMS, "".join(f"{line}\n" for line in added))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return found


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _is_earlier(folder: Path) -> bool:
    """Whether a version without SHA256SUMS wrote the folder, by what it alone writes: the sizes of an image tower that
    timm does not know by name.
    """
    if (folder / SUMS).exists() or not (folder / "open_clip_config.json").is_file():
        return False
    if _described(folder / "vision" / "config.json").get("architecture") == BASE:
        return True
    found: Any = _described(folder / "open_clip_config.json")
    for key in ("model_cfg", "vision_cfg", "timm_model_name"):
        found = found.get(key) if isinstance(found, dict) else None
    return isinstance(found, str) and found.startswith("silc_vit.")


def _described(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        found = read_json(path, MAX_BYTES)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
