"""Arrays of .npz files that strangers wrote: as NumPy reads them, or refused before they take memory."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.lib import format as npy

from silc.interchange import npz
from silc.interchange.npz import open_npz
from tests.interchange.test_read_hostile import bounded


def member(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    out = io.BytesIO()
    npy.write_array(out, array, version)
    return out.getvalue()


def packed(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def load(path: Path, name: str = "a") -> torch.Tensor:
    with open_npz(path) as file:
        stored = file.stored(name)
        found = stored.load()
        assert tuple(found.shape) == stored.shape
        return found


@settings(deadline=None, max_examples=60)
@given(
    array=arrays.arrays(
        st.sampled_from(["<f4", ">f4", "<f2", ">f2", "<f8", ">f8"]),
        arrays.array_shapes(min_dims=0, max_dims=5, max_side=6),
    ),
    columns_first=st.booleans(),
    save=st.sampled_from([np.savez, np.savez_compressed]),
    version=st.sampled_from([None, (1, 0), (2, 0)]),
)
def test_as_numpy_reads_them(tmp_path_factory, array, columns_first, save, version):
    path = tmp_path_factory.mktemp("arrays") / "a.npz"
    array = np.asfortranarray(array) if columns_first else array
    if version is None:
        save(path, a=array)
    else:
        packed(path, {"a.npy": member(array, version)})
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("ignore")
        expected = np.load(path)["a"].astype(np.float32)
        np.testing.assert_array_equal(load(path).numpy(), expected)


def test_bfloat16_is_void_of_two_bytes(tmp_path):
    values = torch.randn(3, 4).bfloat16()
    np.savez(tmp_path / "a.npz", a=values.view(torch.int16).numpy().view("V2"))
    assert torch.equal(load(tmp_path / "a.npz"), values.float())


def test_arrays_larger_than_what_is_read_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "CHUNK", 1000)
    array = np.random.default_rng(0).standard_normal((70, 33)).astype("f4")
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", a=array)
        assert torch.equal(load(tmp_path / "a.npz"), torch.from_numpy(array))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4),
        np.array(["abc"]),
        np.zeros(3, "V3"),
        np.zeros(3, [("a", "<f4")]),
        np.zeros(3, "c8"),
        np.zeros(2, "bool"),
        np.zeros(2, np.longdouble),
    ],
    ids=lambda array: str(array.dtype),
)
def test_other_types_are_told_and_not_taken_for_floats(tmp_path, array):
    np.savez(tmp_path / "a.npz", a=array)
    with open_npz(tmp_path / "a.npz") as file:
        assert file.stored("a").dtype not in ("F16", "F32", "F64", "BF16")


GOOD = np.arange(6, dtype="f4").reshape(2, 3)


def with_header(text: str, length: int | None = None, version: bytes = b"\1\0") -> bytes:
    return (
        b"\x93NUMPY" + version + struct.pack("<H", len(text) if length is None else length) + text.encode() + bytes(24)
    )


def described(descr: str = "'<f4'", shape: str = "(2, 3)", order: str = "False") -> bytes:
    return with_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


ARRAYS = {
    "no magic": b"hello" * 20,
    "nothing": b"",
    "magic alone": b"\x93NUMPY",
    "another version": with_header("{}", version=b"\x03\0"),
    "a header of 60 kB": with_header(" " * 60_000),
    "a header past the end": with_header("{", length=900),
    "code for a header": with_header("__import__('os').system('true')"),
    "a nested header": with_header("(" * 1000),
    "minus after minus": with_header("-" * 1000 + "1"),
    "a pickle": described("'|O'"),
    "bytes too few": described(shape="(2, 4)"),
    "bytes too many": described(shape="(2, 2)"),
    "a negative side": described(shape="(-2, -3)"),
    "a side of words": described(shape="('a',)"),
    "an endless side": described(shape=f"(1{'0' * 300},)"),
    "a product that overflows": described(shape="(4294967296, 4294967296, 4294967296)"),
    "many dimensions": described(shape=f"({'1, ' * 60})"),
    "no type": described("'no'"),
    "a type of a terabyte": described("'V1099511627776'", shape="()"),
    "an order that is none": described(order="'x'"),
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_that_are_none(tmp_path, kind, how):
    path = packed(tmp_path / "a.npz", {"a.npy": ARRAYS[kind]}, how)
    with bounded(8 << 20), open_npz(path) as file, pytest.raises(ValueError, match="a is damaged") as refused:
        file.stored("a")
    assert str(path) in str(refused.value)


def test_a_long_header_in_a_packed_file_takes_no_memory(tmp_path):
    """NumPy's own function reads a header of 200 MB before it finds it too long."""
    data = b"\x93NUMPY\2\0" + struct.pack("<I", 200_000_000) + b" " * 200_000_000
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
        archive.writestr("b.npy", np.random.default_rng(0).bytes(4 << 20))
    del data
    with bounded(8 << 20), open_npz(path) as file, pytest.raises(ValueError, match="a header of 200000000 bytes"):
        file.stored("a")


