"""Launches of Triton kernels with little host time: what Triton works out anew at every launch is kept by shape.

`kernel[grid](...)` binds arguments to names, derives a specialisation and a key from them, and looks the kernel up.
Here a key of plain values finds the compiled kernel, whose own launch function is called as it is.
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
        from triton import knobs
        from triton.runtime import driver

        self._kernel, self._options = kernel, options
        names = kernel.arg_names
        constants = [name for name in names if name in options]
        first = len(names) - len(constants)
        if names[first:] != constants:
            raise ValueError(f"{kernel}: its constexprs {constants} must follow its other arguments, {names}")
        self._constants = tuple(options[name] for name in constants)
        self._compiled: dict[Hashable, Any] = {}
        self._interpreted = not hasattr(kernel, "device_caches")
        self._driver, self._hooks = driver, knobs.runtime

    def __call__(self, grid: tuple[int, ...], *args: Any) -> None:
        """Launch on the current device and stream. grid: one to three numbers.

        args: tensors, tensor descriptors, numbers or None, as many as the kernel has before its constexprs.
        """
        if self._interpreted or self._kernel.pre_run_hooks:
            self._kernel[grid](*args, **self._options)
            return
        active = self._driver.active
        device = active.get_current_device()
        key = _key(device, args)
        compiled = self._compiled.get(key)
        if compiled is None:
            if len(self._compiled) >= MOST_KEYS:
                self._compiled.clear()
            self._compiled[key] = self._kernel[grid](*args, **self._options)
            return
        x, y, z = grid if len(grid) == 3 else (*grid, 1, 1)[:3]
        hooks = self._hooks
        if hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls:  # of a profiler
            compiled[x, y, z](*args, *self._constants)
            return
        stream = active.get_current_stream(device)
        function, packed = compiled.function, compiled.packed_metadata
        compiled.run(x, y, z, stream, function, packed, None, None, None, *args, *self._constants)


def launcher(kernel: Any, **options: Any) -> Launcher:
    """The launcher of `kernel` with these constexprs and options (num_warps, num_stages, ...), made once for each."""
    return _launcher(kernel, tuple(options.items()))


@functools.cache
def _launcher(kernel: Any, options: tuple[tuple[str, Any], ...]) -> Launcher:
    return Launcher(kernel, dict(options))


def _key(device: int, args: tuple[Any, ...]) -> Hashable:
    """Flat, as building tuples of tuples takes longer; read from the left it tells what each argument was."""
    key: list[Hashable] = [device]
    add = key.append
    for argument in args:
        kind = type(argument)
        if kind is int:
            add(argument)
        elif kind is Tensor:
            add(argument.dtype)
            add(argument.data_ptr() % ALIGNED == 0)
        elif kind is float:
            add(float)
        else:
            add(_rare(argument))
    return tuple(key)


def _rare(argument: Any) -> Hashable:
    if argument is None or isinstance(argument, bool):
        return argument, type(argument)  # True equals 1
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % ALIGNED == 0
    return argument.base.dtype, *argument.block_shape  # a tensor descriptor; its base is aligned by its own rules
