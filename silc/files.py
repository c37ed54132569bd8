"""Writing files that are whole or absent, and reading files of others without waiting for ever.

A file is written under another name beside its place, brought to the disk, and renamed: a reader finds the earlier
contents or the new ones, never a part, also after a crash or on a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from silc.text import shown


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to; when the block ends, the file there takes the name `path`, in place of an earlier file.

    The file has the permissions that the umask (or the folder's default ACL) gives to a new file, also when the writer
    sets others: safetensors leaves 0600. When the block raises, `path` is as before and nothing else is left.

    Args:
        path: of the file; its folder must exist.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    # Created here for its mode: asking for the umask changes it for a moment, for every thread of the process.
    with draft.open("xb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
    try:
        yield draft
        with draft.open("rb") as file:
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # nothing is left by that name after the renaming
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text to a file, whole or not at all; see :func:`replacing`. Raises OSError."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def make_folder(path: str | Path) -> None:
    """Make a folder where it is missing, and a file in it for a moment. Raises OSError: it cannot be written to."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / f".{secrets.token_hex(4)}.part"
    trial.touch(exist_ok=False)
    trial.unlink()


def check_regular(path: str | Path, limit: int | None = None) -> None:
    """Refuse what is no regular file, since reading a pipe or a device may never end, and what is larger than `limit`
    bytes.

    Raises:
        ValueError: it is another thing, or larger.
        OSError: there is nothing, or nothing that may be looked at.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise ValueError(f"{path} is {kind}; give a regular file")
    if limit is not None and found.st_size > limit:
        raise ValueError(f"{path} has {found.st_size} bytes; at most {limit} are read")


def inside(folder: Path, name: str) -> Path:
    """A file of a folder, by its bare name.

    A link may lead to another file of the folder; in a snapshot of Hugging Face's cache also to the cache's own blobs.

    Raises ValueError for a name that is a path, and a link that leads elsewhere.
    """
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"{folder}: {shown(name)} is no name of a file in it")
    try:
        home, found = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ValueError(f"{folder}: {shown(name)} cannot be found ({error})") from None
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" and len(home.parents) > 1 else home
    if found.parent not in (home, blobs):
        raise ValueError(f"{folder / name} is a link out of its folder; put the file itself there")
    return folder / name


_ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room in the quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "its disk is mounted read-only",
    errno.ENOENT: "was it removed?",
    errno.EEXIST: "move away what stands there",
    errno.ENOTDIR: "move away what stands there",
    errno.EISDIR: "move away what stands there",
    errno.ENOTEMPTY: "move away what stands there",
    errno.ESTALE: "its server has lost it: mount it anew",
    errno.EIO: "look at its disk",
}


def advice(error: OSError) -> str:
    """What to do about a failed write, for the end of a message: `; make room on its disk`; empty for a rare one."""
    found = _ADVICE.get(error.errno or 0)
    return "" if found is None else f"; {found}"


def read_regular(path: str | Path, limit: int) -> bytes:
    """A file's bytes. Raises as :func:`check_regular`."""
    check_regular(path, limit)
    with open(path, "rb") as file:
        return file.read(limit)


def read_text(path: str | Path, limit: int) -> str:
    """A text file of at most `limit` bytes. Raises as :func:`check_regular`, and ValueError where it is not UTF-8."""
    try:
        return read_regular(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None


def parse_json(data: bytes | str, *, unique: bool = False) -> Any:
    """The value of a JSON text.

    unique: refuse objects that name a field twice, of which else the last one counts.

    Raises ValueError for what is none, and for values nested too deep.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("values are nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is named twice")
    return found


def read_json(path: str | Path, limit: int) -> Any:
    """The value in a JSON file of at most `limit` bytes. Raises as :func:`read_text` and :func:`parse_json`."""
    try:
        return parse_json(read_text(path, limit))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path} is not valid JSON: {error}") from None


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
