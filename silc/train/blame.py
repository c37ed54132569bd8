"""Whose fault a step is that was not finite: some samples, the student's or the teacher's weights, the center, scale or
bias, a loss, or a gradient; on which ranks; and what to do about it.

A value that is not finite spreads to whatever is computed from it, on all ranks. So each rank looks at what the step
began with first, then at what it computed, in the order of the computation, and the first one found is the cause.
Nothing here runs in a good step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from silc.data.batch import Batch
from silc.distributed import all_gather_objects
from silc.text import plural
from silc.train.state import TrainState

_SHOWN = 8  # keys, or ranks, in a message
_LONGEST = 80  # characters of a key there
_AGAIN = "resume from a checkpoint before it (train.resume=PATH), with a lower optim.lr if it comes again"
_MACHINE = "if it is the same rank again, its device or memory is faulty: leave that machine out"


@dataclass(frozen=True)
class Fault:
    """What made a step not finite; the same on every rank.

    Attributes:
        owner: student, teacher, center, scale, samples, features, loss or gradient.
        ranks: where; none named where all ranks hold the same sum.
        words: what is not finite, and where.
        way_out: what to do about it.
        keys: of samples: those to blame; where no state is to blame, every one of the batch.
    """

    owner: str
    ranks: list[int]
    words: str
    way_out: str
    keys: list[str] = field(default_factory=list)

    def shown_keys(self) -> str:
        """For the end of a line: the first keys; empty where there are none."""
        more = len(self.keys) - _SHOWN
        first = [key if len(key) <= _LONGEST else f"...{key[-_LONGEST:]}" for key in self.keys[:_SHOWN]]
        named = f"{', '.join(first)}{f' and {more} more' if more > 0 else ''}"
        return f"; samples: {named}" if named else ""

    def record(self) -> dict[str, Any]:
        """For skipped_steps.jsonl."""
        return {"owner": self.owner, "ranks": self.ranks, "what": self.words, "keys": self.keys}


@dataclass
class Found:
    """What one rank found not finite.

    masters, working, teacher, scale, losses: names. gradients: names with their places in the model. keys: samples with
    features of their own that are not finite. samples: of the rank's share.
    """

    masters: list[str] = field(default_factory=list)
    working: list[str] = field(default_factory=list)
    teacher: list[str] = field(default_factory=list)
    center: bool = False
    scale: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    samples: int = 0
    losses: list[str] = field(default_factory=list)
    gradients: list[tuple[int, str]] = field(default_factory=list)

    @property
    def of_state(self) -> bool:
        """Whether something is not finite that the step began with."""
        return bool(self.masters or self.working or self.teacher or self.center or self.scale)


def blame(
    state: TrainState,
    micros: list[Batch],
    features: list[Tensor],
    losses: dict[str, Tensor],
    *,
    distill: bool,
) -> Fault:
    """Whose fault it is (collective).

    micros: this rank's micro-batches. features: of each, the values [n, D] that its samples had alone, on this rank.
    losses: of this rank, by name, and what their gradients sum up to. distill: is the distillation loss on.
    """
    found = look_at_state(state, distill=distill)
    found.samples = sum(len(micro) for micro in micros)
    if not any(other.of_state for other in all_gather_objects(found)):
        found.keys = _of_samples(micros, features)
        if distill and micros[0].small is not None and not any(all_gather_objects(bool(found.keys))):
            # A local crop leaves no feature behind, only its part of the loss: look at those again.
            with torch.no_grad():
                local = [state.engine.forward(micro.small, None, None)[0].flatten(1) for micro in micros]
            found.keys = _of_samples(micros, local)
        found.losses = not_finite(losses.items())
        found.gradients = state.engine.not_finite
    keys = [key for micro in micros for key in micro.keys]
    return judge(
        all_gather_objects(found), [key for each in all_gather_objects(keys) for key in each], state.counters.step
    )


def look_at_state(state: TrainState, *, distill: bool) -> Found:
    """What is not finite of this rank's weights, teacher, center, scale and bias."""
    teacher = state.teacher if distill else None
    return Found(
        masters=not_finite((part.name, part.read()) for part in state.engine.fragments()),
        working=not_finite(state.engine.working()),
        teacher=[] if teacher is None else not_finite(teacher.values()),
        center=teacher is not None and bool(not_finite([("center", state.center)])),
        scale=not_finite(state.scale.named_parameters()),
    )


def judge(ranks: list[Found], keys: list[str], step: int) -> Fault:
    """The fault, from what every rank found. keys: of the whole batch. step: the last one that was applied."""
    for look in (_student, _teacher, _center, _scale, _samples, _loss, _gradient):
        fault = look(ranks, step)
        if fault is not None:
            in_batch = fault.owner in ("loss", "gradient", "features")
            return Fault(fault.owner, fault.ranks, fault.words, fault.way_out, keys if in_batch else fault.keys)
    words = "a loss or a gradient was not finite, although everything that it came from is"
    return Fault("gradient", [], words, "a device may be faulty: resume with train.resume=auto if it comes again", keys)


