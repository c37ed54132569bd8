"""Headers of every kind that real writers write, and of some that only damage or malice write."""

from __future__ import annotations

import io
import itertools
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards import parse, scan, scan_file
from silc.data.shards.errors import CutShort
from silc.data.shards.tar import MAX_DESCRIPTION, Members, is_header, number, windowed
from tests.data.shards.headers import END, header, member, padded, pax, record, sum_up
from tests.data.shards.tars import FOLDER, HARDLINK, SYMLINK, pack

AFTER = member(b"z.jpg", b"after")  # found only where what stands before it was passed over correctly


def found(data: bytes) -> list[tuple[str, bytes]]:
    """(name, bytes) of the members of samples, with a check that tarfile reads the same."""
    ours = []
    scanned = scan(lambda start, stop: data[start:stop], len(data), "x.tar")
    for start, stop in itertools.pairwise(scanned.starts.tolist()):
        sample = parse(data[start:stop])
        ours += [(f"{sample.key}.{extension}", bytes(view)) for extension, view in sample.members.items()]
    return ours


def theirs(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(each.name, tar.extractfile(each).read()) for each in tar if each.isreg() and not each.issparse()]


@pytest.mark.parametrize(
    "data",
    {
        "old folder": header(b"a.b/", kind=b"\0", magic=b"") + AFTER,
        "old folder with a size": header(b"a.b/", 4096, kind=b"\0", magic=b"") + AFTER,
        "old file": header(b"a.jpg", 3, kind=b"\0", magic=b"") + padded(b"abc") + AFTER,
        "contiguous": member(b"a.jpg", b"abc", kind=b"7") + AFTER,
        "prefix": member(b"a.jpg", b"abc", at_345=b"some/folder") + AFTER,
        "name of 100 bytes": member(b"a" * 96 + b".jpg", b"abc") + AFTER,
        "blank-padded number": header(b"a.jpg", b"         3 \0") + padded(b"abc") + AFTER,
        "number of 12 digits": header(b"a.jpg", b"000000000003") + padded(b"abc") + AFTER,
        "no number": header(b"a.jpg", bytes(12)) + AFTER,
        "base 256": header(b"a.jpg", b"\x80" + (3).to_bytes(11, "big")) + padded(b"abc") + AFTER,
        "link with a size": header(b"a.jpg", 4096, kind=b"2") + AFTER,
        "hard link with a size": header(b"a.jpg", 4096, kind=b"1") + AFTER,
        "device": header(b"a.jpg", 4096, kind=b"3") + AFTER,
        "folder with a size": header(b"a.jpg/", 4096, kind=b"5") + AFTER,
        "volume name": header(b"a.jpg", kind=b"V") + AFTER,
        "unknown kind": member(b"a.jpg", b"x" * 600, kind=b"!") + AFTER,
        "long name": member(b"././@LongLink", b"b" * 300 + b".jpg\0", kind=b"L") + member(b"b" * 100, b"abc") + AFTER,
        "long link": member(b"././@LongLink", b"b" * 300 + b"\0", kind=b"K") + header(b"a.jpg", kind=b"2") + AFTER,
        "long link and name": member(b"././@LongLink", b"b" * 300 + b"\0", kind=b"K")
        + member(b"././@LongLink", b"c" * 300 + b".txt\0", kind=b"L")
        + header(b"a.jpg", kind=b"2")
        + AFTER,
        "pax name": pax((b"mtime", b"1.5"), (b"path", "f\u00e9/b.jpg".encode())) + member(b"b", b"abc") + AFTER,
        "pax name with an equals sign": pax((b"path", b"a=b=.jpg")) + member(b"b", b"abc") + AFTER,
        "pax size": pax((b"size", b"3")) + header(b"a.jpg", 0) + padded(b"abc") + AFTER,
        "pax of Solaris": pax((b"path", b"b.jpg"), kind=b"X") + member(b"b", b"abc") + AFTER,
        "pax for all": pax((b"comment", b"0123"), kind=b"g") + member(b"b.jpg", b"abc") + AFTER,
        "pax over a long name": pax((b"path", b"p.jpg"))
        + member(b"././@LongLink", b"b" * 300 + b".jpg\0", kind=b"L")
        + member(b"b", b"abc")
        + AFTER,
        "GNU times in place of a prefix": member(b"a.jpg", b"abc", magic=b"ustar  \0") + AFTER,
        "seven digits of checksum": sum_up(header(b"a.jpg", 3), b"%07o\0") + padded(b"abc") + AFTER,
        "blank-padded checksum": sum_up(header(b"a.jpg", 3), b"%7o\0") + padded(b"abc") + AFTER,
    }.items(),
    ids=lambda item: item[0],
)
def test_real_headers(data):
    assert found(data[1] + END) == theirs(data[1] + END)
    assert found(data[1] + END)[-1] == ("z.jpg", b"after")


