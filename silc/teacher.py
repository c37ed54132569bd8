"""The EMA teacher, right in every ZeRO stage and without a collective for its arithmetic.

    F_T <- lambda F_T + (1 - lambda) F        arXiv 2310.13355; lambda is fixed over training

The average is kept in fp32 and read from the student's fp32 *master* weights: a bf16 average does not move at momentum
>= 0.996 (the update is below half a unit in the last place), and a bf16 copy of the weights is not what the optimiser
updates. Under ZeRO each rank holds the masters of its own fragments only, so each rank averages just those (1/N of the
memory, no communication) and then one all-gather refreshes the working copy, in the precision of the forward pass. In
fp32 the fragments are views of the working copy, which costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from silc.config import Config
from silc.distributed import all_gather_objects
from silc.model.head import PrototypeHead
from silc.model.silc import compile_blocks
from silc.model.vision import Pixels, VisionTower


@dataclass(frozen=True)
class Fragment:
    """The part of one student parameter whose fp32 master this rank holds."""

    name: str
    start: int  # offset in the flattened parameter
    numel: int
    read: Callable[[], Tensor]  # the fp32 master's values, flat [numel]


class EmaTeacher(nn.Module):
    """Working copy of the student's vision tower and head, with its fp32 average.

    vision: None for a head-only EMA, where the student's own features are used. head: None without distillation, where
    the average trains nothing. fragments: those of this rank, of all
    parameters; the ones named `visual.*` and `head.*` are followed. dtype: of the forward pass.
    """

    def __init__(
        self,
        vision: VisionTower | None,
        head: PrototypeHead | None,
        fragments: list[Fragment],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.visual, self.head = vision, head
        self.requires_grad_(False).eval().to(device=device, dtype=dtype)
        working = dict(self.named_parameters())
        self._fragments = [f for f in fragments if f.name in working]
        self._layout = _Layout(working, [(f.name, f.start, f.numel) for f in self._fragments])
        views = self._layout.own_views()
        self._average = views if dtype == torch.float32 else [v.float() for v in views]
        self.update(momentum=0.0)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Move the average towards the student's masters; 0 copies them.

        Call on every rank, after a step that was applied.
        """
        masters = [f.read() for f in self._fragments]
        if masters and momentum == 0.0:
            torch._foreach_copy_(self._average, masters)  # not a lerp: what is not yet initialised may be NaN
        elif masters:
            torch._foreach_lerp_(self._average, masters, 1.0 - momentum)
        self._refresh()

    @torch.no_grad()
    def bottleneck(self, globals_: Tensor) -> Tensor:
        """Features of the global crops before the last layer: uint8 [B, T, 3, R, R] -> L2-normalised [T, B, d]."""
        assert self.visual is not None, "a head-only EMA has no tower of its own"
        batch, views = globals_.shape[:2]
        (pooled,) = self.visual([globals_.flatten(0, 1)])
        return self.from_features(pooled.view(batch, views, -1))

    @torch.no_grad()
    def from_features(self, features: Tensor) -> Tensor:
        """Pooled features [B, T, D] -> bottleneck features [T, B, d]."""
        return self.distilled_head.bottleneck(features.detach().transpose(0, 1))

    @property
    def distilled_head(self) -> PrototypeHead:
        """The head, where there is distillation."""
        assert self.head is not None, "without distillation there is no head"
        return self.head

    @torch.no_grad()
    def average(self) -> dict[str, Tensor]:
        """The whole fp32 average by name, on every rank (one all-gather; for saving and tests)."""
        whole = {
            name: torch.empty(p.shape, dtype=torch.float32, device=p.device) for name, p in self.named_parameters()
        }
        self._layout.gather(self._average, whole)
        return whole

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's parts of the average, then the whole working copy, by name: to look at."""
        yield from ((fragment.name, mine) for fragment, mine in zip(self._fragments, self._average, strict=True))
        yield from self.named_parameters()

    @torch.no_grad()
    def load_average(self, whole: dict[str, Tensor]) -> None:
        """Take an average saved by :meth:`average`. Raises ValueError naming what is missing or of another shape."""
        for name, parameter in self.named_parameters():
            if name not in whole or whole[name].shape != parameter.shape:
                found = tuple(whole[name].shape) if name in whole else "nothing"
                raise ValueError(f"teacher: {name} needs shape {tuple(parameter.shape)}, the checkpoint has {found}")
        for mine, fragment in zip(self._average, self._fragments, strict=True):
            source = whole[fragment.name].flatten()[fragment.start : fragment.start + fragment.numel]
            mine.copy_(source)
        self._refresh()

    def _refresh(self) -> None:
        self._layout.gather(self._average, dict(self.named_parameters()))


def build_teacher(
    config: Config, fragments: list[Fragment], *, dtype: torch.dtype, device: torch.device
) -> EmaTeacher | None:
    """The teacher of a run, equal to the student's masters; None without distillation and objective.ema."""
    if not config.has_teacher:
        return None
    vision = None
    if not config.objective.head_only_ema:
        vision = VisionTower(
            config.model.vision,
            attention=config.model.attention,
            checkpoint_activations=False,
            pixels=Pixels.of(config),
        )
    head = PrototypeHead(config.model.vision.width, config.model.head) if config.objective.distill else None
    teacher = EmaTeacher(vision, head, fragments, dtype=dtype, device=device)
    if config.model.compile:
        compile_blocks(teacher)
    return teacher


class _Layout:
    """Who holds which part of the working parameters, and the all-gather that makes them whole."""

    def __init__(self, working: dict[str, nn.Parameter], own: list[tuple[str, int, int]]) -> None:
        self._working = working
        self._own = own
        self._ranks = all_gather_objects(own)
        held = sum(numel for rank in self._ranks for _, _, numel in rank)
        total = sum(p.numel() for p in working.values())
        assert held == total, f"fragments cover {held} of {total} elements"

    def own_views(self) -> list[Tensor]:
        """Views of this rank's parts in the working copy."""
        return list(self._views(self._own, self._working))

    def gather(self, own: list[Tensor], into: Mapping[str, Tensor]) -> None:
        """Write every rank's parts (this rank's are `own`) into the flattened tensors `into`, in their dtype."""
        if len(self._ranks) == 1:
            _copy(list(self._views(self._own, into)), own)
            return
        sample = next(iter(into.values()))
        longest = max(sum(numel for _, _, numel in rank) for rank in self._ranks)
        send = torch.zeros(longest, dtype=sample.dtype, device=sample.device)
        _copy(list(_cut(send, self._own)), own)
        received = torch.empty(len(self._ranks) * longest, dtype=sample.dtype, device=sample.device)
        dist.all_gather_into_tensor(received, send)
        for parts, piece in zip(self._ranks, received.split(longest), strict=True):
            _copy(list(self._views(parts, into)), list(_cut(piece, parts)))

    @staticmethod
    def _views(parts: list[tuple[str, int, int]], tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
        for name, start, numel in parts:
            yield tensors[name].detach().view(-1).narrow(0, start, numel)


def _cut(flat: Tensor, parts: list[tuple[str, int, int]]) -> Iterator[Tensor]:
    offset = 0
    for _, _, numel in parts:
        yield flat.narrow(0, offset, numel)
        offset += numel


def _copy(into: list[Tensor], source: list[Tensor]) -> None:
    if into and any(a.data_ptr() != b.data_ptr() for a, b in zip(into, source, strict=True)):
        torch._foreach_copy_(into, source)
