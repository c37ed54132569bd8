"""The index that a run needs, found or made when it starts, by the first process of each machine.

Local shards: an index is taken where it fits the files as they are now, by size and time of change; where it does not,
the few shards that need it are read, and the index is kept beside the shards or in the cache. Remote shards: their
manifest is copied into the cache; it has to be made beforehand. A record of what was chosen lets the other processes of
the machine open the same (:func:`open_prepared`).
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from silc.data.shards import usable
from silc.data.shards.build import IMAGES, build
from silc.data.shards.caption_key import CaptionKey
from silc.data.shards.errors import few, shorten
from silc.data.shards.manifest import NAME, Manifest, joined
from silc.data.shards.manifest_file import LIMIT, packed, parsed, repeated
from silc.data.shards.places import LOCK, Say, absolute, cache_of, made, only_one, write
from silc.data.shards.runs import REST
from silc.data.shards.sidecar import WORD
from silc.data.shards.stats import ABSENT, Stats, twice
from silc.data.shards.texts import Texts
from silc.data.shards.wanted import Wanted, find, numbers_of, rows_of
from silc.storage import fetch_apart, is_remote, list_tars, read_whole
from silc.text import plural

AUTOMATIC = 2000  # shards that are indexed when a run starts; for more there is the command
PAUSE = 10.0  # seconds between lines that tell how far the index is
RECORD = "prepared"
RECORD_LIMIT = 2 * LIMIT


class Needs(NamedTuple):
    """What an index must have.

    Attributes:
        caption: where the captions are whose hashes are needed, see :class:`CaptionKey`; None: none are.
        images: extensions of images, in lower case.
    """

    caption: str | None
    images: tuple[str, ...]


class Chosen(NamedTuple):
    """A manifest, and which of its shards are meant.

    Attributes:
        manifest: all of it.
        rows: int64 [m].
        address: of the manifest.
        data: its bytes.
        files: what the file system says of the shards; None where they are remote, or were not looked at.
    """

    manifest: Manifest
    rows: np.ndarray
    address: str
    data: bytes
    files: Stats | None = None


def prepare(
    patterns: Sequence[str],
    *,
    caption: str,
    images: Sequence[str],
    max_lost: float,
    hashes: bool = False,
    what: str = "data.shards",
    patience: float = 120.0,
    say: Say = print,
) -> Manifest:
    """The manifest of the shards that patterns name. Call it in one process of a machine, before the others.

    Nothing remote is read in this process, so that workers may be forked from it.

    Args:
        patterns: shards, brace patterns, wildcards, folders and manifests, local or remote.
        caption: where the captions are, see :class:`CaptionKey`.
        images: extensions of images.
        max_lost: share of the samples that may be unusable.
        hashes: whether caption hashes are needed (data.unique_captions).
        what: where the shards are named, for messages.
        patience: seconds that a remote store may fail.
        say: told what is done and what is wrong; whole sentences.

    Raises:
        ValueError: shards that are missing, named twice, without index, without samples, images or captions, or that
            lose more than max_lost of their samples.
        StoreFailed: a remote manifest cannot be read.
        RunStopped: the disk of the index fails.
    """
    needs, entries = _needs(caption, images, hashes), find(patterns, what)
    chosen = [
        _remote(wanted, needs, what, patience, say) if is_remote(wanted.manifest) else _local(wanted, needs, what, say)
        for wanted in entries
    ]
    for wanted, each in zip(entries, chosen, strict=True):
        if wanted.listed and len(each.rows) < len(each.manifest):
            gone = np.setdiff1d(np.arange(len(each.manifest)), each.rows)
            shown = few([each.manifest.addresses[i] for i in gone.tolist()])
            say(f"warning: {plural(len(gone), 'shard')} of {each.address} are not there any more: {shown}")
    manifest = joined([each.manifest.select(each.rows) for each in chosen])
    _check_each_once(manifest, chosen, what)
    columns = {"image": images, "caption": [CaptionKey.of(caption).extension]}
    usable.check(manifest, patterns, columns, max_lost=max_lost, what=what, say=say)
    write(made(_record_folder(patterns, needs)) / RECORD, _packed(chosen))
    return _without_details(manifest)


def open_prepared(
    patterns: Sequence[str], *, caption: str, images: Sequence[str], hashes: bool = False, what: str = "data.shards"
) -> Manifest:
    """What :func:`prepare` returned to a process of this machine for the same arguments; nothing else is looked at.

    Raises ValueError where that was not called before.
    """
    path = _record_folder(patterns, _needs(caption, images, hashes)) / RECORD
    try:
        return _without_details(joined(_recorded(read_whole(str(path), RECORD_LIMIT))))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{what}: the index that was prepared on this machine cannot be read ({error}); start again"
        ) from None


def _packed(chosen: Sequence[Chosen]) -> bytes:
    """A record of what was chosen: a line of JSON that tells where the manifests are from, and the manifests.

    They are copied, not named, as another run may change an index in the cache while it adds shards of its own.
    """
    files = []
    for each in chosen:
        data, part = each.data, each.manifest.parts[0]
        if not np.array_equal(each.rows, np.arange(len(each.manifest))):
            some = each.manifest.select(each.rows)
            rows = [row._replace(name=row.name.removeprefix(part.base)) for row in some.rows()]
            data = packed(rows, base=part.base, caption=some.caption, images=some.images)
        files.append(data)
    head = [[each.address, len(data)] for each, data in zip(chosen, files, strict=True)]
    return b"".join([json.dumps(head).encode() + b"\n", *files])


def _recorded(record: bytes) -> list[Manifest]:
    head, _, rest = record.partition(b"\n")
    manifests, begin = [], 0
    for address, size in json.loads(head):
        manifests.append(parsed(rest[begin : begin + size], address))
        begin += size
    if not manifests or begin != len(rest):
        raise ValueError("it is damaged")
    return manifests


def _record_folder(patterns: Sequence[str], needs: Needs) -> Path:
    return cache_of("prepared", *map(absolute, map(str, patterns)), *map(str, needs))


def _needs(caption: str, images: Sequence[str], hashes: bool) -> Needs:
    return Needs(str(CaptionKey.of(caption)) if hashes else None, tuple(sorted({image.lower() for image in images})))


def _without_details(manifest: Manifest) -> Manifest:
    """Details are for messages; a run keeps what it reads samples by."""
    return dataclasses.replace(manifest, details=Texts(b"", np.zeros(len(manifest), np.int64)))


def _check_each_once(manifest: Manifest, chosen: Sequence[Chosen], what: str) -> None:
    if (address := repeated(manifest.addresses)) is not None:
        raise ValueError(f"{what}: {address} is named twice")
    local = [(each.manifest.addresses, each.rows, each.files) for each in chosen if each.files is not None]
    if local and (pair := twice([files for _, _, files in local])) is not None:
        a, b = (local[number][0][int(local[number][1][i])] for number, i in pair)
        raise ValueError(f"{what}: {a} and {b} are the same file; name it once")


def _remote(wanted: Wanted, needs: Needs, what: str, patience: float, say: Say) -> Chosen:
    """The manifest of remote shards, copied into the cache."""
    say(f"reading the index {shorten(wanted.manifest)}; if that fails, trying for up to {patience:.0f} s")
    try:
        data = fetch_apart(wanted.manifest, LIMIT, patience=patience)
    except ValueError as error:
        raise ValueError(
            f"{what}: {shorten(wanted.shown)} is in a remote store and has no index ({error}); "
            f"{wanted.again(needs.caption)}"
        ) from None
    manifest = parsed(data, wanted.manifest)
    if wrong := _unfit(manifest, needs):
        raise ValueError(f"{what}: {wanted.manifest} {wrong}; {wanted.again(needs.caption)}")
    return Chosen(manifest, rows_of(wanted, manifest, what), wanted.manifest, data)


def _unfit(manifest: Manifest, needs: Needs) -> str:
    """What an index lacks for the whole run; empty where it lacks nothing."""
    if needs.caption is not None and manifest.caption != needs.caption:
        return f"holds no hashes of the {needs.caption} captions, which data.unique_captions needs"
    if not same_images(manifest, needs.images):
        return f"was made for images in {'/'.join(manifest.images)}, not in {'/'.join(needs.images)}"
    return ""


def same_images(manifest: Manifest, images: Sequence[str]) -> bool:
    """Whether an index would be the same for these extensions of images, in lower case: those it was not made for are
    in no shard."""
    more = set(images) - set(manifest.images)
    found = manifest.extensions if more else ()
    return not ((more and REST in found) or any(name.rpartition(".")[2] in more for name in found))


def _local(wanted: Wanted, needs: Needs, what: str, say: Say) -> Chosen:
    """An index of local shards that fits them, made or mended where that is needed."""
    found = _look(wanted, needs, say)
    if isinstance(found, Chosen):
        return found
    if found.todo > AUTOMATIC:
        raise ValueError(
            f"{what}: {plural(found.todo, 'shard')} of {wanted.shown} have no index, or one that does not fit them any "
            f"more; {wanted.again(needs.caption)}"
        )
    for out, keep in found.places:
        made(Path(out))
        try:
            with only_one(Path(out) / LOCK, say):
                now = _look(wanted, needs, _nothing)  # the process that was waited for may have made it
                if isinstance(now, Looked):
                    _make(now, out, needs, what, say, keep=keep)
                    now = _look(wanted, needs, _nothing)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                raise
            continue
        if isinstance(now, Chosen):
            return now
        raise ValueError(f"{what}: {plural(now.todo, 'shard')} of {found.folder} change while they are read")
    raise ValueError(
        f"{what}: no index can be kept for {found.folder}; set SILC_CACHE to a folder that can be written to"
    )


def _nothing(_: str) -> None:
    """What is said the first time is not said again."""


class Looked(NamedTuple):
    """What was found where no index fits.

    Attributes:
        addresses: of the shards.
        folder: that names them, for messages.
        todo: shards that have to be looked into.
        best: the index that fits most of them.
        places: folders where an index may be kept, and whether rows of other shards are kept there, the first choice
            first.
    """

    addresses: list[str]
    folder: str
    todo: int
    best: Manifest | None
    places: list[tuple[str, bool]]


def _look(wanted: Wanted, needs: Needs, say: Say) -> Chosen | Looked:
    cache = cache_of(wanted.manifest if wanted.named else wanted.folder, needs.caption or "")
    own, addresses = _opened(wanted.manifest, wanted.named, say), wanted.addresses
    if own is not None and _elsewhere(own.manifest, wanted):
        addresses = list(own.manifest.addresses)
        if addresses and is_remote(addresses[0]):
            if wrong := _unfit(own.manifest, needs):
                raise ValueError(f"{wanted.manifest} {wrong}; {wanted.again(needs.caption)}")
            return own
    if addresses is None:
        raise ValueError(f"{wanted.manifest} is gone")
    files = Stats(addresses)
    if (absent := np.flatnonzero(files.sizes == ABSENT)).size:
        raise ValueError(f"{wanted.manifest}: no such files: {few([addresses[i] for i in absent.tolist()])}")
    best, todo = None, len(addresses)
    for each in (own, _opened(f"{cache}/{NAME}", False, say)):
        if each is None or _unfit(each.manifest, needs):
            continue
        rows = numbers_of(addresses, each.manifest)
        count = int(np.count_nonzero(_stale(each.manifest, rows, files, needs)))
        if not count:
            return each._replace(rows=rows, files=files)
        if count <= todo:
            best, todo = each.manifest, count
    places = [(f"{cache}/", not wanted.named)]
    if addresses == list_tars(wanted.folder) and (
        own is None or own.manifest.caption is None or not _unfit(own.manifest, needs)
    ):
        places.insert(0, (wanted.folder, False))
    return Looked(addresses, wanted.manifest if wanted.named else wanted.folder, todo, best, places)


def _elsewhere(manifest: Manifest, wanted: Wanted) -> bool:
    """Whether a manifest alone tells which shards are meant: it is named, or lists those of another folder."""
    base = manifest.parts[0].base
    if wanted.addresses is not None and wanted.addresses and base != wanted.folder:
        raise ValueError(
            f"{wanted.manifest} lists the shards of {base}, and {wanted.folder} holds tar files too; name the "
            "manifest, or move one of them"
        )
    return wanted.named or base != wanted.folder


def _opened(path: str, named: bool, say: Say) -> Chosen | None:
    """A local manifest; None where there is none. A damaged one is said, or where it was named an error."""
    if not os.path.exists(path):
        return None
    try:
        data = read_whole(path, LIMIT)
        manifest = parsed(data, path)
    except ValueError as error:
        if named:
            raise
        say(f"warning: {error}")
        return None
    return Chosen(manifest, np.arange(len(manifest)), path, data)


def _stale(manifest: Manifest, rows: np.ndarray, files: Stats, needs: Needs) -> np.ndarray:
    """Whether each shard has to be looked into: bool [n].

    rows: the shards' numbers in the manifest; -1: it does not list them.
    """
    stale = rows < 0
    known = np.flatnonzero(~stale)
    stale[known] = manifest.sizes[rows[known]] != files.sizes[known]
    times = files.times.tolist()
    for i in known.tolist():
        stale[i] |= manifest.versions[int(rows[i])] != str(times[i])
    # Shards that were left out have no sidecars.
    known = np.array([i for i in known.tolist() if not manifest.left_out(int(rows[i]))], np.int64)
    samples = manifest.samples[rows[known]]
    sidecars = [manifest.sidecar(row) for row in rows[known].tolist()]
    stale[known] |= Stats(sidecars).sizes != (samples + 1) * WORD.itemsize
    if needs.caption is not None:
        hashes = [manifest.hashes(row) for row in rows[known].tolist()]
        stale[known] |= Stats(hashes).sizes != samples * WORD.itemsize
    return stale


def _make(found: Looked, out: str, needs: Needs, what: str, say: Say, *, keep: bool) -> None:
    """Make the index in a folder. Raises ValueError for shards that cannot be indexed."""
    say(f"indexing {plural(found.todo, 'shard')} of {found.folder} (once; the index is kept in {out})")
    begun = told = time.monotonic()

    def progress(done: int, total: int, samples: int, _: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told > PAUSE:
            told = now
            say(f"indexed {done:,} of {plural(total, 'shard')}, {plural(samples, 'sample')}, in {now - begun:.0f} s")

    images = sorted({*needs.images, *(found.best.images if found.best is not None else IMAGES)})
    built = build(
        found.addresses, out, caption=needs.caption, images=images, keep=keep, earlier=found.best, progress=progress
    )
    if built.bad:
        bad = few([f"{name}: {wrong}" for name, wrong in built.bad])
        command = shlex.join(["silc", "shards", "index", "--skip-bad", found.folder])
        raise ValueError(
            f"{what}: {len(built.bad):,} of {plural(len(found.addresses), 'shard')} cannot be indexed: {bad}. Repair "
            f"or remove them, or leave them out with `{command}`"
        )
