"""How the patch_embed kernels are launched, by chip and precision, and how patches and rows fall into them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..common import triton_runtime as runtime

NARROW = 16


@dataclass(frozen=True)
class LaunchConfig:
    """How a kernel of a product is launched.

    rows, depth, columns: of its tile: patches, pixels of a patch at most at a time, columns of the width D.
    num_warps, num_stages: of the launch.
    parts: pieces that the result is written in. bulk: whether the copy engine may cut the patches.
    half_positions: tables in the dtype of the tokens: half the bytes at the end of a tile, rounded once more.
    wait: for the products of a turn at its end: needed on sm_90, where they read registers that the next turn writes
        (triton_kernels.py, _settled); the gate refuses what lacks it. Elsewhere it would only cost time.
    """

    rows: int
    depth: int
    columns: int
    num_warps: int
    num_stages: int
    parts: int = 1
    bulk: bool = False
    half_positions: bool = False
    wait: bool = False


# fp32 products have no tensor cores at this precision: small tiles, on any chip. (With two stages Triton 3.8 spills.)
_SINGLE = {
    "project": LaunchConfig(64, 32, 64, 4, 3),
    "project narrow": LaunchConfig(64, 32, 64, 4, 2),
    "gradient": LaunchConfig(32, 64, 64, 8, 2),
    "gradient narrow": LaunchConfig(32, 64, 64, 8, 2),
}
# Hopper and data-center Blackwell. A sum of 128 x 256 takes half the registers of 8 warps, and what is left must hold
# the bytes of a tile and their conversions.
_LARGE = {
    "project": LaunchConfig(128, 64, 256, 8, 3, parts=4, bulk=True),
    "project narrow": LaunchConfig(128, 32, 256, 8, 4, parts=4),
    "gradient": LaunchConfig(32, 256, 128, 8, 4, bulk=True),
    "gradient narrow": LaunchConfig(32, 256, 128, 8, 4),
}
# Bytes read half as often, gradients twice as often: on an H200, without the waits, 1.06 to 1.09 times as fast.
_HOPPER = {
    kernel: replace(config, wait=True)
    for kernel, config in (_LARGE | {"gradient": LaunchConfig(32, 128, 256, 8, 4, bulk=True)}).items()
}
# Up to 99 KiB of shared memory, for the small chips of each generation too; 80 stands for all that are not the others.
_SMALL = {
    "project": LaunchConfig(128, 64, 128, 8, 3),
    "project narrow": LaunchConfig(128, 32, 128, 8, 3),
    "gradient": LaunchConfig(32, 128, 128, 8, 3),
    "gradient narrow": LaunchConfig(32, 128, 64, 8, 3),
}
# (kernel, "single" or "half" precision, architecture). "narrow": patches under 16 pixels, whose lines come a few bytes
# at a time and take registers for addresses, and what else would spill: `variant`.
SHIPPED: dict[tuple[str, str, int], LaunchConfig] = {
    (kernel, precision, architecture): config
    for precision, architecture, configs in (
        *(("single", architecture, _SINGLE) for architecture in (80, 90, 100)),
        ("half", 80, _SMALL),
        ("half", 90, _HOPPER),
        ("half", 100, _LARGE),
    )
    for kernel, config in configs.items()
}
_Waiting = functools.partial(LaunchConfig, wait=True)
# Worth timing; each compiles without spills and hazards. None has run on a GPU with its waits. project at 64 x 64 x 256
# with 4 warps gave wrong tokens on an H200 without them, in one run off by 2e-3 and in another by 3e-3.
TRIALS: dict[tuple[str, str, int], tuple[LaunchConfig, ...]] = {
    ("project", "half", 90): (
        _Waiting(128, 64, 256, 8, 4, parts=4, bulk=True),  # one more stage, should bytes come late
        _Waiting(128, 128, 256, 8, 2, parts=4, bulk=True),  # half as many waits and barriers
        # two programs a multiprocessor, of which one converts while the other multiplies: weights read twice as often,
        _Waiting(64, 64, 256, 4, 3, parts=4, bulk=True),
        _Waiting(128, 64, 128, 4, 3, parts=4, bulk=True),  # or bytes read and converted twice as often
        _Waiting(128, 64, 256, 8, 3, parts=4, bulk=True, half_positions=True),  # half the bytes at a tile's end
        _Waiting(128, 64, 256, 8, 3, parts=4),  # whether the copy engine pays
    ),
    ("project narrow", "half", 90): (
        _Waiting(128, 32, 256, 8, 3, parts=4),  # one stage less
        _Waiting(128, 64, 128, 8, 3, parts=2),  # deeper, half as wide
        _Waiting(64, 64, 256, 8, 3, parts=2),  # deeper, half as many rows
    ),
    ("gradient", "half", 90): (
        _Waiting(64, 128, 256, 8, 3, bulk=True),  # half as many waits and barriers
        _Waiting(64, 64, 256, 4, 3, bulk=True),  # two programs a multiprocessor
        _Waiting(32, 256, 128, 8, 4, bulk=True),  # gradients read half as often, bytes twice as often
        _Waiting(64, 128, 128, 8, 3, bulk=True),  # four products a wait instead of two, half the sums
        _Waiting(32, 256, 128, 8, 4),  # whether the copy engine pays
    ),
    ("gradient narrow", "half", 90): (
        _Waiting(32, 256, 128, 8, 3),  # one stage less
        _Waiting(64, 128, 128, 8, 3),  # four products a wait, half the sums
    ),
}


def variant(kernel: str, patch: int, *, floats: bool = False, scattered: bool = False) -> str:
    """ "project" or "gradient", or " narrow" behind it.

    floats: some crops are; scattered: pixels of a line lie apart. Each takes registers: the forward has none left for
    addresses of single pixels, nor the gradient of narrow patches for floats.
    """
    if kernel == "project":
        narrow = patch % NARROW != 0 or scattered
    else:
        narrow = patch < NARROW and not floats
    return kernel + " narrow" if narrow else kernel


def launch_config(
    kernel: str, device: torch.device, dtype: torch.dtype, patch: int, *, floats: bool = False, scattered: bool = False
) -> LaunchConfig:
    """That of `kernel` ("project", "gradient") for products in `dtype` (what the tokens are kept in)."""
    architecture = runtime.family(runtime.capability(device))
    precision = "single" if dtype == torch.float32 else "half"
    return SHIPPED[variant(kernel, patch, floats=floats, scattered=scattered), precision, architecture]


@dataclass(frozen=True)
class Lines:
    """How a patch of `patch` lines is cut for a tile: `blocks` blocks of `lines` lines of `row` pixels a channel."""

    row: int
    lines: int
    blocks: int

    @property
    def depth(self) -> int:
        """Padded pixels of a patch, all channels."""
        return 3 * self.blocks * self.lines * self.row


def projected_lines(patch: int, depth: int) -> Lines:
    """For the forward product: without padding where lines of a power of two allow it, at least 16 pixels deep."""
    row = _power_of_two(patch)
    lines = max(min(patch & -patch, depth // row), 16 // row, 1)
    return Lines(row, lines, -(-patch // lines))


def gradient_lines(patch: int, depth: int) -> Lines:
    """For the weight gradient, whose tile is better full than exact."""
    row = _power_of_two(patch)
    lines = max(min(row, depth // row), 16 // row, 1)
    return Lines(row, lines, -(-patch // lines))


def bulk_block(shape: Sequence[int], patch: int, rows: int) -> tuple[int, int] | None:
    """(down, across) of a tile of `rows` patches that the copy engine can cut out of packed bytes, else None.

    shape: [M, 3, H, W]. It needs lines of a power of two and of at least 16 bytes, and grids that the tiles fill.
    """
    down, across = shape[2] // patch, shape[3] // patch
    block = rows // min(rows, _power_of_two(across)), min(rows, _power_of_two(across))
    fits = patch % 16 == 0 and patch == _power_of_two(patch)
    return block if fits and down % block[0] == 0 and across % block[1] == 0 else None


def padded(width: int) -> int:
    """What the kernels see of a width D: a multiple of 16, so that rows are read in words. Narrower loads of a large
    tile take more registers than there are.
    """
    return -(-width // 16) * 16


def split_rows(rows: int, block: int, wanted: int) -> tuple[int, int]:
    """(tiles of a split, splits) of `rows` rows in tiles of `block`, in about `wanted` splits."""
    tiles = -(-rows // block)
    length = -(-tiles // max(1, min(wanted, tiles)))
    return length, -(-tiles // length)


def _power_of_two(size: int) -> int:
    """The next one up."""
    return 1 << (size - 1).bit_length()
