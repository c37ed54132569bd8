"""Calls that the kernels of one op refuse, each with its reason; the dispatcher then takes the torch backend."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .triton_runtime import INTERPRET

# Statistics of a sample's teachers stay in the registers of a lane.
MOST_TEACHERS = 8
# Sums [rows, width] stay in the registers of a program.
WIDEST = 256
# A line of a patch is the least a tile of pixels holds: longer ones do not fit shared memory.
LONGEST_PATCH = 64
# A blur reflects once at most: a line must be longer than half of its taps.
SHORTEST_LINE = 7


def _crop_resize(out: Tensor, _: Tensor, regions: Tensor) -> str:
    size = out.shape[-1]
    values = 3 * size * max(size, int(regions[:, 2].max()))
    return "" if values < 2**31 else f"the kernels count values of a view in 32 bits, and there are {values}"


def _distill_loss(student_logits: Tensor, teacher_logits: Tensor, center: Tensor) -> str:
    views = teacher_logits.shape[0]
    return "" if views <= MOST_TEACHERS else f"the kernels take up to {MOST_TEACHERS} teacher views, not {views}"


def _distill_head_loss(student: Tensor, *others: Tensor) -> str:
    width = student.shape[-1]
    if width > WIDEST:
        return f"the kernels take features up to {WIDEST} wide, not {width}"
    *features, _ = (tensor.dtype for tensor in (student, *others))
    if functools.reduce(torch.promote_types, features) == torch.float32 and not INTERPRET:
        # Plain torch has the vendor's products; a kernel's own would be slower than any of them.
        return "the kernels multiply all in bfloat16 or all in float16; float32 products have no tensor cores"
    return ""


def _patch_embed(weight: Tensor, *_: Tensor) -> str:
    patch = weight.shape[-1]
    return "" if patch <= LONGEST_PATCH else f"the kernels take patches of up to {LONGEST_PATCH} pixels, not {patch}"


def _photometric(views: Tensor, *_: Tensor) -> str:
    side = min(views.shape[-2:])
    return (
        "" if side >= SHORTEST_LINE else f"the kernels take views of {SHORTEST_LINE} pixels a side or more, not {side}"
    )


# op -> (its tensors) -> why not; empty: they are taken
LIMITS: dict[str, Callable[..., str]] = {
    "crop_resize": _crop_resize,
    "distill_loss": _distill_loss,
    "distill_head_loss": _distill_head_loss,
    "patch_embed": _patch_embed,
    "photometric": _photometric,
}
