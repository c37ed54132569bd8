"""Launches of Triton kernels with little host time: what Triton works out anew at every launch is kept by shape.

`kernel[grid](...)` binds arguments to names, derives a specialisation and a key from them, and looks the kernel up.
Here a key of plain values finds the compiled kernel, which is launched as it is.
"""

import functools
from collections.abc import Hashable
from typing import Any

from torch import Tensor

MOST_KEYS = 4096  # of a launcher; whole numbers that never come back must not fill the memory
ALIGNED = 16  # bytes: where a pointer is a multiple of it, Triton compiles wider loads


class Launcher:
    """One kernel with its constexprs and launch options; called with a grid and its other arguments, in order.

    Whole numbers are part of the key by value, tensors by dtype and alignment: what is compiled for one value or
    alignment is never launched with another. A kernel must take its constexprs behind its other arguments.
    """

    def __init__(self, kernel: Any, options: dict[str, Any]) -> None:
        self._kernel, self._options = kernel, options
        names = kernel.arg_names
        constants = [name for name in names if name in options]
        first = len(names) - len(constants)
        if names[first:] != constants:
            raise ValueError(f"{kernel}: its constexprs {constants} must follow its other arguments, {names}")
        self._constants = tuple(options[name] for name in constants)
        self._compiled: dict[Hashable, Any] = {}
        self._interpreted = not hasattr(kernel, "device_caches")

    def __call__(self, grid: tuple[int, ...], *args: Any) -> None:
        """Launch on the current device and stream. grid: one to three numbers.

        args: tensors, tensor descriptors, numbers or None, as many as the kernel has before its constexprs.
        """
        if self._interpreted or self._kernel.pre_run_hooks:
            self._kernel[grid](*args, **self._options)
            return
        key = _device(), *map(_key, args)
        compiled = self._compiled.get(key)
        if compiled is None:
            if len(self._compiled) >= MOST_KEYS:
                self._compiled.clear()
            self._compiled[key] = self._kernel[grid](*args, **self._options)
            return
        compiled[grid if len(grid) == 3 else (*grid, 1, 1)[:3]](*args, *self._constants)


def launcher(kernel: Any, **options: Any) -> Launcher:
    """The launcher of `kernel` with these constexprs and options (num_warps, num_stages, ...), made once for each."""
    return _launcher(kernel, tuple(options.items()))


@functools.cache
def _launcher(kernel: Any, options: tuple[tuple[str, Any], ...]) -> Launcher:
    return Launcher(kernel, dict(options))


def _device() -> int:
    from triton.runtime import driver

    return driver.active.get_current_device()


def _key(argument: Any) -> Hashable:
    kind = type(argument)
    if kind is int or kind is bool or argument is None:
        return argument, kind  # 1 equals True
    if kind is float:
        return (kind,)
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % ALIGNED == 0
    return argument.base.dtype, *argument.block_shape  # a tensor descriptor; its base is aligned by its own rules
