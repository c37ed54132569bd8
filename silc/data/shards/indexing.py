"""One shard's sidecars: kept where they fit the shard, taken over from megatron-energon, or made by reading the tar.

This is what the processes of :mod:`silc.data.shards.build` do.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from silc.data.shards import imports, sidecar
from silc.data.shards.caption_key import CaptionKey
from silc.data.shards.errors import Unreadable, shorten
from silc.data.shards.manifest import HASHES, OFFSETS, Row, capped
from silc.data.shards.runs import caption_hash
from silc.data.shards.samples import parse, scan
from silc.data.shards.tar import RECORD, Source, is_header, windowed
from silc.errors import StoreFailed
from silc.files import check_regular
from silc.storage import Range, Stat, Store, is_remote, put, read_whole, stat

WINDOW = 8 << 20  # bytes of a remote shard read at a time
PICKS = 16  # samples compared when a shard has another time of change and the same size
LARGEST = 64 << 20  # bytes of a sample that is still compared
TRIES = 3  # readings of a shard that changes meanwhile
EXTENSION = 64  # characters kept of an extension
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
KEPT, COMPARED, TAKEN, READ = "kept", "compared", "taken", "read"


class Job(NamedTuple):
    """A shard to index.

    Attributes:
        name: relative to the base, for its row.
        address: of the tar.
        out: address of its sidecars without their suffixes.
        row: what an earlier index says of it; None: nothing.
        earlier: address of the sidecars of that index without their suffixes.
        caption: where the captions to hash are, see :class:`CaptionKey`; None: none.
        images: extensions of images.
        energon: whether offsets of megatron-energon beside the shard are taken over.
        counted: samples that another program counted, and where it says so.
        stats: whether img2dataset's statistics of the shard are looked for too.
    """

    name: str
    address: str
    out: str
    row: Row | None
    earlier: str
    caption: str | None
    images: tuple[str, ...]
    energon: bool
    counted: tuple[int, str] | None
    stats: bool


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        name: of the shard.
        row: None where it is not there; without samples, and with "left_out" in its details, where it cannot be
            indexed.
        how: KEPT, COMPARED (a few samples with the earlier index), TAKEN or READ.
        wrong: why it cannot be indexed; empty if it can.
        failed: whether that is because of a store or disk, and would happen to other shards too.
        notes: sentences about damage, or about a count that differs.
    """

    name: str
    row: Row | None
    how: str = ""
    wrong: str = ""
    failed: bool = False
    notes: tuple[str, ...] = ()


def index_shards(jobs: Sequence[Job], store: Store) -> list[Outcome]:
    """:func:`index_shard` of several."""
    return [index_shard(job, store) for job in jobs]


def index_shard(job: Job, store: Store) -> Outcome:
    """Bring the sidecars of a shard up to date. Never raises for what is wrong with it."""
    found = None
    try:
        for _ in range(TRIES):
            found = stat(job.address)
            if found is None:
                return Outcome(job.name, None, wrong="it is not there any more")
            with opened(job.address, found.size, store) as source:
                outcome = _kept(job, found, source) or _taken(job, found, source) or _read(job, found, source)
            if stat(job.address) == found:
                return outcome
        return _left_out(job, found, "it changes while it is read")
    except StoreFailed as error:
        # A file that may not be read says nothing of the next one.
        failed = is_remote(job.address) or os.access(job.address, os.R_OK)
        return _left_out(job, found, str(error), failed=failed)
    except ValueError as error:
        return _left_out(job, found, str(error))
    except OSError as error:
        wrong = f"{error.filename or job.address}: {error.strerror}"
        return _left_out(job, found, wrong, failed=error.errno in _FULL)


def _left_out(job: Job, found: Stat | None, wrong: str, *, failed: bool = False) -> Outcome:
    row = None
    if found is not None:
        row = Row(job.name, 0, found.size, found.version, json.dumps({"left_out": shorten(wrong)}))
    return Outcome(job.name, row, wrong=wrong, failed=failed)


@contextmanager
def opened(address: str, size: int, store: Store) -> Iterator[Source]:
    """The bytes of a shard."""
    if is_remote(address):
        yield windowed(lambda start, stop: store.read([Range(address, start, stop)])[0], size, WINDOW)
        return
    check_regular(address)
    descriptor = os.open(address, os.O_RDONLY)
    try:
        yield lambda start, stop: os.pread(descriptor, stop - start, start)
    finally:
        os.close(descriptor)


