"""One shard checked: every sample read and decoded as training does it. This is what the processes of a check do."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from silc.data.captions import CaptionReader, looks_like_json
from silc.data.images.decode import decode_image
from silc.data.shards.errors import Unreadable, shorten
from silc.data.shards.indexing import opened
from silc.data.shards.reader import MAX_SAMPLE, Unusable
from silc.data.shards.runs import caption_hash
from silc.data.shards.samples import Sample, first_key, parse, scan
from silc.data.shards.sidecar import LIMIT, offsets_of
from silc.data.shards.tar import RECORD as TAR_RECORD
from silc.data.shards.tar import Source
from silc.data.survey import repeats
from silc.data.survey.look import look
from silc.data.survey.lost import lost_keys
from silc.data.survey.tally import Tally
from silc.errors import StoreFailed
from silc.storage import Stat, Store, is_remote, name_of, read_whole, stat

MOST_LISTED, MOST_BYTES = 100_000, 16 << 20  # of damaged samples of a shard that are named; all are counted
_PLACE_BITS = 40  # of the offset, in records of the tar


class Settings(NamedTuple):
    """What training reads: `data.image_keys`, `data.caption_key`, `data.caption_lines`, `data.max_image_pixels`."""

    images: tuple[str, ...]
    captions: str
    lines: bool
    max_pixels: int


class Job(NamedTuple):
    """A shard to check.

    Attributes:
        number: of the shard in the list.
        address: of the tar.
        known: what an earlier check, which did not end, found there.
        sidecar: address of its index, to spare a remote shard a reading of its headers; None: there is none.
        lost: by that index, samples that cannot be used.
        samples: of that index.
        settings: see there.
    """

    number: int
    address: str
    known: Stat | None
    sidecar: str | None
    lost: dict[str, int]
    samples: int
    settings: Settings


@dataclass
class Examined:
    """What was found in a shard.

    Attributes:
        number: of the shard.
        stat: size and version of it; None: it could not be looked at.
        kept: it is as an earlier check found it; the rest is empty.
        wrong: why it could not be read; empty if it could.
        failed: whether that is because of a store or disk, and would happen to other shards too.
        samples: that stand in it, lost ones not counted.
        damaged: samples with one fault or more.
        lost: samples that cannot be used because of how they were packed, by reason.
        faults: by reason.
        named: (key, reason) of these and of lost samples: the first MOST_LISTED, of MOST_BYTES together.
        notes: what is odd about the tar.
        cut: whether it is damaged, or goes on behind its end, so that there may be more samples.
        captions: of all samples that are whole.
        json: of these, samples whose caption is JSON, and no field of it is named.
        tally: of their images.
        images, pairs, texts: records of their hashes, see :mod:`silc.data.survey.repeats`.
    """

    number: int
    stat: Stat | None = None
    kept: bool = False
    wrong: str = ""
    failed: bool = False
    samples: int = 0
    damaged: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    named: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: bool = False
    captions: int = 0
    json: int = 0
    tally: Tally = field(default_factory=Tally)
    images: bytes = b""
    pairs: bytes = b""
    texts: bytes = b""


def place_of(number: int, offset: int) -> int:
    """A sample's place as one number: shard, and where it begins there."""
    return number << _PLACE_BITS | offset // TAR_RECORD


def shard_and_offset(place: int) -> tuple[int, int]:
    """The shard's number and the offset of a place."""
    return place >> _PLACE_BITS, (place & (1 << _PLACE_BITS) - 1) * TAR_RECORD


def examine_shards(jobs: Sequence[Job], store: Store) -> list[Examined]:
    """:func:`examine` of several."""
    return [examine(job, store) for job in jobs]


def examine(job: Job, store: Store) -> Examined:
    """Read and decode every sample of a shard. Never raises for what is wrong with it."""
    try:
        found = stat(job.address)
        if found is None:
            return Examined(job.number, wrong="it is not there")
        if found == job.known:
            return Examined(job.number, found, kept=True)
        with opened(job.address, found.size, store) as source, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of image readers, about what is counted here
            result = _examined(job, found, source)
        if stat(job.address) != found:
            return Examined(job.number, wrong="it changes while it is read")
        return result
    except StoreFailed as error:
        failed = is_remote(job.address) or os.access(job.address, os.R_OK)
        return Examined(job.number, wrong=str(error), failed=failed)
    except ValueError as error:
        return Examined(job.number, wrong=str(error))
    except OSError as error:
        return Examined(job.number, wrong=f"{error.filename or job.address}: {error.strerror}", failed=True)


