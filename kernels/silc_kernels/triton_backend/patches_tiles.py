"""Tiles of the patch_embed kernels, by chip and precision, and how patches and rows fall into them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import runtime


@dataclass(frozen=True)
class Tile:
    """Of a product. rows: patches; depth: pixels of a patch at most at a time; columns: of the width D.

    parts: pieces that the result is written in.
    """

    rows: int
    depth: int
    columns: int
    num_warps: int
    num_stages: int
    parts: int = 1


@dataclass(frozen=True)
class Tiles:
    """bulk: whether the copy engine may cut the patches, in the same tiles."""

    project: Tile
    gradient: Tile
    bulk: bool


# fp32 products have no tensor cores at this precision: small tiles, on any chip.
SINGLE = Tiles(Tile(64, 32, 64, 4, 2), Tile(32, 64, 64, 8, 2), bulk=False)
# Up to 99 KiB of shared memory, for the small chips of each generation too.
AMPERE = Tiles(Tile(128, 64, 128, 8, 3), Tile(32, 128, 128, 8, 3), bulk=False)
# Hopper and data-centre Blackwell.
HOPPER = Tiles(Tile(128, 64, 256, 8, 3, parts=4), Tile(64, 256, 128, 8, 3), bulk=True)


def tiles(device: torch.device, dtype: torch.dtype) -> Tiles:
    """Those for products in `dtype` (what the tokens are kept in)."""
    if dtype == torch.float32:
        return SINGLE
    return HOPPER if 90 <= runtime.capability(device) < 120 else AMPERE


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


def bulk_block(crop: Tensor, patch: int, rows: int, width: int) -> tuple[int, int] | None:
    """(down, across) of a tile of `rows` patches that the copy engine can cut out of bytes, None where it cannot.

    It needs lines of a power of two and of at least 16 bytes, 16-byte strides, and grids that the tiles fill.
    """
    down, across = crop.shape[2] // patch, crop.shape[3] // patch
    block = rows // min(rows, _power_of_two(across)), min(rows, _power_of_two(across))
    fits = crop.dtype == torch.uint8 and crop.is_contiguous() and crop.data_ptr() % 16 == 0 and width % 8 == 0
    fits = fits and patch % 16 == 0 and patch == _power_of_two(patch)
    return block if fits and down % block[0] == 0 and across % block[1] == 0 else None


@dataclass(frozen=True)
class Split:
    """How crops x tokens rows are worked through in the gradient kernels (see patches_gradient_kernels).

    tokens, members: of a tile; rounds: tiles of one block of tokens; length: tiles of a split; splits: in all; slots:
    splits at most that share a block of tokens.
    """

    tokens: int
    members: int
    rounds: int
    length: int
    splits: int
    slots: int


def split_rows(crops: int, tokens: int, rows: int, wanted: int) -> Split:
    """Tiles of `rows` rows in about `wanted` splits."""
    in_tile = min(tokens & -tokens, rows)
    members = rows // in_tile
    rounds = -(-crops // members)
    in_all = tokens // in_tile * rounds
    length = -(-in_all // max(1, min(wanted, in_all)))
    return Split(in_tile, members, rounds, length, -(-in_all // length), (rounds + length - 2) // length + 1)


def _power_of_two(size: int) -> int:
    """The next one up."""
    return 1 << (size - 1).bit_length()
