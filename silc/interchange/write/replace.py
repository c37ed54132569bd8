"""Folders written whole or not at all, in place of an earlier export, whose other files stay.

    .OUT.XXXXXXXX.part    what is being written; locked while its process lives
    .OUT.XXXXXXXX.old     what OUT was, from the moment that it makes room until its other files are in the new OUT

A process that is ended in between leaves these names, :func:`recover` puts things right: nothing is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from silc.files import sync_folder
from silc.interchange.write.folder import CARD, EARLIER, SUMS, own_files

Say = Callable[[str], None]


@contextmanager
def replacing_folder(out: Path, say: Say, *, keep_others: bool = False) -> Iterator[Path]:
    """A folder to write to, beside `out`, which it replaces when the block ends; when the block raises, `out` is as
    before and nothing else is left.

    All that is in `out` and is no part of an earlier export of this package is there afterwards too, empty folders
    included, renamed where the new export has a file of that name.

    Args:
        out: made if missing, with its parents.
        say: takes a line about a file that is in the way.
        keep_others: whether `out` is an export's place whatever it holds: files named as those of an export of an
            earlier version are replaced.

    Raises OSError.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    draft.mkdir()
    try:
        with _locked(draft):
            yield draft
            for place, _, _ in os.walk(draft):
                sync_folder(Path(place))
            old = _swap(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # nothing is left by that name after the renaming
    sync_folder(out.parent)
    if old is not None:
        own = own_files(old) or (EARLIER if keep_others else frozenset())
        _bring_others(old, out, own, say)
    sync_folder(out.parent)


def recover(out: Path, say: Say) -> None:
    """Put right what an interrupted replacement of `out` has left: put `out` back if it is away, bring files of others
    to it, remove what was half written. What belongs to a process that lives is left alone.

    say: takes a line about what was done.
    """
    out = out.resolve()
    ours = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}\.(part|old)")
    try:
        with os.scandir(out.parent) as entries:
            left = sorted(Path(entry) for entry in entries if ours.fullmatch(entry.name) and _is_folder(Path(entry)))
    except OSError:  # whoever writes there will say it
        return
    for place in left:
        if place.suffix == ".part":
            if _is_free(place):
                shutil.rmtree(place, ignore_errors=True)
                say(f"{place}, left by an export that was interrupted, is removed")
        elif os.path.lexists(out):
            _bring_others(place, out, own_files(place), say)
        else:
            with contextlib.suppress(OSError):
                place.rename(out)
                say(f"{out} is put back: an export was interrupted while it replaced it")


def _swap(draft: Path, out: Path) -> Path | None:
    """Rename a folder to `out`. Returns where that which was there is now, None if nothing was."""
    old = out.with_name(f"{draft.name.removesuffix('.part')}.old")
    there = out.exists()
    if there:
        out.rename(old)
    try:
        draft.rename(out)
    except OSError:
        if there:
            with contextlib.suppress(OSError):
                old.rename(out)
        raise
    return old if there else None


def _bring_others(old: Path, out: Path, own: Iterable[str], say: Say) -> None:
    """Remove from `old` the files named `own`, and bring the rest to `out`; what cannot be brought stays in `old`."""
    try:
        # Last what says which files are whose: after an interruption it is asked again.
        for name in sorted(own, key=lambda name: (name in (CARD, SUMS), name)):
            _remove(old, name)
        _move(old, out, say)
    except OSError as error:
        say(f"{old} holds files that were in {out} and could not be brought there: {error}")


def _remove(folder: Path, name: str) -> None:
    """Remove a file, and the folders that are empty without it; through no link to another folder."""
    path = folder / name
    parents = list(itertools.takewhile(lambda parent: parent != folder, path.parents))
    if not all(map(_is_folder, parents)) or _is_folder(path):
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        for parent in parents:
            parent.rmdir()


def _move(old: Path, new: Path, say: Say) -> None:
    """Move what is in a folder into another one, and remove it. Nothing is replaced. Raises OSError."""
    for name in sorted(os.listdir(old)):
        source, target = old / name, new / name
        if _is_folder(source) and _is_folder(target):
            _move(source, target, say)
            continue
        if os.path.lexists(target):
            names = (f"{name}.old{n or ''}" for n in itertools.count())
            target = next(new / other for other in names if not any(os.path.lexists(at / other) for at in (old, new)))
            say(f"{new / name} was not written by an export; it is kept as {target.name}")
        source.rename(target)
    sync_folder(new)
    old.rmdir()


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself, not a link to one."""
    return path.is_dir() and not path.is_symlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Show other processes that this one is writing to a folder, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_free(folder: Path) -> bool:
    """Whether no process is writing to a folder. Where the file system cannot say, it counts as used."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
