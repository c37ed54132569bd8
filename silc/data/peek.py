"""A look at the captions of a few samples before training on them: JSON in place of text, a field that is not there."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from silc.data.captions import CaptionReader, looks_like_json
from silc.data.packing.columns import usual_caption
from silc.data.shards import Sample, Unreadable
from silc.data.shards.caption_key import MAX_JSON
from silc.data.shards.errors import few, shorten
from silc.data.shards.manifest import Manifest
from silc.data.shards.reader import Place, SampleReader, Unusable
from silc.files import parse_json
from silc.storage import is_remote, open_store

SHARDS, SAMPLES = 8, 8  # that are looked into, and in each
SHOWN = 60  # characters of a caption in a message


def local_samples(manifest: Manifest) -> Iterator[Sample | Unusable]:
    """A few samples of the local shards of a manifest, spread over them. Raises StoreFailed."""
    local = [i for i in range(len(manifest)) if manifest.samples[i] and not is_remote(manifest.addresses[i])]
    places: list[Place] = []
    for i in np.unique(np.linspace(0, len(local) - 1, min(len(local), SHARDS)).astype(int)).tolist() if local else ():
        count = int(manifest.samples[local[i]])
        some = np.unique(np.linspace(0, count - 1, min(count, SAMPLES)).astype(int))
        places += [(local[i], sample) for sample in some.tolist()]
    reader = SampleReader(manifest, lambda: open_store(patience=10.0))
    try:
        for place in places:  # one at a time: a sample may have many megabytes
            yield from reader.read([place])
    finally:
        reader.close()


def check_captions(samples: Iterable[Sample | Unusable], reader: CaptionReader, what: str = "data.caption_key") -> int:
    """Refuse captions that are none.

    Args:
        samples: some of those that are trained on.
        reader: of their captions.
        what: the key that says where captions are, for messages.

    Returns the number of samples that have several captions.

    Raises:
        ValueError: most of them are JSON and no field is named; or none of them has the field that is named.
    """
    found = [each.column([reader.extension]) for each in samples if isinstance(each, Sample)]
    members = [data for data in found if data]
    if not members:
        return 0
    if reader.key.field is None:
        _refuse_json(members, reader, what)
    elif not any(_is_json(data) for data in members):
        raise ValueError(
            f"{what}={reader.key}: the members .{reader.extension} are not JSON, but such as {_beginning(members[0])}"
        )
    several, reasons = 0, Counter[str]()
    for data in members:
        try:
            several += len(reader.read(data)) > 1
        except Unreadable as error:
            reasons[str(error)] += 1
    if reader.key.field is not None and reasons.total() == len(members):
        reason, values = reasons.most_common(1)[0][0], _values(members)
        near = difflib.get_close_matches(reader.key.field, list(_texts(values)), n=1)
        hint = f"; did you mean {what}={reader.extension}:{near[0]}?" if near else ""
        raise ValueError(f"{what}={reader.key}: {reason} of {len(members)} samples{hint}{_fields(values)}")
    return several


def _refuse_json(members: Sequence[bytes], reader: CaptionReader, what: str) -> None:
    """Raises ValueError where most of the captions are JSON: a caption of braces among others is one."""
    found = [data for data in members if _is_json(data)]
    if 2 * len(found) <= len(members):
        return
    values = _values(found)
    way_out = f"name the field that holds the caption: {what}={reader.extension}:{_likely(values)}{_fields(values)}"
    if not any(isinstance(value, dict) for value in values):
        way_out = "write several captions as lines, or as a list in a field of an object"
    raise ValueError(f"{what}={reader.key}: the captions are JSON, such as {_beginning(found[0])}; {way_out}")


def _is_json(data: bytes) -> bool:
    return looks_like_json(data[: 4 * MAX_JSON].decode("utf-8", "replace"))


def _beginning(data: bytes) -> str:
    return shorten(data[:SHOWN].decode("utf-8", "replace"))


def _values(members: Sequence[bytes]) -> list[Any]:
    """The objects in JSON members, those in lists too."""
    values = [parse_json(data) for data in members if _is_json(data)]
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


def _texts(values: Sequence[Any]) -> Counter[str]:
    """Fields that hold a text or a list of texts -> in how many of the values."""
    fields: Counter[str] = Counter()
    for value in values:
        if isinstance(value, dict):
            fields.update(name for name, held in islice(value.items(), 1000) if _is_text(held))
    return fields


def _is_text(held: Any) -> bool:
    return isinstance(held, str) or (isinstance(held, list) and bool(held) and all(isinstance(x, str) for x in held))


def _likely(values: Sequence[Any]) -> str:
    return usual_caption(_texts(values)) or "FIELD"


def _fields(values: Sequence[Any]) -> str:
    fields = [name for name, _ in _texts(values).most_common()]
    return f" (fields with text: {few(fields)})" if fields else ""