def _kept(job: Job, found: Stat, source: Source) -> Outcome | None:
    """The earlier row, if the shard is as it was and the sidecars are whole."""
    row = job.row
    if row is None or row.size != found.size or "left_out" in json.loads(row.details):
        return None
    kinds = (OFFSETS,) if job.caption is None else (OFFSETS, HASHES)
    for kind, extra in zip(kinds, (1, 0), strict=False):
        there = stat(job.earlier + kind)
        if there is None or there.size != (row.samples + extra) * sidecar.WORD.itemsize:
            return None
    same = row.version == found.version
    if same and job.earlier == job.out:
        return Outcome(job.name, row, KEPT)
    data = [read_whole(job.earlier + kind, sidecar.LIMIT) for kind in kinds]
    try:
        offsets = sidecar.offsets_of(data[0], row.size, job.address)
        hashes = sidecar.hashes_of(data[1], row.samples, job.address) if len(data) > 1 else None
    except ValueError:
        return None
    if not same and compare(source, offsets, hashes, job.caption) is None:
        return None
    if job.earlier != job.out:
        for kind, content in zip(kinds, data, strict=True):
            _write(job.out + kind, content)
    return Outcome(job.name, row._replace(version=found.version), KEPT if same else COMPARED)


def _taken(job: Job, found: Stat, source: Source) -> Outcome | None:
    """A row by the offsets that megatron-energon wrote, if they are those of the shard.

    The members of a few samples stand for all. A tar that holds all images and then all captions has one member a
    sample there, and is read instead.
    """
    if not job.energon or job.caption is not None:
        return None
    try:
        data = read_whole(job.address + OFFSETS, sidecar.LIMIT)
        offsets = sidecar.offsets_of(data, found.size, job.address)
    except ValueError:
        return None
    samples = len(offsets) - 1
    members = compare(source, offsets, None, None)
    if not members or max(map(len, members)) < 2:
        return None
    if job.counted is not None and job.counted[0] != samples:
        return None
    seen: dict[str, int] = {}
    for extension in (extension[:EXTENSION] for member in members for extension in member):
        seen[extension] = seen.get(extension, 0) + 1
    if job.out != job.address:
        _write(job.out + OFFSETS, data)
    details = json.dumps({"has": _few(seen), "sampled": True})
    return Outcome(job.name, Row(job.name, samples, found.size, found.version, details), TAKEN)


def _read(job: Job, found: Stat, source: Source) -> Outcome:
    """A row by the headers of the tar."""
    result = scan(source, found.size, job.address, caption=job.caption, images=job.images)
    samples = len(result.starts) - 1
    if result.hashes is not None:
        _write(job.out + HASHES, sidecar.packed(result.hashes))
    _write(job.out + OFFSETS, sidecar.packed(result.starts))
    notes = list(result.notes)
    counted, origin = job.counted or (None, imports.IMG2DATASET)
    if job.stats and job.counted is None:
        counted = imports.stats_of(job.address, read_whole)
    if counted is not None and counted not in (samples, samples + sum(result.lost.values())):
        notes.append(f"has {counted:,} samples by {origin}, {samples:,} were found")
    more = {name: value for name, value in (("lost", result.lost), ("notes", notes)) if value}
    row = Row(job.name, samples, found.size, found.version, json.dumps({"has": _few(result.extensions)} | more))
    return Outcome(job.name, row, READ, notes=tuple(f"{shorten(job.name)} {note}" for note in notes))


def _few(extensions: dict[str, int]) -> dict[str, int]:
    """Members by extension, at most 16 kinds of bounded length: a row of the manifest is short."""
    short: dict[str, int] = {}
    for name, count in extensions.items():
        short[name[:EXTENSION]] = short.get(name[:EXTENSION], 0) + count
    return capped(short, 16)


def compare(
    source: Source, offsets: np.ndarray, hashes: np.ndarray | None, caption: str | None
) -> list[list[str]] | None:
    """The members' extensions of up to PICKS samples spread over a shard; None where one is not as the index says.

    Args:
        source: of the tar.
        offsets: uint64 [n + 1].
        hashes: uint64 [n] of captions, compared too where given.
        caption: where they are, see :class:`CaptionKey`.
    """
    count, end = len(offsets) - 1, int(offsets[-1])
    if is_header(source(end, end + RECORD)):
        return None  # tar -r writes into the room behind the last member, and the size stays
    members = []
    for i in sorted({*np.linspace(0, count - 1, min(count, PICKS)).astype(int).tolist()}):
        start, stop = int(offsets[i]), int(offsets[i + 1])
        if stop - start > LARGEST:
            continue
        try:
            sample = parse(source(start, stop))
        except Unreadable:
            if i == count - 1 and not source(stop, stop + 1):
                continue  # of a damaged shard, whose last sample is cut
            return None
        if hashes is not None:
            key = CaptionKey.of(caption or "")
            text = key.hashed(sample.column([key.extension]))
            if caption_hash(text, sample.key.encode("utf-8", "surrogateescape")) != hashes[i].tobytes():
                return None
        members.append(list(sample.members))
    return members


def _write(address: str, data: bytes) -> None:
    if not is_remote(address):
        Path(address).parent.mkdir(parents=True, exist_ok=True)
    put(address, data)
