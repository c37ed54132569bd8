"""Whether kernels stay within their arguments: ops under the interpreter, each address checked before it is touched.

    with guard() as run:                       TRITON_INTERPRET=1
        contrastive_loss(image, text, scale, backend="triton").backward()
    run.problems                               what was touched outside, in words

For the time of a launch each argument lies in memory of its own, in front of a page that no one may touch and behind
bytes that must not change: what goes around the checks ends in a signal (SIGSEGV) or is found by them. An argument ends
where its last element ends: a view of a larger buffer is guarded as a buffer of its own.

What it does not see: a write into the gaps of a strided view, for they lie between its first element and its last (nor
one into another argument, where both share memory); and a read of an output that nobody has written yet, whose memory
has whatever values it has.
"""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .interpreted import Span, Touch, spans, tensor_of, watching

CANARY = 0xA5
DESCRIBED = 16  # bytes: the alignment of a tensor descriptor's base


@dataclass
class GuardRun:
    """launches: so far. touches: instructions that read or wrote. problems: in words, the first of each kind."""

    launches: int = 0
    touches: int = 0
    problems: list[str] = field(default_factory=list)


@contextmanager
def guard(*, checked: bool = True) -> Iterator[GuardRun]:
    """Kernels of CPU tensors under the interpreter are guarded until the end of the block.

    checked: find an address outside before it is touched, report it and leave it out. Without, a read or write past the
    end is a signal that ends the process, and a write before the beginning is found by the bytes it changed.

    Raises:
        ValueError: not under the interpreter.
    """
    run = GuardRun()
    with watching(_Guard(run, checked)):
        yield run


class _Guard:
    def __init__(self, run: GuardRun, checked: bool) -> None:
        self.run, self.checked = run, checked
        self.kernel = ""
        self.blocks: list[_Block] = []
        self.empty: list[Span] = []
        self.seen: set[tuple[str, str, str]] = set()

    def begin(self, kernel: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.kernel = kernel
        self.run.launches += 1
        self.blocks = sorted((_moved(span) for span in spans(arguments)), key=lambda block: block.start)
        self.empty = list(_empty(arguments))
        return {name: self._placed(argument) for name, argument in arguments.items()}

    def _placed(self, argument: Any) -> Any:
        tensor = tensor_of(argument)
        if tensor is None:
            return argument
        address = tensor.data_ptr()
        block = next(each for each in self.blocks if each.span.start <= address < each.span.stop)
        there = block.start + address - block.span.start
        memory = (ctypes.c_char * (block.stop - there)).from_address(there)
        elements = (block.stop - there) // tensor.element_size()
        moved = torch.frombuffer(memory, dtype=tensor.dtype, count=elements).as_strided(tensor.shape, tensor.stride())
        return moved if argument is tensor else _with_base(argument, moved)

    def touch(self, touch: Touch) -> Any:
        self.run.touches += 1
        if not self.checked:
            return None
        first, last = int(touch.addresses.min()), int(touch.addresses.max()) + touch.size
        if any(block.start <= first and last <= block.stop for block in self.blocks):
            return None
        inside = touch.addresses < 0
        for block in self.blocks:
            inside |= (touch.addresses >= block.start) & (touch.addresses <= block.stop - touch.size)
        for address in touch.addresses[~inside].tolist():
            self._outside(touch, address)
        return inside

    def _outside(self, touch: Touch, address: int) -> None:
        """Of the argument that is the nearest."""
        verb = {"read": "reads", "write": "writes"}.get(touch.kind, "adds")
        if address >= 1 << 63:  # before the null pointer of an empty tensor
            address -= 1 << 64
        spans = [each.span._replace(start=each.start, stop=each.stop) for each in self.blocks] + self.empty
        if not spans:
            self._problem(touch.kind, "", f"program {touch.program} {verb} memory, and no argument is a tensor")
            return
        span = min(spans, key=lambda each: min(abs(address - each.start), abs(address - each.stop)))
        name = " = ".join(span.names)
        if address >= span.start:
            where = f"{address + touch.size - span.stop} bytes past the end of {name}"
        else:
            where = f"{span.start - address} bytes before the beginning of {name}"
        self._problem(touch.kind, name, f"program {touch.program} {verb} {where}")

    def end(self) -> None:
        for block in self.blocks:
            if not block.intact():
                name = " = ".join(block.span.names)
                self._problem("canary", name, f"bytes beside {name} have changed")
            block.give_back()
        self.blocks = []

    def _problem(self, kind: str, name: str, problem: str) -> None:
        if (self.kernel, kind, name) not in self.seen:
            self.seen.add((self.kernel, kind, name))
            self.run.problems.append(f"{self.kernel}: {problem}")


def _empty(arguments: dict[str, Any]) -> Iterator[Span]:
    """Arguments without memory of their own, each where a kernel finds it."""
    for name, argument in arguments.items():
        tensor = getattr(argument, "base", argument) if hasattr(argument, "block_shape") else argument
        if isinstance(tensor, torch.Tensor) and not tensor.numel():
            yield Span((name,), tensor.data_ptr(), tensor.data_ptr(), tensor.element_size(), argument is not tensor)


def _with_base(descriptor: Any, base: torch.Tensor) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(base, descriptor.shape, descriptor.strides, descriptor.block_shape)


class _Block(NamedTuple):
    """A span's memory for the time of a launch: a copy of it from `start` to `stop`.

    Before it canaries, from `mapped` on; behind it, but for less than 16 bytes of them, the page that no one may touch.
    """

    span: Span
    mapped: int
    start: int
    stop: int
    page: int

    def intact(self) -> bool:
        around = (self.mapped, self.start), (self.stop, self.page)
        return not any(ctypes.string_at(first, last - first).strip(bytes([CANARY])) for first, last in around)

    def give_back(self) -> None:
        """What a kernel has written goes to where its caller looks."""
        ctypes.memmove(self.span.start, self.start, self.stop - self.start)
        _libc().munmap(ctypes.c_void_p(self.mapped), ctypes.c_size_t(self.page + mmap.PAGESIZE - self.mapped))


def _moved(span: Span) -> _Block:
    size = span.stop - span.start
    # The end of a kernel's memory is that of its last element, but where a base must be aligned.
    used = -(-size // DESCRIBED) * DESCRIBED if span.described else size
    pages = -(-used // mmap.PAGESIZE) + 1
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    total = (pages + 1) * mmap.PAGESIZE
    mapped = _libc().mmap(None, ctypes.c_size_t(total), protection, flags, -1, ctypes.c_long(0))
    page = mapped + pages * mmap.PAGESIZE
    if mapped == ctypes.c_void_p(-1).value or _libc().mprotect(
        ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 0
    ):
        raise MemoryError(f"no {total} bytes of pages for a guarded copy")
    ctypes.memset(mapped, CANARY, page - mapped)
    ctypes.memmove(page - used, span.start, size)
    return _Block(span, mapped, page - used, page - used + size, page)


def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    return library
