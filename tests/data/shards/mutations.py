"""Tars damaged at random: whatever the damage, scanning ends, in bounds, and loses no sample that stands before it.

python -c "from tests.data.shards.mutations import fuzz; print(fuzz(5000, seed=0))"
"""

from __future__ import annotations

import io
import itertools
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from silc.data.shards import Scan, Unreadable, parse, scan
from silc.data.shards.tar import MAX_DESCRIPTION
from tests.data.shards.headers import RECORD, pax, sum_up
from tests.data.shards.tars import FORMATS, IMAGES, pack

REASONS = {
    "no sample where the index points",
    "cut off by the end of a damaged shard",
    "a damaged header",
    "too many members",
}
NUMBERS = [
    b"-0000001000\0",
    b"\xff" * 12,
    b"\x80" + b"\xff" * 11,
    b"\x80" + bytes(6) + b"\x01" + bytes(4),
    b"77777777777\0",
]
NUMBERS += [b"00000001000\0", b"            ", bytes(12), b"0000000_100\0", b"           8\0"]
RECORDS = [b"0 path=x.jpg\n", b"-9 size=1\n", b"11 size=99\n", b"12 size=-1\n", b"9" * 40 + b" path=x\n", b"path=size="]


class Damaged(NamedTuple):
    """A tar after an accident, and what stood before.

    Attributes:
        data: of the damaged tar.
        first: offset of the first byte that may differ.
        samples: (end of the last member, key, extension -> bytes) of the samples of the whole tar.
    """

    data: bytes
    first: int
    samples: list[tuple[int, str, dict[str, bytes]]]


def whole(rng: random.Random) -> tuple[bytes, list[tuple[int, str, dict[str, bytes]]]]:
    """A tar of some samples, with long names among them, and its samples."""
    form, deep = rng.choice(FORMATS), rng.choice(["", "", "d/", "long/" * 28])
    samples, entries = [], []
    for number in range(rng.randrange(1, 12)):
        key = f"{deep}s{number:03}"
        kinds = rng.sample(["jpg", "txt", "json", "png"], rng.randrange(1, 4))
        members = {kind: rng.randbytes(rng.choice([0, 5, 512, 700, 3000])) for kind in kinds}
        entries += [(f"{key}.{kind}", data) for kind, data in members.items()]
        samples.append((key, members))
    data = pack(entries, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        ends = {info.name: info.offset_data + -(-info.size // RECORD) * RECORD for info in tar}
    return data, [(max(ends[f"{key}.{kind}"] for kind in members), key, members) for key, members in samples]


def damage(rng: random.Random) -> Damaged:
    data, samples = whole(rng)
    changed, first = bytearray(data), len(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.choice(ACCIDENTS)(rng, changed)
        first = min(first, at)
    return Damaged(bytes(changed), first, samples)


def _flip(rng: random.Random, data: bytearray) -> int:
    at = rng.randrange(max(1, len(data)))
    data[at : at + 1] = bytes([rng.randrange(256)])
    return at


def _zero(rng: random.Random, data: bytearray) -> int:
    at = rng.randrange(max(1, len(data)))
    stop = min(len(data), at + rng.choice([1, 100, 512, 5000]))
    data[at:stop] = bytes(stop - at)
    return at


def _cut(rng: random.Random, data: bytearray) -> int:
    at = rng.randrange(max(1, len(data)))
    del data[at:]
    return at


def _leave_out(rng: random.Random, data: bytearray) -> int:
    at = rng.randrange(max(1, len(data)))
    del data[at : at + rng.choice([1, 7, 512, 1024, 4000])]
    return at


def _insert(rng: random.Random, data: bytearray) -> int:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice([rng.randbytes(7), rng.randbytes(512), bytes(512), pax((b"size", b"9" * 17)), b"?" * 1024])
    return at


def _header(rng: random.Random, data: bytearray) -> int:
    """Change a field of a record, and give it a checksum that holds."""
    records = _headers(data)
    if not records:
        return _flip(rng, data)
    at = rng.choice(records)
    record = bytearray(data[at : at + RECORD])
    if rng.random() < 0.6:
        record[124:136] = rng.choice(NUMBERS)
    if rng.random() < 0.4:
        record[156] = rng.choice(b"01234567LKxXgSDMNV\0A!")
    if rng.random() < 0.2:
        place = rng.randrange(RECORD)
        record[place] = rng.randrange(256)
    if rng.random() < 0.2:
        record[482] = 1
    data[at : at + RECORD] = sum_up(bytes(record))
    if rng.random() < 0.3:
        payload = rng.choice(RECORDS) * rng.choice([1, 3])
        data[at + RECORD : at + RECORD + len(payload)] = payload
    return at


def _rename(rng: random.Random, data: bytearray) -> int:
    """Give a member the name of another."""
    records = _headers(data)
    if not records:
        return _flip(rng, data)
    at, other = rng.choice(records), rng.choice(records)
    record = data[other : other + 100] + data[at + 100 : at + RECORD]
    data[at : at + RECORD] = sum_up(bytes(record))
    return at


def _headers(data: bytearray) -> list[int]:
    return [at for at in range(0, len(data) - RECORD + 1, RECORD) if data[at + 257 : at + 262] == b"ustar"]


ACCIDENTS: list[Callable[[random.Random, bytearray], int]] = [
    _flip,
    _zero,
    _cut,
    _leave_out,
    _insert,
    _header,
    _header,
    _rename,
]


def check(damaged: Damaged) -> str:
    """Scan a damaged tar and read all that is found. Returns what came of it.

    Raises AssertionError where a promise is broken, and whatever a scan should not raise.
    """
    data, reads = damaged.data, 0

    def source(start: int, stop: int) -> bytes:
        nonlocal reads
        reads += 1
        assert 0 <= start <= stop <= len(data)
        assert stop - start <= max(MAX_DESCRIPTION + 2 * RECORD, 1 << 20)
        assert reads <= len(data) // RECORD + 10
        return data[start:stop]

    try:
        found = scan(source, len(data), "x.tar", caption="txt", images=IMAGES)
    except ValueError as error:
        assert str(error) == "shard x.tar is not a tar file; if it is compressed, unpack it"  # noqa: PT017
        assert damaged.first < RECORD
        return "not a tar"
    kept = _read(data, found)
    # One record more: the header behind a sample says where it ends.
    intact = [(key, members) for end, key, members in damaged.samples if end + RECORD <= damaged.first]
    missing = [key for key, members in intact if kept.get(key) != members]
    assert len(missing) <= sum(found.lost.values()), (missing, found.lost)
    assert all(len(note) < 300 for note in found.notes)
    assert len(found.notes) <= 3
    return "noted" if found.notes else "lost" if found.lost else "as if whole"


def _read(data: bytes, found: Scan) -> dict[str, dict[str, bytes]]:
    starts = found.starts.tolist()
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] <= len(data)
    assert found.hashes is not None
    assert len(found.hashes) == len(starts) - 1
    kept = {}
    for start, stop in itertools.pairwise(starts):
        try:
            sample = parse(data[start:stop])
        except Unreadable as error:
            assert str(error) in REASONS  # noqa: PT017
        else:
            kept[sample.key] = {name: bytes(view) for name, view in sample.members.items()}
    return kept


def fuzz(count: int, seed: int) -> dict[str, int]:
    """Check `count` damaged tars; how often each outcome came. Raises with the number of the one that fails."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        try:
            outcomes[check(damage(random.Random(f"{seed}/{number}")))] += 1
        except BaseException as error:
            error.add_note(f"damaged tar {number} of seed {seed}")
            raise
    return dict(outcomes)