def _examined(job: Job, found: Stat, source: Source) -> Examined:
    result = Examined(job.number, found)
    starts = _starts(job, found, source, result)
    listed = _Listed()
    for key, reason in result.named:
        listed.add(key, reason)
    images = [image.lower() for image in job.settings.images]
    captions = CaptionReader(job.settings.captions, lines=job.settings.lines)
    hashes = _Hashes(job.number)
    result.samples = len(starts) - 1
    for number, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
        sample = _read(source, start, stop)
        key = sample.key or f"#{number}"
        faults: list[str] = []
        if isinstance(sample, Unusable):
            faults.append(sample.reason)
        else:
            texts, data = _decoded(sample, images, captions, job.settings.max_pixels, faults)
            if not faults:
                result.json += captions.key.field is None and looks_like_json("\n".join(texts))
                _note(data, texts, job.settings.max_pixels, result)
                hashes.add(start, data, texts)
        result.damaged += bool(faults)
        result.faults.update(faults)
        for fault in faults:
            listed.add(key, fault)
    result.named = listed.rows
    result.images, result.pairs, result.texts = hashes.packed()
    return result


class _Listed:
    """(key, reason) of samples, while there is room: a name in a tar may have any length."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self._left = MOST_BYTES

    def add(self, key: str, reason: str) -> None:
        """Append a row; when one has found no room, none does."""
        if self._left > 0 and len(self.rows) < MOST_LISTED:
            self._left -= len(written((key, reason)))
            self.rows += [(key, reason)] if self._left >= 0 else []


def written(value: Any) -> bytes:
    """As JSON on one line. Bytes of names that are no UTF-8 are kept, as halves of surrogate pairs."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _starts(job: Job, found: Stat, source: Source, result: Examined) -> np.ndarray:
    """Where the samples begin, by the index of a remote shard or by its headers: uint64 [n + 1]."""
    if job.sidecar is not None:
        with suppress(ValueError):  # it is gone, or damaged: the headers tell the same
            starts = offsets_of(read_whole(job.sidecar, LIMIT), found.size, job.address)
            if len(starts) == job.samples + 1:
                result.lost = dict(job.lost)
                return starts
    scanned = scan(source, found.size, job.address, images=job.settings.images)
    result.lost, result.notes = dict(scanned.lost), [shorten(note) for note in scanned.notes]
    result.cut = any(note.startswith("is damaged") or "behind its end mark" in note for note in scanned.notes)
    if result.lost:
        result.named = lost_keys(source, found.size, job.settings.images)
    return scanned.starts


def _read(source: Source, start: int, stop: int) -> Sample | Unusable:
    """A sample as :class:`silc.data.shards.reader.SampleReader` gives it to training."""
    if stop - start > MAX_SAMPLE:
        return Unusable(f"larger than {MAX_SAMPLE >> 20} MiB")
    data = memoryview(source(start, stop))
    try:
        return parse(data)
    except Unreadable as error:
        return Unusable(str(error), first_key(lambda a, b: bytes(data[a:b]), len(data)))


def _decoded(
    sample: Sample, images: Sequence[str], captions: CaptionReader, max_pixels: int, faults: list[str]
) -> tuple[list[str], bytes]:
    """The captions and the image's bytes; what is wrong with either is added to `faults`."""
    texts: list[str] = []
    try:
        texts = captions.read(sample.column([captions.extension]))
    except Unreadable as error:
        faults.append(str(error))
    data = sample.column(images)
    try:
        decode_image(data, max_pixels)
    except Unreadable as error:
        faults.append(str(error))
    return texts, data or b""


def _note(data: bytes, texts: Sequence[str], max_pixels: int, result: Examined) -> None:
    result.captions += len(texts)
    try:
        result.tally.add(look(data, max_pixels))
    except Unreadable:
        result.tally.formats["unknown"] += 1


class _Hashes:
    """The hashes of a shard's samples."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._images, self._pairs, self._texts = bytearray(), bytearray(), bytearray()

    def add(self, start: int, image: bytes, texts: Sequence[str]) -> None:
        """A sample that begins at `start`. A text that comes twice in it counts once."""
        place = place_of(self._number, start).to_bytes(8, "little")
        digest = blake2b(image, digest_size=16).digest()
        whole = "\n".join(texts).encode("utf-8", "surrogatepass")
        self._images += digest + place
        self._pairs += blake2b(digest + whole, digest_size=16).digest() + place
        for word in dict.fromkeys(_words(texts)):
            self._texts += word + bytes(8) + place

    def packed(self) -> tuple[bytes, bytes, bytes]:
        """Records of the images, the pairs and the captions."""
        return bytes(self._images), bytes(self._pairs), bytes(self._texts)


def _words(texts: Sequence[str]) -> Iterator[bytes]:
    for text in texts:
        yield caption_hash(text.encode("utf-8", "replace"), b"")


assert repeats.RECORD.itemsize == 24  # a digest of 16 bytes, and a place


def key_at(job: Job, offset: int, store: Store) -> str:
    """shard/key of the sample that begins at an offset, for an example."""
    name = name_of(job.address).removesuffix(".tar")
    found = stat(job.address)
    if found is None:
        return f"{name}/?"
    with opened(job.address, found.size, store) as source:
        key = first_key(lambda start, stop: source(offset + start, offset + stop), found.size - offset)
    return f"{name}/{key or '?'}"
