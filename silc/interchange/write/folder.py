"""Export folders: written whole or not at all, with the SHA-256 of each file, and never over files of others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from silc.files import read_json, read_text, sync_folder, write_text
from silc.interchange.write.formats import Format

SUMS = "SHA256SUMS"
MAX_BYTES = 1 << 20
MAX_FILES = 1000  # an export has about ten
_LINE = re.compile(r"[0-9a-f]{64} [ *](.+)")
# What exports of versions without SHA256SUMS hold.
_EARLIER = {"open_clip_config.json", "open_clip_model.safetensors", "vision/config.json"}


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
    found = files(out)
    if not found:
        return
    kind = kind_of(out)
    if kind is None:
        raise ValueError(f"{out} holds other files and no earlier export; give a new folder")
    if strange := others(out):
        raise ValueError(
            f"{out} holds an export and {strange[0]}, which is no part of it; move that, or give a new folder"
        )
    if kind != to:
        raise ValueError(f"{out} holds an export for {kind}; give a new folder, or remove it")


def kind_of(folder: Path) -> Format | None:
    """The format of an export of this package; None for another folder."""
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    if not (folder / SUMS).is_file():
        return None
    if (folder / "image.onnx").is_file():
        return "onnx"
    try:
        config = read_json(folder / "config.json", MAX_BYTES)
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    return "hf" if config.get("model_type") == "siglip" else "timm" if "architecture" in config else None


def others(folder: Path) -> list[str]:
    """Files in an export's folder that this package did not write there."""
    return [name for name in files(folder) if name not in _written(folder)]


def files(folder: Path) -> list[str]:
    """Paths of all files and links below a folder, relative to it, sorted; of very many, MAX_FILES and one."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in [*names, *links]]
        if len(found) > MAX_FILES:
            break
    return sorted(found)[: MAX_FILES + 1]


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of an export's own files, as `sha256sum -c` reads it, and bring them to the disk; of all files
    where there is none yet. Raises OSError.
    """
    lines, strange = [], others(folder) if (folder / SUMS).is_file() else []
    for name in files(folder):
        if name in (SUMS, *strange):
            continue
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
            os.fsync(file.fileno())
    write_text(folder / SUMS, "".join(lines))


@contextmanager
def replacing_folder(out: Path, *, keep_others: bool = False) -> Iterator[Path]:
    """A folder to write to, beside `out`, which it replaces when the block ends; when the block raises, `out` is as
    before and nothing else is left.

    Args:
        out: made if missing, with its parents.
        keep_others: copy files of others that are in `out`.

    Raises OSError.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    draft.mkdir()
    try:
        yield draft
        if keep_others and out.is_dir():
            for name in others(out):
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(out / name, draft / name, follow_symlinks=False)
        sync_folder(draft)
        _swap(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # nothing is left by that name after the renaming
    sync_folder(out.parent)


def _swap(draft: Path, out: Path) -> None:
    """Rename a folder to `out`, in place of what is there."""
    old = out.with_name(f"{draft.name.removesuffix('.part')}.old")
    if out.exists():
        out.rename(old)
    try:
        draft.rename(out)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _written(folder: Path) -> set[str]:
    """Names of the files that an export consists of."""
    try:
        lines = read_text(folder / SUMS, MAX_BYTES).splitlines()
    except (OSError, ValueError):
        return _EARLIER
    return {SUMS, *(match[1] for line in lines if (match := _LINE.fullmatch(line)))}
