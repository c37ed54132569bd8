"""A Triton driver without a GPU: ops run on CPU tensors, and their kernels are specialised, compiled and "launched" as
on a chip, but nothing is executed.

    with dry(90) as run:
        contrastive_loss(image, text, scale).backward()
    run.problems                       what a real launch would have refused, in words
    rows(run.launches)                 what each compiled kernel takes: registers, spills, shared memory

What the interpreter and the compile gate do not see is seen here: how the JIT specialises (a size that is 1, a pointer
or a stride that 16 does not divide), grids beyond the limits, tensor maps that the driver would refuse, arguments that
do not fit what the kernel was compiled for. Values are garbage: kernels write nothing.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from ..common import launcher
from ..common.triton_runtime import Chip, family, standing_in
from .gate import Row, read, shared_limit

# Numbers that no GPU has, one for each run: what a launcher keeps of another run is never found again.
_DEVICES = itertools.count(1000)
MULTIPROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 103: 148, 120: 170}  # others: as their family's
MOST_PROGRAMS = (2**31 - 1, 65535, 65535)
# Of a tensor map (CUDA driver API, cuTensorMapEncodeTiled): entries of a box a dimension, bytes of a swizzled line.
LONGEST_BOX = 256
SWIZZLED = {1: 32, 2: 64, 3: 128}


class Launch(NamedTuple):
    """One launch. compiled: triton's CompiledKernel."""

    kernel: str
    grid: tuple[int, int, int]
    compiled: Any


@dataclass
class DryRun:
    """What has been launched so far, and what is wrong with it."""

    architecture: int
    launches: list[Launch] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@contextmanager
def dry(architecture: int = 90, *, checked: bool = True) -> Iterator[DryRun]:
    """Ops of CPU tensors get their Triton kernels, compiled for sm_`architecture`, until the end of the block.

    architecture: any that Triton compiles for (80, 86, 89, 90, 100, 103, 120), with the launch configurations and the
        limits that such a chip has.
    checked: look at every launch; without, host time is nearly that of a machine with a GPU (its driver call aside).
    """
    run = DryRun(architecture)
    active = triton.runtime.driver
    before = active._active
    chip = Chip(architecture, _multiprocessors(architecture))
    kernels: dict[Any, None] = {}
    device = next(_DEVICES)
    with (
        standing_in(chip),
        patch.object(torch, "addmm", _addmm),
        patch.dict("os.environ", SILC_KERNELS_BACKEND="triton"),
    ):
        active.set_active(_driver(run, checked, device, kernels))
        try:
            yield run
        finally:
            active._active = before
            _forget(kernels, device)


def _multiprocessors(architecture: int) -> int:
    return MULTIPROCESSORS.get(architecture, MULTIPROCESSORS[family(architecture)])


def _forget(kernels: Iterable[Any], device: int) -> None:
    """What was compiled here knows a launcher that launches nothing, and no module that could be unloaded."""
    launcher._launcher.cache_clear()
    for kernel in kernels:
        for compiled in _compiled(kernel, device):
            compiled.module = None
        kernel.device_caches.pop(device, None)


_real_addmm = torch.addmm


def _addmm(total: Any, left: Any, right: Any, *others: Any, **named: Any) -> Any:
    """A product of half precision into float32 has no kernel on a CPU: nothing is computed."""
    if others and isinstance(others[0], torch.dtype):
        return named["out"]
    return _real_addmm(total, left, right, *others, **named)


def _driver(run: DryRun, checked: bool, number: int, kernels: dict[Any, None]) -> DriverBase:
    """number: of the device. kernels: gets every kernel that is made ready for a launch."""
    architecture = run.architecture

    class Utils:
        def get_device_properties(self, device: int) -> dict[str, int]:
            return {
                "max_shared_mem": shared_limit(architecture),
                "multiprocessor_count": _multiprocessors(architecture),
                "warpSize": 32,
                "max_num_regs": 65536,
            }

        def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[object, str, int, int, int]:
            return object(), name, 0, 0, 1024

        def unload_module(self, module: object) -> None:
            pass

    class Launcher:
        """Takes the place of the compiled C launcher of a kernel."""

        def __init__(self, src: Any, metadata: Any) -> None:
            self.src, self.metadata, self.kernel = src, metadata, None
            kernels[src.fn] = None

        def __call__(self, x: int, y: int, z: int, stream: int, function: Any, *rest: Any) -> None:
            if not checked:
                return
            if self.kernel is None:
                self.kernel = next(each for each in _compiled(self.src.fn, number) if each.metadata is self.metadata)
            args = rest[-len(self.src.signature) :]
            name = self.src.fn.__name__
            run.problems += (f"{name}: {problem}" for problem in problems((x, y, z), self.src, self.metadata, args))
            run.launches.append(Launch(name, (x, y, z), self.kernel))

    class Driver(DriverBase):
        utils = Utils()
        launcher_cls = Launcher

        @classmethod
        def is_active(cls) -> bool:
            return True

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", architecture, 32)

        def get_current_device(self) -> int:
            return number

        def set_current_device(self, device: int) -> None:
            pass

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_benchmarker(self) -> Any:
            raise NotImplementedError("nothing is executed, so nothing is timed")

        def get_device_interface(self) -> Any:
            return torch.cpu

    return Driver()