def test_what_unpacks_to_far_more_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        file.write(member(np.zeros(1, "f4"))[:-4])
        for _ in range(200):
            file.write(bytes(1 << 20))
    with bounded(), pytest.raises(ValueError, match=r"would unpack to 2097.* bytes; weights"), open_npz(path):
        pass


def test_biases_of_zero_may_be_packed(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1_000_000, "f4"))
    assert not load(tmp_path / "a.npz").any()


def end_record(data: bytes) -> int:
    return data.rindex(b"PK\5\6")


def changed(at: Callable[[bytes], int], values: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        place = at(bytes(data))
        data[place : place + len(values)] = values
        path.write_bytes(data)

    return change


def directory(offset: int) -> Callable[[bytes], int]:
    return lambda data: data.index(b"PK\1\2") + offset


def twice(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a.npy", member(GOOD))


def another(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")


def with_method(method: int) -> Callable[[Path], None]:
    return lambda path: packed(path, {"a.npy": member(GOOD)}, method) and None


def overlapping(path: Path) -> None:
    """A hundred names for the same bytes."""
    array = member(np.random.default_rng(0).standard_normal(3000))
    packed(path, {"a.npy": array})
    data = path.read_bytes()
    start, end = data.index(b"PK\1\2"), end_record(data)
    entry, tail = data[start:end], bytearray(data[end:])
    entries = b"".join(entry.replace(b"a.npy", b"%c.npy" % (33 + number)) for number in range(90))
    tail[8:12] = struct.pack("<HH", 90, 90)
    tail[12:16] = struct.pack("<I", len(entries))
    path.write_bytes(data[:start] + entries + tail)


FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "no zip": lambda path: path.write_bytes(b"no zip" * 99),
    "an array alone": lambda path: path.write_bytes(member(GOOD)),
    "a pipe's name": lambda path: path.unlink(),
    "a name twice": twice,
    "another file in it": another,
    "encrypted": changed(directory(8), b"\1\0"),
    "a method that NumPy lacks": with_method(zipfile.ZIP_BZIP2),
    "another method that NumPy lacks": with_method(zipfile.ZIP_LZMA),
    "an unknown method": changed(directory(10), b"\x63\0"),
    "entries that overlap": overlapping,
    "a directory longer than the file": changed(lambda data: end_record(data) + 12, b"\xff\xff\xff\x7f"),
    "a directory elsewhere": changed(lambda data: end_record(data) + 16, b"\xff\xff\xff\x7f"),
    "a name that is no text": changed(directory(46), b"\xff\xfe"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_none(tmp_path, kind):
    path = tmp_path / "a.npz"
    np.savez(path, a=GOOD)
    FILES[kind](path)
    with bounded(), pytest.raises(ValueError, match=r"\w") as refused:
        load(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_directory_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "a.npz"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
        file.seek(0, 2)
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 1 << 30, 0, 0))
    with bounded(), pytest.raises(ValueError, match="its directory has 1073741824 bytes"), open_npz(path):
        pass


def test_many_entries_are_refused(tmp_path):
    path = packed(tmp_path / "a.npz", {f"{number}.npy": b"" for number in range(npz.MAX_TENSORS + 1)})
    with bounded(128 << 20), pytest.raises(ValueError, match=r"20,001 entries"), open_npz(path):
        pass


def test_elements_that_changed_are_found_by_the_checksum(tmp_path):
    np.savez(tmp_path / "a.npz", a=GOOD)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(GOOD.tobytes()) + 5] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a is damaged \(Bad CRC-32"):
        load(tmp_path / "a.npz")


def test_what_the_block_raises_is_its_own(tmp_path):
    np.savez(tmp_path / "a.npz", a=GOOD)
    with pytest.raises(RuntimeError, match="mine"), open_npz(tmp_path / "a.npz"):
        raise RuntimeError("mine")