def _student(ranks: list[Found], step: int) -> Fault | None:
    masters = _where(ranks, lambda found: bool(found.masters))
    if masters:
        what = _listed([name for found in ranks for name in found.masters])
        words = f"the student's weights are not finite since step {step}: {what}{_on(masters, ranks)}"
        return Fault("student", masters, words, _AGAIN)
    working = _where(ranks, lambda found: bool(found.working))
    if not working:
        return None
    what = _listed([name for found in ranks for name in found.working])
    words = f"the working copy of the student's weights is not finite since step {step}: {what}{_on(working, ranks)}"
    return Fault(
        "student", working, f"{words}; its fp32 weights are finite", f"resume with train.resume=auto; {_MACHINE}"
    )


def _teacher(ranks: list[Found], step: int) -> Fault | None:
    where = _where(ranks, lambda found: bool(found.teacher))
    if not where:
        return None
    what = _listed([name for found in ranks for name in found.teacher])
    words = f"the teacher's weights are not finite since step {step}: {what}{_on(where, ranks)}"
    return Fault("teacher", where, words, f"{_AGAIN}; {_MACHINE}")


def _center(ranks: list[Found], step: int) -> Fault | None:
    where = _where(ranks, lambda found: found.center)
    words = f"the center of the teacher's outputs is not finite since step {step}{_on(where, ranks)}"
    return Fault("center", where, words, f"{_AGAIN}; {_MACHINE}") if where else None


def _scale(ranks: list[Found], step: int) -> Fault | None:
    where = _where(ranks, lambda found: bool(found.scale))
    if not where:
        return None
    names = dict.fromkeys(name for found in ranks for name in found.scale)
    words = f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not finite since step {step}"
    way = f"{_AGAIN.replace('optim.lr', 'optim.scale_lr')}; {_MACHINE}"
    return Fault("scale", where, f"{words}{_on(where, ranks)}", way)


def _samples(ranks: list[Found], step: int) -> Fault | None:
    where = _where(ranks, lambda found: bool(found.keys))
    if not where:
        return None
    keys = [key for found in ranks for key in found.keys]
    whole = all(len(ranks[rank].keys) == ranks[rank].samples > 1 for rank in where)
    if whole and len(where) == len(ranks):
        words = "the features of every sample are not finite, although the weights are"
        way = f"look at these samples, or, if other batches are bad too, the weights have grown too large: {_AGAIN}"
        return Fault("features", where, words, way)
    if whole:
        words = f"the features of every sample{_on(where, ranks)} are not finite, and of none elsewhere"
        return Fault("samples", where, words, f"look at these samples; {_MACHINE}", keys)
    words = f"the features of {plural(len(keys), 'sample')} are not finite{_on(where, ranks)}"
    return Fault("samples", where, words, "look at these samples, and leave them out of the shards", keys)


def _loss(ranks: list[Found], step: int) -> Fault | None:
    where = _where(ranks, lambda found: bool(found.losses))
    if not where:
        return None
    what = ", ".join(dict.fromkeys(name for found in ranks for name in found.losses))
    words = f"{what:.200}: not finite{_on(where, ranks)}, although the features are"
    way = "lower optim.lr and optim.scale_lr, or resume from an earlier checkpoint (train.resume=PATH)"
    return Fault("loss", where, words, way)


def _gradient(ranks: list[Found], step: int) -> Fault | None:
    names = {name for found in ranks for name in found.gradients}
    if not names:
        return None
    # Backward runs from the end of the model, and what is not finite goes on to all that it computes from there.
    more = f" first, of {len(names)} parameters" if len(names) > 1 else ""
    words = f"the losses are finite, the gradient is not: that of {max(names)[1]}{more}"
    return Fault("gradient", [], words, "lower optim.lr, or resume from an earlier checkpoint (train.resume=PATH)")


def not_finite(values: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the values that are not finite, each once."""
    return list(dict.fromkeys(name for name, value in values if not bool(value.detach().isfinite().all())))


def _of_samples(micros: list[Batch], features: list[Tensor]) -> list[str]:
    """Keys of this rank's samples with a value in [n, D] that is not finite."""
    finite = torch.cat(features).isfinite().all(1).tolist()
    keys = [key for micro in micros for key in micro.keys]
    return [key for key, good in zip(keys, finite, strict=True) if not good]


def _where(ranks: list[Found], bad: Callable[[Found], bool]) -> list[int]:
    return [rank for rank, found in enumerate(ranks) if bad(found)]


def _on(where: list[int], ranks: list[Found]) -> str:
    """On which ranks, where there are several."""
    if len(ranks) == 1:
        return ""
    if len(where) == len(ranks):
        return " on every rank"
    more = f" and {len(where) - _SHOWN} more" if len(where) > _SHOWN else ""
    return f" on {'rank' if len(where) == 1 else 'ranks'} {', '.join(map(str, where[:_SHOWN]))}{more}"


def _listed(names: list[str]) -> str:
    """The first name, and how many more there are."""
    first, *more = dict.fromkeys(names)
    return f"{first} and {len(more)} more" if more else first
