"""Triton's interpreter under observation: every launch, and every address that a program touches.

All of its loads, stores and atomics end in four functions of one extension module, whatever they began as: pointers,
pointers with masks, or tensor descriptors, of which the interpreter makes pointers and masks (a box is cut at the
descriptor's shape; of the memory behind it the descriptor knows nothing). These four are taken over here, so a
descriptor that is larger than its tensor is seen as any other pointer. Tensors are arguments of a launch by place or by
keyword; what a tuple holds is not looked for.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch

from torch import Tensor

from ..common import triton_runtime


class Touch(NamedTuple):
    """What one program touches in one instruction. kind: "read", "write" or "atomic".

    addresses: uint64, one a lane that no mask excludes; size: bytes from each of them on.
    """

    kind: str
    program: tuple[int, int, int]
    addresses: Any
    size: int


class Watcher(Protocol):
    """What is told of launches, one after another."""

    def begin(self, kernel: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A launch begins; it gets the arguments that are returned."""

    def touch(self, touch: Touch) -> Any:
        """None, or which of the addresses may be touched: the others are taken for excluded by the mask."""

    def end(self) -> None:
        """The launch has ended."""


class Span(NamedTuple):
    """Bytes from `start` to `stop` that arguments of a launch lie in; several where they share memory.

    unit: bytes of the smallest element. described: whether a tensor descriptor is among them.
    """

    names: tuple[str, ...]
    start: int
    stop: int
    unit: int
    described: bool


def tensor_of(argument: Any) -> Tensor | None:
    """The memory of a tensor or of a tensor descriptor; None of other arguments, and where there is no memory."""
    tensor = argument.base if hasattr(argument, "block_shape") else argument
    return tensor if isinstance(tensor, Tensor) and tensor.numel() else None


def spans(arguments: Mapping[str, Any]) -> list[Span]:
    """The memory of a launch's arguments, in order; what overlaps is one span."""
    found = []
    for name, argument in arguments.items():
        tensor = tensor_of(argument)
        if tensor is not None:
            start, size = tensor.data_ptr(), tensor.element_size()
            reach = sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True))
            found.append(Span((name,), start, start + (reach + 1) * size, size, argument is not tensor))
    merged: list[Span] = []
    for span in sorted(found, key=lambda each: each.start):
        if merged and span.start < merged[-1].stop:
            last = merged.pop()
            names, described = last.names + span.names, last.described or span.described
            span = Span(names, last.start, max(last.stop, span.stop), min(last.unit, span.unit), described)
        merged.append(span)
    return merged


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """`watcher` sees all launches until the end of the block.

    Raises:
        ValueError: not under the interpreter.
    """
    if not triton_runtime.INTERPRET:
        raise ValueError("memory is watched under Triton's interpreter alone; set TRITON_INTERPRET=1 before starting")
    from triton.runtime import interpreter

    real = interpreter.GridExecutor.__call__

    def launch(executor: Any, *args: Any, **options: Any) -> None:
        by_place = executor.arg_names[: len(args)]
        bound = dict(zip(by_place, args, strict=False))
        bound |= {name: value for name, value in options.items() if name in executor.arg_names}
        arguments = watcher.begin(executor.fn.__name__, bound)
        rest = {name: arguments.get(name, value) for name, value in options.items()}
        try:
            real(executor, *(arguments[name] for name in by_place), *args[len(by_place) :], **rest)
        finally:
            watcher.end()

    memory = _Memory(interpreter._interpreter, interpreter.interpreter_builder, watcher)
    with patch.object(interpreter.GridExecutor, "__call__", launch), patch.object(interpreter, "_interpreter", memory):
        yield


class _Memory:
    """Takes the place of the interpreter's extension module."""

    def __init__(self, module: Any, builder: Any, watcher: Watcher) -> None:
        self._module, self._builder, self._watcher = module, builder, watcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def load(self, pointers: Any, mask: Any, other: Any, dtype: Any) -> Any:
        return self._module.load(pointers, self._allowed("read", pointers, mask, dtype.itemsize), other, dtype)

    def store(self, pointers: Any, values: Any, mask: Any) -> Any:
        return self._module.store(pointers, values, self._allowed("write", pointers, mask, values.dtype.itemsize))

    def atomic_rmw(self, kind: Any, pointers: Any, values: Any, mask: Any, order: Any) -> Any:
        allowed = self._allowed("atomic", pointers, mask, values.dtype.itemsize)
        return self._module.atomic_rmw(kind, pointers, values, allowed, order)

    def atomic_cas(self, pointers: Any, expected: Any, values: Any, order: Any) -> Any:
        self._allowed("atomic", pointers, pointers == pointers, values.dtype.itemsize)
        return self._module.atomic_cas(pointers, expected, values, order)

    def _allowed(self, kind: str, pointers: Any, mask: Any, size: int) -> Any:
        """The mask, without the lanes that the watcher does not let pass."""
        lanes = pointers.astype(bool)
        lanes[...] = mask  # it may come as whole numbers, and as one for all lanes
        addresses = pointers[lanes]
        if not addresses.size:
            return lanes
        passed = self._watcher.touch(Touch(kind, tuple(self._builder.grid_idx), addresses, size))
        if passed is not None:
            lanes[lanes] = passed
        return lanes
