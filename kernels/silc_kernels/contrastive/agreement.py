"""The call of a rank as whole numbers, compared between the ranks of a group: all must make the same call."""

import functools
import socket
import zlib
from typing import NamedTuple

from torch import Tensor

from ..common.checks import FLOATS
from ..common.collectives import Ranks

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


def recompute(ranks: Ranks, image: Tensor, text: Tensor, call: Call) -> bool:
    """Whether `call` means the plan "recompute": one answer for all ranks, from what all have sent.

    Raises:
        ValueError: the ranks' calls differ; on every rank, with what differs and all values.
    """
    if ranks.size == 1:
        return False
    gathered = ranks.all_gather_numbers(RankCall.of(image, text, call).numbers(), image.device)
    sent = [RankCall.from_numbers(numbers) for numbers in gathered]
    if any(one[1:] != sent[0][1:] for one in sent):  # all but the node
        by_name = [one.by_name() for one in sent]
        differing = [name for name in by_name[0] if any(one[name] != by_name[0][name] for one in by_name)]
        values = "; ".join(f"{name} {[one[name] for one in by_name]}" for name in differing)
        raise ValueError(
            f"{ranks.op}: the ranks made different calls (values by rank): {values}. Make the same call on every rank, "
            "with the same number of pairs, for instance by dropping the last incomplete batch"
        )
    if PLANS[call.plan] == "auto":
        return len({one.node for one in sent}) > 1
    return PLANS[call.plan] == "recompute"


@functools.cache
def node() -> int:
    """A number of this machine: its name's, which no launcher has to pass on. Equal names only cost speed."""
    return zlib.crc32(socket.gethostname().encode())
