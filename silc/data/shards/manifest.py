"""The list of a set's shards: how many samples, how many bytes and which version each had when the index was made.

A manifest is a text file::

    silc-shards 1 {"shards": 2, "samples": 19999, ...}
    00000.tar    10000    305152000    1764140000000000000    {"has": {"jpg": 10000, "txt": 10000}}
    00001.tar    9999     304998400    1764140001000000000    {"has": {"jpg": 9999, "txt": 9999}, "lost": {...}}

with one tab between columns. Names are relative: to the folder of the manifest, so that it can be moved with its
shards, or to the `base` of the first line where the index lies elsewhere. The sidecars lie in the manifest's folder
under the same relative names: beside the shards, where the manifest is in their folder.

It may come from a stranger: nothing in it is trusted before it is checked.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np

from silc.data.shards.errors import few
from silc.data.shards.expand import FOLDER_MANIFEST, MANIFEST
from silc.data.shards.runs import REST
from silc.data.shards.texts import Texts

NAME, SUFFIX = FOLDER_MANIFEST, MANIFEST
OFFSETS, HASHES = ".idx", ".cap"  # behind the name of a shard: its sidecars
KINDS = 64  # extensions told apart in a set


class Row(NamedTuple):
    """What an index says of one shard.

    Attributes:
        name: relative to the base.
        samples: that can be used; 0 in a shard that was left out.
        size: of the tar, in bytes.
        version: its etag, or its mtime in ns.
        details: JSON object: "has", members by extension; "lost", samples by reason; "notes", what a log should
            say behind its name; "left_out", why; each where it applies. "sampled": the members were counted in a few
            samples only.
    """

    name: str
    samples: int
    size: int
    version: str
    details: str


class Part(NamedTuple):
    """Shards of one index, from number `first` on. Folders end in a slash or are empty (the working directory)."""

    first: int
    base: str
    sidecars: str


@dataclass(frozen=True, eq=False)
class Manifest:
    """A list of shards, of one index or joined from several.

    Attributes:
        addresses: of the shards, in order.
        samples: int64 [shards], samples in each.
        sizes: int64 [shards], bytes of each tar.
        versions: etag, or mtime in ns, as found when the index was made.
        details: of each shard; see :class:`Row`.
        parts: where the sidecars lie.
        caption: where the captions are whose hashes were written, see :class:`CaptionKey`; None: no hashes.
        images: extensions that were taken for images when samples were counted.
        extensions: members of all shards by extension.
        lost: samples that cannot be used, by reason.
    """

    addresses: Texts
    samples: np.ndarray
    sizes: np.ndarray
    versions: Texts
    details: Texts
    parts: tuple[Part, ...]
    caption: str | None
    images: tuple[str, ...]
    extensions: Mapping[str, int]
    lost: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.samples)

    def sidecar(self, shard: int) -> str:
        """Address of the offsets of a shard's samples, little-endian u64 [samples + 1]."""
        return self.stem(shard) + OFFSETS

    def hashes(self, shard: int) -> str:
        """Address of its caption hashes, little-endian u64 [samples]; there only if `caption` is not None."""
        return self.stem(shard) + HASHES

    def left_out(self, shard: int) -> bool:
        """Whether the shard could not be indexed, and was left out by the user."""
        return not self.samples[shard] and '"left_out"' in self.details[shard]

    def stem(self, shard: int) -> str:
        """Address of a shard's sidecars, without their suffixes."""
        part = self.parts[bisect_right(self.parts, shard, key=lambda part: part.first) - 1]
        return part.sidecars + self.addresses[shard].removeprefix(part.base)

    def identity(self) -> str:
        """sha256 over the file name, samples and bytes of each shard: the same in another folder or store."""
        digest = hashlib.sha256()
        for address, samples, size in zip(self.addresses, self.samples.tolist(), self.sizes.tolist(), strict=True):
            name = address.rpartition("/")[2]
            if "%" in name and address.startswith(("http://", "https://")):
                name = unquote(name)
            digest.update(f"{name}\t{samples}\t{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def rows(self) -> Iterable[Row]:
        """The shards' rows, with addresses in place of names."""
        numbers = zip(self.samples.tolist(), self.sizes.tolist(), strict=True)
        for address, (samples, size), version, details in zip(
            self.addresses, numbers, self.versions, self.details, strict=True
        ):
            yield Row(address, samples, size, version, details)

    def select(self, shards: np.ndarray) -> Manifest:
        """A manifest of some of the shards, int64 [m], in the order given."""
        if np.array_equal(shards, np.arange(len(self))):
            return self
        number = np.searchsorted([part.first for part in self.parts], shards, side="right") - 1
        turns = np.flatnonzero(np.diff(number, prepend=-1))
        parts = tuple(self.parts[number[at]]._replace(first=int(at)) for at in turns.tolist())
        details = self.details.take(shards)
        extensions, lost = totals(details)
        return Manifest(
            self.addresses.take(shards),
            self.samples[shards],
            self.sizes[shards],
            self.versions.take(shards),
            details,
            parts,
            self.caption,
            self.images,
            extensions,
            lost,
        )


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """One manifest of the shards of several, in order. It has hashes only if all have those of one extension."""
    if len(manifests) == 1:
        return manifests[0]
    parts, count = [], 0
    for each in manifests:
        parts += [part._replace(first=part.first + count) for part in each.parts]
        count += len(each)
    captions = {each.caption for each in manifests}
    return Manifest(
        Texts.joined([each.addresses for each in manifests]),
        np.concatenate([each.samples for each in manifests]),
        np.concatenate([each.sizes for each in manifests]),
        Texts.joined([each.versions for each in manifests]),
        Texts.joined([each.details for each in manifests]),
        tuple(parts),
        captions.pop() if len(captions) == 1 else None,
        tuple(sorted(set[str].intersection(*(set(each.images) for each in manifests)))),
        capped(sum((Counter(each.extensions) for each in manifests), Counter())),
        sum((Counter(each.lost) for each in manifests), Counter()),
    )


def totals(details: Iterable[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Members by extension and lost samples by reason in the shards with these details.

    Raises ValueError for details that are not as :class:`Row` says.
    """
    extensions: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for text in details:
        if not text:
            continue
        try:
            found = json.loads(text)
            for counter, key in ((extensions, "has"), (lost, "lost")):
                for name, count in found.get(key, {}).items():
                    counter[name] += _count(count)
            if len(extensions) > 4 * KINDS:
                extensions = Counter(capped(extensions))
        except (AttributeError, RecursionError, json.JSONDecodeError):
            raise ValueError(f"{few([text])} does not describe a shard") from None
    return capped(extensions), dict(lost)


def capped(extensions: Mapping[str, int], kinds: int = KINDS) -> dict[str, int]:
    """The most frequent extensions; the others together under REST."""
    known = Counter({name: count for name, count in extensions.items() if name != REST})
    kept = dict(known.most_common(kinds))
    rest = sum(extensions.values()) - sum(kept.values())
    return kept | ({REST: rest} if rest else {})


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError(f"{few([value])} is not a count")
    return value
