"""The call of a rank as whole numbers, compared between the ranks of a group: all must make the same call.

Every call of every rank sends its numbers, so that collectives match whoever waits. On a CPU each call waits for those
of the others. On CUDA the host would wait for all that was sent before on that communicator, and stop running ahead of
the device. So there a rank that repeats the call that all agreed on last goes on, and reads what arrives behind it at
its next calls; a rank whose call is another one waits. A difference means that some rank's call is another one: that
rank raises the error at once, with all values. The others have by then begun a step that it leaves; they raise the same
error at their next call, if the group's timeout has not ended them before. The group is of no more use then.
"""

import functools
import socket
import weakref
import zlib
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.checks import FLOATS
from ..common.collectives import Numbers, Ranks

PLANS = ("auto", "reduce_scatter", "recompute")


class Call(NamedTuple):
    """What is asked of the operator, in whole numbers.

    One argument: each of its own would make every call some 10 us longer, which the loss of a small batch feels.

    Attributes:
        plan: index into PLANS.
        image_wanted, text_wanted, scale_wanted: whether they get a gradient.
    """

    softmax: int
    plan: int
    chunk: int
    image_wanted: int
    text_wanted: int
    scale_wanted: int


class RankCall(NamedTuple):
    """What each rank sends to the others: as many numbers whatever the call, so that they always arrive."""

    node: int
    views: int
    pairs: int
    width: int
    image_dtype: int
    text_dtype: int
    call: Call

    @classmethod
    def of(cls, image: Tensor, text: Tensor, call: Call) -> "RankCall":
        """image [V, n, d] or [n, d], text [n, d]."""
        pairs, width = text.shape
        views = image.shape[0] if image.dim() == 3 else 1
        return cls(node(), views, pairs, width, FLOATS.index(image.dtype), FLOATS.index(text.dtype), call)

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> "RankCall":
        machine, views, pairs, width, image_dtype, text_dtype, *call = numbers
        return cls(machine, views, pairs, width, image_dtype, text_dtype, Call(*call))

    def numbers(self) -> list[int]:
        return [*self[:6], *self.call]

    def by_name(self) -> dict[str, object]:
        """Everything that must be the same on all ranks, as the user wrote it."""
        call = self.call
        wanted = {"image": call.image_wanted, "text": call.text_wanted, "logit_scale": call.scale_wanted}
        return {
            "image [V, n, d]": [self.views, self.pairs, self.width],
            "dtype of image": str(FLOATS[self.image_dtype]),
            "dtype of text": str(FLOATS[self.text_dtype]),
            "kind": "softmax" if call.softmax else "sigmoid",
            "plan": PLANS[call.plan],
            "chunk": call.chunk,
            "gradients wanted": [name for name, flag in wanted.items() if flag],
        }


class Agreement:
    """What the ranks of a group agreed on last, and what has been sent since and not yet been looked at."""

    def __init__(self) -> None:
        self._last: RankCall | None = None
        self._recompute = False
        self._unseen: deque[Numbers] = deque()

    def recompute(self, ranks: Ranks, own: RankCall, device: torch.device) -> bool:
        """Sends `own` and compares; as the function below."""
        if capturing(device):
            return self._while_capturing(ranks, own)
        self._look(ranks, wait=False)
        self._unseen.append(ranks.start_numbers(own.numbers(), device))
        if own != self._last or not defers(device):
            self._last = None  # whatever is raised: the next call waits too
            sent = self._look(ranks, wait=True)
            self._last, self._recompute = own, _plan(sent, own.call)
        return self._recompute

    def _look(self, ranks: Ranks, wait: bool) -> list[RankCall]:
        """The last of what has arrived, or of all, compared."""
        sent: list[RankCall] = []
        while self._unseen and (wait or self._unseen[0].ready()):
            sent = [RankCall.from_numbers(numbers) for numbers in self._unseen.popleft().read()]
            if any(one[1:] != sent[0][1:] for one in sent):  # all but the node
                self._unseen.clear()
                self._last = None
                raise ValueError(f"{ranks.op}: {_difference(sent)}")
        return sent

    def _while_capturing(self, ranks: Ranks, own: RankCall) -> bool:
        """A CUDA graph can hold no wait, and what it would compare at each replay is what is captured now."""
        plan = PLANS[own.call.plan]
        if plan == "auto" and own != self._last:
            raise ValueError(
                f'{ranks.op}: plan "auto" asks the other ranks, which a CUDA graph cannot; make the same call once '
                'before the capture, or give plan "reduce_scatter" or "recompute"'
            )
        return self._recompute if plan == "auto" else plan == "recompute"


_AGREEMENTS: weakref.WeakKeyDictionary[object, Agreement] = weakref.WeakKeyDictionary()


def recompute(ranks: Ranks, image: Tensor, text: Tensor, call: Call) -> bool:
    """Whether `call` means the plan "recompute": one answer for all ranks, from what all have sent.

    Raises:
        ValueError: the ranks' calls differ; with what differs and all values. On every rank, but see above for CUDA.
    """
    if ranks.size == 1:
        return False
    return _agreement(ranks).recompute(ranks, RankCall.of(image, text, call), image.device)


def _agreement(ranks: Ranks) -> Agreement:
    group = ranks.group or torch.distributed.group.WORLD
    return Agreement() if group is None else _AGREEMENTS.setdefault(group, Agreement())


def defers(device: torch.device) -> bool:
    """Whether a repeated call goes on before its comparison has arrived."""
    return device.type == "cuda"


def capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _plan(sent: list[RankCall], call: Call) -> bool:
    if PLANS[call.plan] == "auto":
        return len({one.node for one in sent}) > 1
    return PLANS[call.plan] == "recompute"


def _difference(sent: list[RankCall]) -> str:
    by_name = [one.by_name() for one in sent]
    differing = [name for name in by_name[0] if any(one[name] != by_name[0][name] for one in by_name)]
    values = "; ".join(f"{name} {[one[name] for one in by_name]}" for name in differing)
    return (
        f"the ranks made different calls (values by rank): {values}. Make the same call on every rank, with the same "
        "number of pairs, for instance by dropping the last incomplete batch"
    )


@functools.cache
def node() -> int:
    """A number of this machine: its name's, which no launcher has to pass on. Equal names only cost speed."""
    return zlib.crc32(socket.gethostname().encode())
