"""The tolerance rule of the kernels: no worse than twice plain torch in the same dtype, both against float64."""

import torch
from torch import Tensor

# Of float32: where plain torch happens to be exact, a kernel may still round.
FLOOR = 2e-6


def assert_as_good_as(
    actual: Tensor, reference: Tensor, exact: Tensor, what: str, floor: float = FLOOR, terms: Tensor | None = None
) -> None:
    """Errors of `actual` against `exact` (float64), by norm and by maximum, at most twice those of `reference`.

    floor: is added, relative to the norm or the maximum of `terms`: `exact`, or what `exact` is a small difference of.
    """
    terms = exact if terms is None else terms.detach().cpu().double()
    actual, reference, exact = (tensor.detach().cpu().double() for tensor in (actual, reference, exact))
    assert actual.shape == exact.shape, f"{what}: shape {list(actual.shape)}, expected {list(exact.shape)}"
    assert actual.isfinite().all(), f"{what}: {int((~actual.isfinite()).sum())} values are not finite"
    for name, size in (("norm", torch.linalg.vector_norm), ("maximum", lambda x: x.abs().max())):
        error, allowed = float(size(actual - exact)), 2 * float(size(reference - exact)) + floor * float(size(terms))
        assert error <= allowed, f"{what}: error by {name} {error:.3e}, allowed {allowed:.3e}"
