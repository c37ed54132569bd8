"""Calls that the kernels of one op refuse, each with its reason; the dispatcher then takes the reference."""

from collections.abc import Callable

from torch import Tensor

# Statistics of a sample's teachers stay in the registers of a lane.
MOST_TEACHERS = 8
# Sums [rows, width] stay in the registers of a program.
WIDEST = 256


def _distill_loss(student_logits: Tensor, teacher_logits: Tensor, center: Tensor) -> str:
    views = teacher_logits.shape[0]
    return "" if views <= MOST_TEACHERS else f"the kernels take up to {MOST_TEACHERS} teacher views, not {views}"


def _distill_head_loss(student: Tensor, *others: Tensor) -> str:
    width = student.shape[-1]
    return "" if width <= WIDEST else f"the kernels take features up to {WIDEST} wide, not {width}"


# op -> (its tensors) -> why not; empty: they are taken
LIMITS: dict[str, Callable[..., str]] = {"distill_loss": _distill_loss, "distill_head_loss": _distill_head_loss}
