"""Tensors in files that strangers wrote: what a file holds is known, and bounded, before any of it is read.

Formats that can carry code (pickles, as in .bin and .pt) are not read at all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from silc.files import check_regular, parse_json
from silc.text import shown

MAX_FILE = 64 << 30  # bytes; the largest towers of this kind, of 2 billion parameters, have 8 GB
MAX_HEADER = 4 << 20  # bytes; a thousand tensors take 100 kB
MAX_TENSORS = 20_000
FLOATS = {"F64", "F32", "F16", "BF16"}  # safetensors' names
_PICKLES = (b"\x80", b"PK\x03\x04")  # first bytes of a pickle, and of the zip file that torch.save writes


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read.

    Attributes:
        shape: its shape.
        dtype: safetensors' name of its type; those in `FLOATS` can be read.
        load: reads it: fp32 on the CPU, in memory of its own. Raises ValueError for a damaged file.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Tensor]

    def changed(self, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> Stored:
        """The result of a function that gives this shape."""
        return Stored(shape, self.dtype, lambda: change(self.load()))


def of(stored: Stored, dimensions: int) -> Stored:
    """The tensor, if it has so many dimensions. Raises ValueError for another, and one without elements."""
    if len(stored.shape) != dimensions or 0 in stored.shape:
        raise ValueError(f"a tensor has shape {list(stored.shape)} where there are {dimensions} dimensions")
    return stored


def joined(parts: Sequence[Stored]) -> Stored:
    """Tensors one after another along the first dimension. Raises ValueError where the others differ."""
    first = parts[0]
    if any(part.shape[1:] != first.shape[1:] or not part.shape for part in parts):
        raise ValueError(f"parts of one tensor have the shapes {', '.join(str(list(part.shape)) for part in parts)}")
    odd = next((part.dtype for part in parts if part.dtype not in FLOATS), first.dtype)
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    return Stored(shape, odd, lambda: torch.cat([part.load() for part in parts]))


@contextmanager
def open_safetensors(paths: Sequence[Path]) -> Iterator[dict[str, Stored]]:
    """The tensors of one or more safetensors files, which can be read while the block lasts.

    Raises:
        ValueError: a file that is missing, no regular file, damaged, cut, too large, or not in this format; or a name
            that occurs twice.
    """
    found: dict[str, Stored] = {}
    with ExitStack() as opened:
        for path in paths:
            for name, (dtype, shape) in _header(path).items():
                if name in found:
                    raise ValueError(f"{path}: the tensor {shown(name)} is in another file too")
                found[name] = Stored(shape, dtype, _nothing)
            try:
                file = opened.enter_context(safe_open(path, framework="pt"))
                names = list(file.keys())
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{path} is damaged ({error}); get it again") from None
            for name in names:
                found[name] = Stored(found[name].shape, found[name].dtype, _loader(path, file, name))
        yield found


def _nothing() -> Tensor:
    raise AssertionError("the library does not find what the header names")


def _loader(path: Path, file: safe_open, name: str) -> Callable[[], Tensor]:
    def load() -> Tensor:
        try:
            # A copy: the library's tensor is the file itself, mapped, and changes with it.
            return file.get_tensor(name).to(torch.float32, copy=True)
        except (OSError, RuntimeError, SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); get it again") from None

    return load


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (type, shape). The offsets are left to the library, which refuses gaps and overlaps."""
    try:
        check_regular(path, MAX_FILE)
        with open(path, "rb") as file:
            size, first = os.fstat(file.fileno()).st_size, file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ValueError(_no_header(first, length, size))
            tree = parse_json(file.read(length), unique=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path} is damaged ({said}); get it again") from None
    wrong = f"{path} is damaged (its header is not that of a safetensors file); get it again"
    if not isinstance(tree, dict) or len(tree) > MAX_TENSORS:
        raise ValueError(wrong)
    tree.pop("__metadata__", None)
    if not all(_described(value) for value in tree.values()):
        raise ValueError(wrong)
    return {name: (value["dtype"], tuple(value["shape"])) for name, value in tree.items()}


def _no_header(first: bytes, length: int, size: int) -> str:
    if first.startswith(_PICKLES):
        return "it is a pickle, which may run code, under the name of safetensors"
    if size < 8:
        return f"it has {size} bytes"
    return f"its header would have {length} bytes, the file has {size}"


def _described(value: object) -> bool:
    if not isinstance(value, Mapping) or value.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    shape = value["shape"]
    return (
        isinstance(value["dtype"], str)
        and isinstance(shape, list)
        and len(shape) <= 8
        and all(type(side) is int and 0 <= side < 2**40 for side in shape)
    )
