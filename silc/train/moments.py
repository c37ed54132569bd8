"""Masters and Adam's moments on disk, so that any number of ranks in any ZeRO stage takes up what another left.

    engine/moments_00000.safetensors      of rank 0: `exp_avg/NAME` and `exp_avg_sq/NAME`, fp32, flat: the part of each
                                          parameter that this rank held
        its metadata                      step of the optimiser, and the offset of each part in its flattened parameter

Each rank writes what it holds, and reads the parts that it needs from whichever files have them. The masters, which
others want whole, are in student.safetensors. Nothing here is a pickle.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from silc.files import check_regular

MOMENTS = ("exp_avg", "exp_avg_sq")
FILES = "moments_*.safetensors"


@dataclass(frozen=True)
class Part:
    """The part of one parameter whose master and moments this rank holds.

    Attributes:
        name: of the parameter.
        start, numel: of the part, in the flattened parameter.
        master: a view of the fp32 master [numel].
        moment: from one of MOMENTS to a view of it [numel], once the optimiser has a state.
    """

    name: str
    start: int
    numel: int
    master: Callable[[], Tensor]
    moment: Callable[[str], Tensor]


@dataclass(frozen=True)
class Moments:
    """What one rank writes: tensors fp32 [numel] by `MOMENT/NAME`, on the CPU; and the metadata of its file."""

    rank: int
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @classmethod
    def of(cls, rank: int, parts: list[Part], step: int, *, copied: bool) -> Moments:
        """Of this rank's parts. copied: the tensors are not changed by the steps that follow."""
        tensors = {
            f"{moment}/{part.name}": on_cpu(part.moment(moment), copied=copied) for part in parts for moment in MOMENTS
        }
        offsets = {part.name: part.start for part in parts}
        return cls(rank, tensors, {"step": str(step), "offsets": json.dumps(offsets)})

    @property
    def name(self) -> str:
        """Of this rank's file."""
        return f"moments_{self.rank:05d}.safetensors"

    def serialized(self) -> bytes:
        """The content of this rank's file."""
        return save(self.tensors, self.metadata)


def on_cpu(tensor: Tensor, *, copied: bool) -> Tensor:
    """A tensor's fp32 values on the CPU, contiguous. copied: in memory of their own, not in the tensor's."""
    found = tensor.detach().float().cpu().contiguous()
    return found.clone() if copied and found.data_ptr() == tensor.data_ptr() else found


def load_moments(folder: Path, parts: list[Part]) -> int:
    """Fill this rank's parts from the files below `folder`, whichever ranks wrote them. Returns the optimiser's step.

    Raises ValueError for files that are damaged, contradict each other or lack a part.
    """
    with ExitStack() as stack:
        try:
            files = [_Moments(path, stack) for path in sorted(folder.glob(FILES))]
            steps = {file.step for file in files}
            if len(steps) != 1:
                raise ValueError(f"steps {sorted(steps)} in {len(files)} files" if files else f"there is no {FILES}")
            held: dict[str, list[_Moments]] = defaultdict(list)
            for file in files:
                for name in file.offsets:
                    held[name].append(file)
            for part in parts:
                for moment in MOMENTS:
                    _fill(part.moment(moment), part, moment, held[part.name])
        except OSError as error:
            raise ValueError(f"{folder} cannot be read ({error}); try again, or take an older checkpoint") from None
        except (SafetensorError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"{folder} is damaged ({str(error)[:200]}); take an older checkpoint") from None
    return steps.pop()


class _Moments:
    """One rank's file, opened."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        check_regular(path)
        self._file: Any = stack.enter_context(safe_open(path, "pt"))
        found = self._file.metadata() or {}
        self.step = int(found["step"])
        self.offsets = {str(name): int(start) for name, start in json.loads(found["offsets"]).items()}

    def overlap(self, part: Part, moment: str) -> Iterator[tuple[int, Tensor]]:
        """(offset in the part, values) of what this file has of it; nothing or one."""
        stored = self._file.get_slice(f"{moment}/{part.name}")
        first, (numel,) = self.offsets[part.name], stored.get_shape()
        start, stop = max(first, part.start), min(first + numel, part.start + part.numel)
        if start < stop:
            yield start - part.start, stored[start - first : stop - first]


def _fill(target: Tensor, part: Part, moment: str, files: list[_Moments]) -> None:
    """Every element of `target` once. Raises ValueError where the files leave a gap or overlap."""
    spans = sorted(
        ((at, values) for file in files for at, values in file.overlap(part, moment)), key=lambda one: one[0]
    )
    reached = 0
    for at, values in spans:
        if at != reached or values.dtype != torch.float32:
            raise ValueError(f"{moment} of {part.name} is not whole")
        target[at : at + len(values)].copy_(values)
        reached += len(values)
    if reached != part.numel:
        raise ValueError(f"{moment} of {part.name} is not whole")