def _compiled(kernel: Any, device: int) -> list[Any]:
    """What the JIT has compiled of a kernel for a device."""
    return list(kernel.device_caches[device][0].values()) if device in kernel.device_caches else []


def problems(grid: tuple[int, int, int], src: Any, metadata: Any, args: Sequence[Any]) -> Iterator[str]:
    """What a chip's driver would refuse of a launch, and arguments that do not fit what was compiled.

    src, metadata: of the compiled kernel. args: in the kernel's order, constexprs too.
    """
    if not all(0 < programs <= most for programs, most in zip(grid, MOST_PROGRAMS, strict=True)):
        yield f"a grid of {grid}; at least 1 and at most {MOST_PROGRAMS}"
    maps = list(getattr(metadata, "tensordesc_meta", None) or [])
    for place, ((name, kind), argument) in enumerate(zip(src.signature.items(), args, strict=True)):
        constant = src.constants.get((place,))
        if kind == "constexpr":
            if argument != constant:
                yield f"{name} is {argument!r} where it was compiled for {constant!r}"
        elif kind.startswith("tensordesc"):
            if maps:
                yield from (f"{name}: {problem}" for problem in map_problems(argument, maps.pop(0)))
        else:
            attributes = dict(src.attrs.get((place,), ()))
            yield from (f"{name}: {problem}" for problem in argument_problems(kind, argument, attributes))


def argument_problems(kind: str, argument: Any, attributes: dict[str, int]) -> Iterator[str]:
    """kind: Triton's type, "*bf16" or "i32"."""
    if kind.startswith("*"):
        value = argument.data_ptr()
        found = triton.runtime.jit.mangle_type(argument)
        if found != kind:
            yield f"{found} where it was compiled for {kind}"
    elif isinstance(argument, int):
        value = argument
        if kind == "i32" and not -(2**31) <= argument < 2**31:
            yield f"{argument} does not fit the 32 bits it was compiled for"
    else:
        return
    divisor = attributes.get("tt.divisibility", 1)
    if value % divisor:
        yield f"{value} is no multiple of {divisor}, for which it was compiled"


def map_problems(descriptor: Any, metadata: dict[str, Any]) -> Iterator[str]:
    """Of a tensor map: what cuTensorMapEncodeTiled refuses."""
    size, box = descriptor.base.dtype.itemsize, list(metadata["block_size"])
    if any(entries > LONGEST_BOX for entries in box):
        yield f"a box of {box}; at most {LONGEST_BOX} entries a dimension"
    if box[-1] * size % 16:
        yield f"a box whose lines have {box[-1] * size} bytes; a multiple of 16"
    if box[-1] * size > SWIZZLED.get(metadata["swizzle"], 1 << 30):
        yield f"a box whose lines have {box[-1] * size} bytes; its swizzle takes {SWIZZLED[metadata['swizzle']]}"
    if any(stride * size % 16 or not 0 < stride * size < 1 << 40 for stride in descriptor.strides[:-1]):
        yield f"strides of {[stride * size for stride in descriptor.strides[:-1]]} bytes; multiples of 16 below 2^40"
    if not all(0 < entries <= 1 << 32 for entries in descriptor.shape):
        yield f"a shape of {list(descriptor.shape)}; from 1 to 2^32 entries a dimension"
    if descriptor.base.data_ptr() % 16:
        yield "a base that is no multiple of 16 bytes"


def rows(launches: Sequence[Launch], architecture: int) -> list[Row]:
    """What each compiled kernel among `launches` takes, once."""
    kernels = {id(launch.compiled): launch for launch in launches}
    return [read(launch.kernel, launch.compiled, architecture) for launch in kernels.values()]
