"""Arrays of an .npz file that a stranger wrote: no pickle is read, and what it unpacks to is bounded before."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from silc.files import check_regular
from silc.interchange.tensors import MAX_FILE, MAX_TENSORS, Stored
from silc.text import plural, shown

MAX_DIRECTORY = 4 << 20  # bytes; a thousand arrays take 100 kB
MAX_ARRAY_HEADER = 1024  # bytes; NumPy writes about 100
MAX_RATIO = 100  # bytes that all arrays unpack to, for each of the file: weights hardly shrink
SPARE = 64 << 20  # bytes that they may have beyond that
CHUNK = 1 << 20  # bytes read at a time
# NumPy has no bfloat16: it stores what it does not know as void of 2 bytes.
_TYPES = {("f", 8): "F64", ("f", 4): "F32", ("f", 2): "F16", ("V", 2): "BF16"}
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, OverflowError)


class Npz:
    """An open .npz file.

    Attributes:
        names: of its arrays.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._members = _members(path, archive)
        self.names = tuple(self._members)

    def stored(self, name: str) -> Stored:
        """One of the arrays, not read yet. Raises ValueError for a damaged one."""
        member = self._members[name]
        try:
            with self._archive.open(member) as file:
                start, shape, fortran, dtype = _array_header(file)
        except Exception as error:  # on arbitrary bytes NumPy's reader raises nearly any
            raise self._damaged(name, error) from None
        count = 1
        for side in shape:
            count *= side
        if start + count * dtype.itemsize != member.file_size:
            raise self._damaged(name, f"{member.file_size} bytes for an array of shape {list(shape)}")
        # An object's dtype is none of those that are read: its elements would be a pickle.
        kind = _TYPES.get((dtype.kind, dtype.itemsize), str(dtype)[:40])
        plain = dtype.fields is None and dtype.subdtype is None
        return Stored(shape, kind if plain else "a structure", lambda: self._load(name, start, shape, fortran, dtype))

    def _load(self, name: str, start: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> Tensor:
        member = self._members[name]
        data = np.empty(member.file_size - start, np.uint8)
        try:
            with self._archive.open(member) as file:
                file.read(start)
                for place in range(0, len(data), CHUNK):
                    part = file.read(min(CHUNK, len(data) - place))
                    data[place : place + len(part)] = np.frombuffer(part, np.uint8)
                file.read(1)  # the end, where the checksum is compared
        except (*_DAMAGE, OSError, ValueError) as error:
            raise self._damaged(name, error) from None
        values = data.view(np.int16 if dtype.kind == "V" else dtype).reshape(shape, order="F" if fortran else "C")
        if dtype.kind == "V":
            return torch.from_numpy(np.array(values, order="C")).view(torch.bfloat16).float()
        return torch.from_numpy(np.array(values, np.float32, order="C", copy=None))

    def _damaged(self, name: str, why: object) -> ValueError:
        return ValueError(
            f"{self._path}: {shown(name)} is damaged ({' '.join(str(why).split())[:200]}); get the file again"
        )


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """The arrays of an .npz file, which can be read while the block lasts.

    Raises:
        ValueError: a file that is missing, no regular file, damaged, too large, not in this format, or that unpacks to
            far more than weights do.
    """
    with ExitStack() as opened:
        try:
            check_regular(path, MAX_FILE)
            file = opened.enter_context(open(path, "rb"))
            archive = opened.enter_context(zipfile.ZipFile(_Limited(file)))  # type: ignore[arg-type]  # has what it uses
        except (*_DAMAGE, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no .npz file, or a damaged one ({str(error)[:200]}); get it again") from None
        yield Npz(path, archive)


class _Limited:
    """A file that is never read as a whole: zipfile takes a directory of any length into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._size = os.fstat(file.fileno()).st_size

    def read(self, count: int = -1) -> bytes:
        wanted = self._size - self._file.tell() if count < 0 else count
        if wanted > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has {wanted} bytes")
        return self._file.read(count)


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Array name -> its place. Raises ValueError."""
    listed = archive.infolist()
    found = {member.filename.removesuffix(".npy"): member for member in listed if member.filename.endswith(".npy")}
    if len(listed) > MAX_TENSORS or len(found) < len(listed):
        raise ValueError(
            f"{path} is no .npz file: of {plural(len(listed), 'entry', 'entries')} {len(found)} are arrays"
        )
    for member in listed:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ValueError(f"{path}: {shown(member.filename)} is packed in a way that NumPy does not use")
    packed, unpacked = sum(member.compress_size for member in listed), sum(member.file_size for member in listed)
    if packed > path.stat().st_size or unpacked > MAX_RATIO * packed + SPARE:
        raise ValueError(f"{path} would unpack to {unpacked} bytes; weights are not packed so tightly")
    return found


def _array_header(file: IO[bytes]) -> tuple[int, tuple[int, ...], bool, np.dtype]:
    """Where the elements begin, shape, order and type. Raises ValueError and others."""
    head = file.read(8)
    version = npy.read_magic(io.BytesIO(head))
    width = {(1, 0): 2, (2, 0): 4}.get(version)
    if width is None:
        raise ValueError(f"version {version}")
    length = file.read(width)
    size = int.from_bytes(length, "little")
    if size > MAX_ARRAY_HEADER:
        raise ValueError(f"a header of {size} bytes")
    text = io.BytesIO(length + file.read(size))
    read = npy.read_array_header_1_0 if width == 2 else npy.read_array_header_2_0
    shape, fortran, dtype = read(text)
    if len(shape) > 8 or any(not 0 <= side < 2**40 for side in shape):
        raise ValueError(f"shape {shape}")
    return 8 + width + size, tuple(int(side) for side in shape), bool(fortran), dtype