def test_checksums_of_signed_bytes():
    """Some old writers added bytes above 127 as negative numbers."""
    plain = header("\u00e9.jpg".encode(), 3)
    signed = sum(byte - 256 * (byte > 127) for byte in plain[:148] + plain[156:]) + 256
    data = plain[:148] + b"%06o\0 " % signed + plain[156:] + padded(b"abc") + AFTER + END
    assert found(data) == theirs(data) == [("\u00e9.jpg", b"abc"), ("z.jpg", b"after")]


def test_times_in_gnu_headers_are_no_prefix():
    """GNU tar --incremental writes a time where others write the beginning of long names."""
    data = member(b"a.jpg", b"abc", magic=b"ustar  \0", at_345=b"14703052712\0") + END
    assert found(data) == [("a.jpg", b"abc")]


def test_sparse_files_are_passed_over(tmp_path):
    """As GNU tar writes them, in its own format and in two versions of pax."""
    with open(tmp_path / "holes.jpg", "wb") as file:
        for piece in range(40):  # more than fit into one header
            file.seek(piece * 65536)
            file.write(b"x" * 100)
        file.truncate(50 * 65536)
    (tmp_path / "z.jpg").write_bytes(b"after")
    for form in (["-Hgnu"], ["-Hposix", "--sparse-version=0.1"], ["-Hposix", "--sparse-version=1.0"]):
        command = ["tar", "-cSf", "x.tar", *form, "holes.jpg", "z.jpg"]
        subprocess.run(command, cwd=tmp_path, check=True)
        data = (tmp_path / "x.tar").read_bytes()
        assert found(data) == [("z.jpg", b"after")]
        assert scan_file(str(tmp_path / "x.tar")).notes == ["has 1 link or sparse file, which are passed over"]


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes(tmp_path, form):
    for n in range(3):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / f"d/s{n}.jpg").write_bytes(bytes([n]) * 700)
        (tmp_path / f"d/s{n}.txt").write_bytes(b"words")
    subprocess.run(["tar", "-cf", "x.tar", f"-H{form}", "--sort=name", "d"], cwd=tmp_path, check=True)
    data = (tmp_path / "x.tar").read_bytes()
    assert found(data) == theirs(data)
    assert len(found(data)) == 6


def test_links_are_counted():
    data = pack([("a.jpg", b"x"), ("b.jpg", HARDLINK), ("c.jpg", SYMLINK), ("d.e", FOLDER), ("README", SYMLINK)])
    assert scan(lambda start, stop: data[start:stop], len(data), "x.tar").notes == [
        "has 2 links or sparse files, which are passed over"
    ]


GOOD = member(b"a.jpg", b"good") + member(b"a.txt", b"good")
EVIL = {
    "size below zero, octal": header(b"b.jpg", b"-0000001000\0"),
    "size below zero, base 256": header(b"b.jpg", b"\xff" * 11 + b"\0"),
    "size of 2^40": header(b"b.jpg", b"\x80" + (2**40).to_bytes(11, "big")),
    "size of 2^87": header(b"b.jpg", b"\x80" + b"\xff" * 11),
    "size with a letter": header(b"b.jpg", b"0000000x000\0"),
    "size with an eight": header(b"b.jpg", b"00000008000\0"),
    "size with an underscore": header(b"b.jpg", b"000000_0000\0"),
    "long name of 2^40 bytes": header(b"././@LongLink", b"\x80" + (2**40).to_bytes(11, "big"), kind=b"L"),
    "long name of 1 MiB": member(b"././@LongLink", b"x" * 2**20, kind=b"L"),
    "long name below zero": header(b"././@LongLink", b"-0000001000\0", kind=b"L"),
    "pax header of 1 MiB": member(b"x", b"x" * 2**20, kind=b"x"),
    "pax length zero": member(b"x", b"0 path=b.jpg\n", kind=b"x"),
    "pax length below zero": member(b"x", b"-5 path=b.jpg\n", kind=b"x"),
    "pax length beyond": member(b"x", b"99 path=b.jpg\n", kind=b"x"),
    "pax length of many digits": member(b"x", b"9" * 9999 + b" path=b.jpg\n", kind=b"x"),
    "pax length too short": member(b"x", b"3 path=b.jpg\n", kind=b"x"),
    "pax without lengths": member(b"x", b"path=size=GNU.sparse.", kind=b"x"),
    "pax size below zero": pax((b"size", b"-512")),
    "pax size of many digits": pax((b"size", b"9" * 5000)),
    "pax size with a letter": pax((b"size", b"1e3")),
    "pax size beyond": pax((b"size", b"9" * 18)),
    "descriptions without end": pax((b"path", b"b.jpg")) * 50,
    "wrong checksum": header(b"b.jpg")[:-1] + b"?",
    "no header": b"?" * 512,
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL.keys())
def test_damage_costs_what_stands_behind_it(evil):
    """No loop, no memory, no other exception; what stands before is found, and a note says that there is more."""
    rest = member(b"b.jpg", b"lost") + member(b"c.jpg", b"lost") + END
    data = GOOD + evil + rest
    reads = []

    def source(start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= start + MAX_DESCRIPTION + 8192
        reads.append(start)
        return data[start:stop]

    scanned = scan(source, len(data), "x.tar")
    assert len(reads) < 20
    first = parse(data[: int(scanned.starts[1])])
    assert {name: bytes(view) for name, view in first.members.items()} == {"jpg": b"good", "txt": b"good"}
    assert len(scanned.notes) == 1
    assert scanned.notes[0].startswith("is damaged (")
    assert scanned.notes[0].endswith(f" at byte {len(GOOD):,} of {len(data):,})")
    assert len(scanned.notes[0]) < 200


@pytest.mark.parametrize("records", [[], [(b"size", b"9" * 18)]])
def test_a_size_beyond_the_end_is_a_cut(records):
    """The sample stays in the index, so that it is met and counted."""
    data = GOOD + (pax(*records) if records else b"") + header(b"b.jpg", b"%011o\0" % 10**6) + b"begun"
    scanned = scan(lambda start, stop: data[start:stop], len(data), "x.tar")
    assert scanned.starts.tolist() == [0, len(GOOD), len(data)]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"", "is empty"),
        (GOOD, "has no end mark: it may be cut off at byte 2,048"),
        (GOOD + END + bytes(10240), None),
        (GOOD + END[:512], None),
        (GOOD + END + GOOD + END, "has 4,096 bytes behind its end mark at byte 2,048, which are not read"),
        (GOOD + b"?", "is damaged (cut inside a header at byte 2,048 of 2,049)"),
    ],
)
def test_the_end_of_a_tar(data, note):
    scanned = scan(lambda start, stop: data[start:stop], len(data), "x.tar")
    assert len(scanned) == bool(data)
    assert [each[: len(note or "")] for each in scanned.notes] == ([note] if note else [])


