"""Runs of members that share a key -> the samples of a shard, and what is lost.

A run is a candidate for a sample. Where a key has several runs in a shard, the last one is the sample if it has all the
extensions that the key has anywhere (tar's rule: the last version holds); otherwise its members stand apart, and it
cannot be read from one place.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from silc.data.shards.lost import APART, CROWDED, DOTTED, TWICE

MAX_MEMBERS = 1024  # extensions of one sample
KINDS = 63  # extensions told apart in a shard; others share REST
REST = "..."
_REST_BIT = 1 << KINDS
_SHAPES = 4096  # sets of extensions remembered
_SMALL = 16  # extensions in a set that is remembered


def caption_hash(caption: bytes | None, key: bytes) -> bytes:
    """8 bytes, equal for captions that differ in case and white space alone.

    A caption that is missing (None), empty or not utf-8 has the hash of its key, and so equals no other of its shard.
    """
    try:
        words = (caption or b"").decode("utf-8").casefold().split()
    except UnicodeDecodeError:
        words = []
    text = " ".join(words).encode() if words else b"\0" + key
    return blake2b(text, digest_size=8).digest()


class Runs:
    """Collects the runs of a shard.

    A set of extensions is kept as 64 bits, one for each of the first KINDS extensions of the shard and one for all
    others; keys are kept as 64-bit hashes.

    Args:
        images: extensions of images, in which dotted names are looked for.
        captions: whether captions are hashed.

    Attributes:
        starts: of the runs so far.
        caption: of the present run.
    """

    def __init__(self, images: Sequence[str], captions: bool) -> None:
        self.caption: bytes | None = None
        self._images = frozenset(extension.lower().encode() for extension in images)
        self.starts, self._masks = array("Q"), array("Q")
        self._keys, self._captions = bytearray(), bytearray() if captions else None
        self._bits: dict[bytes, int] = {}
        self._members: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._shapes: dict[tuple[bytes, ...], _Shape] = {}
        self._key: bytes | None = None
        self._seen: dict[bytes, int] = {}
        self._most, self._crowded, self._dotted = 1, False, 0

    def add(self, key: bytes, extension: bytes, start: int) -> None:
        """A member, and the offset of its first header."""
        if key != self._key:
            self.close()
            self._key = key
            self.starts.append(start)
        seen = self._seen
        if extension in seen:
            seen[extension] += 1
            self._most = max(self._most, seen[extension])
            self._count((extension,), 1)
        elif len(seen) < MAX_MEMBERS:
            seen[extension] = 1
        else:  # what is known of the run is counted, and forgotten
            self._dotted += self._shape(tuple(seen)).dotted
            self._crowded, self._seen = True, {extension: 1}

    def close(self) -> None:
        """The present run has no more members."""
        if self._key is None:
            return
        shape = self._shape(tuple(self._seen))
        mask, merged = shape.mask, shape.dotted + self._dotted
        if self._crowded:
            mask = 0
            self._lost[DOTTED if merged else CROWDED] += max(merged, 1)
        elif merged:
            self._lost[DOTTED] += merged
        if self._most > 1:
            self._lost[TWICE] += self._most - 1
        self._masks.append(mask)
        self._keys += blake2b(self._key, digest_size=8).digest()
        if self._captions is not None:
            self._captions += caption_hash(self.caption, self._key)
        self._key, self._seen, self.caption = None, {}, None
        self._most, self._crowded, self._dotted = 1, False, 0

    def _shape(self, extensions: tuple[bytes, ...]) -> _Shape:
        shape = self._shapes.get(extensions)
        if shape is None:
            self._count(extensions, 0)
            merged, plain = dotted(extensions, self._images)
            mask = 0
            for extension in extensions if plain or not merged else ():
                mask |= self._bits.get(extension, _REST_BIT)
            shape = _Shape(mask, merged)
            if len(extensions) <= _SMALL:
                if len(self._shapes) == _SHAPES:
                    self._forget()
                self._shapes[extensions] = shape
            else:
                self._count(extensions, 1)
        shape.runs += 1
        return shape

    def _forget(self) -> None:
        for extensions, shape in self._shapes.items():
            self._count(extensions, shape.runs)
        self._shapes.clear()

    def _count(self, extensions: tuple[bytes, ...], times: int) -> None:
        """Count members; the first extensions get a bit each, those without a dot at least half of the bits."""
        for extension in extensions:
            room = KINDS // 2 if b"." in extension else KINDS
            if extension not in self._bits and len(self._bits) < room:
                self._bits[extension] = 1 << len(self._bits)
            self._members[extension.decode("utf-8", "surrogateescape") if extension in self._bits else REST] += times

    def result(self, end: int, cut: bool) -> Result:
        """What is left, after :meth:`close`.

        end: of the last run, in bytes. cut: whether the last run is cut by the end of the tar.
        """
        self._forget()
        self.starts.append(end)
        starts, hashes = np.frombuffer(self.starts, dtype=np.uint64), np.frombuffer(self._keys, dtype="<u8")
        keep, lost = _resolve(hashes, np.array(self._masks, dtype=np.uint64), cut)
        kept = np.flatnonzero(keep)
        last = starts[kept[-1:] + 1] if len(kept) else starts[-1:]
        captions = None if self._captions is None else np.frombuffer(self._captions, dtype="<u8")[kept]
        return Result(
            np.concatenate([starts[kept], last]),
            {name: count for name, count in self._members.items() if count},
            dict(+(self._lost + lost)),
            captions,
        )


@dataclass
class _Shape:
    """What is known of a set of extensions.

    Attributes:
        mask: its bits; 0: a run with these is no sample.
        dotted: samples that dots in their names merged into one.
        runs: how often it came.
    """

    mask: int
    dotted: int
    runs: int = 0


class Result(NamedTuple):
    """The samples of a shard; see :class:`silc.data.shards.samples.Scan`."""

    starts: np.ndarray
    extensions: dict[str, int]
    lost: dict[str, int]
    hashes: np.ndarray | None


def dotted(extensions: Sequence[bytes], images: frozenset[bytes]) -> tuple[int, bool]:
    """The samples that a run merges because of dots in their names, and whether the run itself has an image.

    x.01.jpg, x.01.txt, x.02.jpg, x.02.txt are two samples with one key. x.jpg, x.txt, x.mask.png, x.depth.png are one:
    beside an image, dotted images count only where a file of another kind has the same name.
    """
    if len(extensions) == 1:
        return 0, extensions[0] in images
    plain = any(extension in images for extension in extensions)
    names: dict[bytes, set[bytes]] = {}
    others = set()
    for extension in extensions:
        name, dot, kind = extension.rpartition(b".")
        if dot and kind in images:
            names.setdefault(kind, set()).add(name)
        elif dot:
            others.add(name)
    if plain:
        names = {kind: found & others for kind, found in names.items()}
    if all(len(found) < 2 for found in names.values()):
        return 0, plain
    return len(set().union(*names.values())), plain


def _resolve(hashes: np.ndarray, masks: np.ndarray, cut: bool) -> tuple[np.ndarray, Counter[str]]:
    """Which runs are samples, bool [runs], and how many samples are lost because their key has several runs.

    Args:
        hashes: of the keys, uint64 [runs].
        masks: of the extensions, uint64 [runs]; 0 for what is no sample.
        cut: whether the last run is cut: it replaces no other.
    """
    keep, lost = masks != 0, Counter[str]()
    candidates = np.flatnonzero(keep)
    order = candidates[np.argsort(hashes[candidates], kind="stable")]
    borders = np.flatnonzero(np.diff(hashes[order])) + 1
    firsts, stops = np.concatenate([[0], borders]), np.concatenate([borders, [len(order)]])
    for i in np.flatnonzero(stops - firsts > 1).tolist():
        runs = order[firsts[i] : stops[i]]
        bits = masks[runs].tolist()
        versions = max(sum(mask >> bit & 1 for mask in bits) for bit in range(KINDS + 1))
        keep[runs] = False
        whole = len(runs) - (cut and runs[-1] == len(masks) - 1)
        if bits[whole - 1] == np.bitwise_or.reduce(masks[runs[:whole]]):
            keep[runs[whole - 1]] = True
            lost[TWICE] += versions - 1
        else:
            lost[TWICE] += versions - 1
            lost[APART] += 1
    return keep, lost
