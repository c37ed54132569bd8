"""What the student's image tower leaves out in training: patches of large crops, and branches of blocks.

Patch dropout (FLIP, arXiv 2212.00794) takes patches out before the first block; drop path, or stochastic depth (arXiv
1603.09382), lets a crop skip a block's attention or MLP. Which ones is a function of (seed, position of the sample in
the stream, view, block or patch) alone: the same on any number of ranks, in any micro-batch, in both passes of an
exactly accumulated step and after a resume. So nothing is drawn from torch's generators; random words are computed from
their address by a counter-based generator, SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), in int64 on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from silc_kernels import PackedLayout

_PATCHES = 1 << 16  # number of a crop's first word for its patches; those before it are for branches, two a block
_BITS = 53  # of a word, that a probability is compared with


def _signed(number: int) -> int:
    """The integer of 64 bits with a sign that has the lowest 64 bits of `number`."""
    return (number + 2**63) % 2**64 - 2**63


_GAMMA, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Dropping:
    """The address of a batch's random words. seed: `train.seed`. first: stream position of the batch's first sample;
    the others follow it.
    """

    seed: int
    first: int

    def keys(self, samples: int, views: range, device: torch.device | str) -> Tensor:
        """An address for each crop, int64 [samples * len(views)], the crops of one sample side by side."""
        numbers = torch.arange(self.first + 1, self.first + samples + 1, device=device)
        seed = _mixed(torch.full((1,), _signed(self.seed * _GAMMA + _GAMMA), device=device))
        sample = _mixed(seed + numbers * _GAMMA)
        return words(sample, torch.arange(views.start, views.stop, device=device)).flatten()


@dataclass(frozen=True)
class Drawn:
    """The crops of one resolution. keys: of :meth:`Dropping.keys`, int64 [M]. whole: they keep all of their patches."""

    keys: Tensor
    whole: bool


def words(keys: Tensor, numbers: Tensor) -> Tensor:
    """Random words, int64 [*keys, *numbers]: for each of `keys`, those with these numbers, which are 0 or more."""
    numbers = (numbers + 1) * _GAMMA
    return _mixed(keys.view(*keys.shape, *[1] * numbers.ndim) + numbers)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a permutation of the integers of 64 bits. Products wrap around."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in; torch repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def kept_patches(patches: int, dropout: float) -> int:
    """How many of a crop's patches patch dropout keeps: the same number for every crop, at least one."""
    return max(1, round(patches * (1 - dropout)))


def chosen_patches(keys: Tensor, patches: int, kept: int) -> Tensor:
    """Which patches each crop keeps, int64 [M, kept], ascending: every set of that size is equally likely."""
    order = words(keys, torch.arange(_PATCHES, _PATCHES + patches, device=keys.device)).argsort(dim=1)
    return order[:, :kept].sort(dim=1).values


def thinned(
    x: Tensor, layout: PackedLayout, drawn: Sequence[Drawn], dropout: float
) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """Tokens [T, D] without those that patch dropout leaves out, and what (crops, tokens) of each resolution are left.

    One copy of the tokens that stay; its backward pass adds their gradients into zeros.
    """
    rows, groups, start = [], [], 0
    for (crops, tokens), group in zip(layout.groups, drawn, strict=True):
        places = torch.arange(start, start + crops * tokens, device=x.device)
        kept = tokens
        if not group.whole:
            kept = kept_patches(tokens, dropout)
            places = places.view(crops, tokens).gather(1, chosen_patches(group.keys, tokens, kept)).flatten()
        rows.append(places)
        groups.append((crops, kept))
        start += crops * tokens
    return x.index_select(0, torch.cat(rows)), tuple(groups)


def drop_rates(drop_path: float, depth: int) -> list[float]:
    """The probability of each block, from 0 in the first one linearly to `drop_path` in the last one, as in timm."""
    return [drop_path * block / max(1, depth - 1) for block in range(depth)]


def branch_scales(
    layout: PackedLayout, drawn: Sequence[Drawn], rates: Sequence[float], dtype: torch.dtype
) -> list[Tensor | None]:
    """What each token multiplies a block's two branches by, [2, T, 1]; None for a block that drops nothing.

    0 for a crop that skips the branch, else 1 / (1 - probability). Attention and MLP are decided apart.
    """
    keys = torch.cat([group.keys for group in drawn])
    device = keys.device
    found = words(keys, torch.arange(2 * len(rates), device=device)).view(len(keys), len(rates), 2)
    limits, factors = _compared(tuple(rates), device)
    scales = ((_shifted(found, 64 - _BITS) >= limits) * factors).to(dtype)
    by_token, start = [], 0
    for crops, tokens in layout.groups:
        group = scales[start : start + crops].permute(1, 2, 0)  # [blocks, 2, crops]
        by_token.append(group.repeat_interleave(tokens, dim=-1))
        start += crops
    spread = torch.cat(by_token, dim=-1).unsqueeze(-1)
    return [spread[block] if rate > 0 else None for block, rate in enumerate(rates)]


@lru_cache(maxsize=16)
def _compared(rates: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The least words, cut to _BITS, with which a branch stays, and what it is multiplied by then, [blocks, 1] each."""
    limits = torch.tensor([round(rate * 2**_BITS) for rate in rates], device=device)
    factors = torch.tensor([1 / (1 - rate) for rate in rates], device=device)
    return limits[:, None], factors[:, None]