@pytest.mark.parametrize("data", [b"\x1f\x8b" + b"?" * 2000, b"?" * 512, bytes(511) + b"x"])
def test_what_is_no_tar(data):
    with pytest.raises(ValueError, match=r"^shard x\.tar is not a tar file; if it is compressed, unpack it$"):
        scan(lambda start, stop: data[start:stop], len(data), "x.tar")


def test_a_tar_whose_first_header_is_damaged_is_no_reason_to_stop():
    data = bytearray(GOOD)
    data[10] ^= 1
    scanned = scan(lambda start, stop: bytes(data[start:stop]), len(data), "x.tar")
    assert len(scanned) == 0
    assert scanned.notes == ["is damaged (no header at byte 0 of 2,048)"]


def test_a_file_that_shrinks_while_it_is_read():
    data = (GOOD + END)[:1600]
    scanned = scan(lambda start, stop: data[start:stop], 4096, "x.tar")
    assert scanned.notes[0].startswith("is damaged (cut inside a header at byte 2,048 of")


@given(name=st.binary(max_size=100), size=st.integers(0, 8**11 - 1), rest=st.binary(min_size=255, max_size=255))
@settings(max_examples=200, deadline=None)
def test_checksums_agree_with_tarfile(name, size, rest):
    record = header(name, size, at_257=rest)
    assert is_header(record)
    for at in (0, 50, 124, 147, 148, 153, 156, 400, 511):
        changed = record[:at] + bytes([record[at] ^ 4]) + record[at + 1 :]
        try:
            stated = tarfile.nti(changed[148:156])
            same = stated in tarfile.calc_chksums(changed)
        except tarfile.InvalidHeaderError:
            same = False
        assert is_header(changed) == same
    assert not is_header(record[:-1])


@given(field=st.one_of(st.binary(min_size=12, max_size=12), st.text("01789 \0_-+x", min_size=12, max_size=12)))
@settings(max_examples=400, deadline=None)
def test_numbers_agree_with_tarfile(field):
    field = field if isinstance(field, bytes) else field.encode()
    try:
        expected: int | None = tarfile.nti(field)
    except tarfile.InvalidHeaderError:
        expected = None
    try:
        ours: int | None = number(field, 0)
    except CutShort:
        ours = None
    if expected is None or expected < 0:
        assert ours is None
    elif ours != expected:  # Python's int() takes signs, underscores and other white space, which no writer writes
        assert ours is None
        assert set(field) & set(b"_+-xob\t\n\v\f\r")


def test_a_window_reads_ahead_and_never_beyond():
    data, asked = bytes(range(256)) * 40, []

    def source(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return data[start:stop]

    read = windowed(source, len(data), 1000)
    pieces = [(0, 10), (10, 20), (900, 1000), (990, 1010), (5000, 9000), (10200, 10240), (10230, 10300)]
    assert [read(start, stop) for start, stop in pieces] == [data[start:stop] for start, stop in pieces]
    assert asked == [(0, 1000), (990, 1990), (5000, 9000), (10200, 10240), (10230, 10240)]


def test_the_longest_description_that_is_read():
    name = b"n" * (MAX_DESCRIPTION - 4) + b".jpg"
    data = member(b"././@LongLink", name, kind=b"L") + member(b"n", b"abc") + END
    assert found(data) == [(name.decode(), b"abc")]
    assert len(record(b"path", b"x" * 90)) == 99
    members = Members(lambda start, stop: data[start:stop], len(data))
    assert [each[0] for each in members] == [0]
    assert (members.end, members.marked) == (len(data) - 1024, True)
