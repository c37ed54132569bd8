"""The manifest of a checkpoint: name, size and SHA-256 of each of its files, written last.

    manifest.json            {"format": 4, "step": ..., "written": ..., "files": {NAME: SIZE}, "sha256": {NAME: HASH},
                             "self": HASH}

`self` is the hash of all that stands before it, so that a changed byte of the manifest shows too. Earlier versions
wrote format, step and sizes alone: their files are compared by size.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from silc.files import check_regular, replacing, write_text

NAME = "manifest.json"
FORMAT = 4
EARLIER = {"format", "step", "files"}  # all keys of formats 1 to 3
MAX_BYTES = 64 << 20
THREADS = 4  # files hashed at a time: hashlib lets go of the interpreter
OLDER = "take an older checkpoint"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes, and SHA-256 in hexadecimal digits or None where an earlier version wrote none."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: of the run.
        written: seconds since 1970; 0.0 for an earlier version.
        files: by their paths below the checkpoint.
    """

    step: int
    written: float
    files: Mapping[str, FileRecord] = field(repr=False)


def record(file: Path) -> FileRecord:
    """Size and hash of a file. Raises OSError."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
        return FileRecord(opened.tell(), found)


def write_file(path: Path, content: bytes) -> FileRecord:
    """Write a file, whole or not at all, and bring it to the disk. Returns its record. Raises OSError.

    The record is of the bytes that were meant, not of what can be read back: a server may say only when a file is
    closed that it has no room, and safetensors, which writes files itself, does not listen.
    """
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(len(content), hashlib.sha256(content).hexdigest())


def write(folder: Path, step: int, files: Mapping[str, FileRecord]) -> None:
    """Write the manifest of a checkpoint. Raises OSError."""
    body: dict[str, Any] = {"format": FORMAT, "step": step, "written": round(time.time(), 3)}
    body["files"] = {name: files[name].size for name in sorted(files)}
    body["sha256"] = {name: files[name].sha256 for name in sorted(files)}
    head = json.dumps(body, indent=1).removesuffix("\n}")
    write_text(folder / NAME, head + _tail(head))


def _tail(head: str) -> str:
    return f',\n "self": "{hashlib.sha256(head.encode()).hexdigest()}"\n}}\n'


def read(folder: Path) -> Manifest:
    """The manifest of a checkpoint. Raises ValueError for one that is damaged, and OSError."""
    path = folder / NAME
    try:
        check_regular(path, MAX_BYTES)
        text = path.read_bytes().decode()
        return _parse(text)
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {NAME}: it is no whole checkpoint; {OLDER}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise ValueError(f"{path} is damaged; {OLDER}") from None


def _parse(text: str) -> Manifest:
    """Raises any of several exceptions for text that no version has written."""
    found = json.loads(text)
    files = {_inside(name): int(size) for name, size in found["files"].items()}
    if found.keys() <= EARLIER:
        return Manifest(int(found["step"]), 0.0, {name: FileRecord(size, None) for name, size in files.items()})
    head = text[: text.rindex(',\n "self": ')]
    if text != head + _tail(head) or found["format"] != FORMAT or found["sha256"].keys() != files.keys():
        raise ValueError
    hashes = found["sha256"]
    records = {name: FileRecord(size, str(hashes[name])) for name, size in files.items()}
    return Manifest(int(found["step"]), float(found["written"]), records)


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError
    return name


def faults(folder: Path, only: Collection[str] | None = None) -> list[str]:
    """How the files of a checkpoint differ from its manifest, a sentence each; empty for a whole one.

    only: the files whose hashes are compared; None: all. Sizes are compared in any case.

    Raises ValueError for a manifest that is damaged, and OSError for a file that cannot be read.
    """
    expected = read(folder).files
    found = [text for name, wanted in expected.items() if (text := _other_size(folder / name, name, wanted.size))]
    strange = {str(file.relative_to(folder)) for file in folder.rglob("*.safetensors")} - expected.keys()
    found += [f"{name} is not in its manifest" for name in sorted(strange)[:8]]
    if found:
        return found
    hashed = {name: one for name, one in expected.items() if one.sha256 and (only is None or name in only)}
    with ThreadPoolExecutor(THREADS) as pool:
        got = dict(zip(hashed, pool.map(lambda name: record(folder / name), hashed), strict=True))
    return [
        f"{name} is not as it was written (SHA-256 {got[name].sha256!s:.12}..., it was {wanted.sha256!s:.12}...)"
        for name, wanted in hashed.items()
        if got[name] != wanted
    ]


def _other_size(file: Path, name: str, wanted: int) -> str | None:
    size = file.stat().st_size if file.is_file() else None
    if size is None:
        return f"{name} is missing"
    return None if size == wanted else f"{name} should hold {wanted} bytes, found {size}"
