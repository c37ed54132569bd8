"""What a CUDA graph can hold, as far as it shows without a GPU: no wait for the device, no copy from the host's memory.

Kernels are compiled and dropped; values are garbage.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from silc_kernels import contrastive_loss
from silc_kernels.common.collectives import Ranks
from silc_kernels.contrastive.passes import Options, Similarities
from silc_kernels.contrastive.triton_tiles import TritonTiles
from silc_kernels.gate.dry import dry

# Each makes the host wait for the device, or for a copy from memory that is not pinned.
FORBIDDEN = (
    "_local_scalar_dense",
    "nonzero",
    "lift_fresh",
    "is_nonzero",
    "equal",
    "masked_select",
    "unique",
    "_pin_memory",
)


class HoldsInAGraph(TorchDispatchMode):
    """Fails at the first call that a CUDA graph could not hold."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(FORBIDDEN), f"{func} cannot be captured"
        return func(*args, **kwargs or {})


def leaves(views, n=70, d=24):
    features = torch.randn(views, n, d, dtype=torch.bfloat16), torch.randn(n, d, dtype=torch.bfloat16)
    return [x.requires_grad_() for x in (*features, torch.tensor([9.0]), torch.tensor([-4.0]))]


def test_the_instrument_sees_a_wait():
    for wait in (lambda x: x.item(), lambda x: bool(x > 0), torch.nonzero, lambda x: torch.tensor([1.0]) + x):
        with pytest.raises(AssertionError, match="cannot be captured"), HoldsInAGraph():
            wait(torch.ones(1))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("elements", [1 << 24, 640])
def test_a_loss_and_its_gradients_can_be_captured(kind, views, elements, monkeypatch):
    """elements: one tile of G, or many. Not through the operator at first: what happens inside one is not seen."""
    monkeypatch.setattr(TritonTiles, "elements", elements)
    inputs = leaves(views)
    options = Options(kind == "softmax", Ranks.of("contrastive_loss", None), False, 4096, True, True, True)
    with dry(90, checked=False):
        with HoldsInAGraph(), torch.no_grad():
            Similarities(*inputs, options, TritonTiles).solve()
        loss = contrastive_loss(*inputs, kind=kind)
        with HoldsInAGraph():
            loss.backward()
    assert all(x.grad is not None for x in inputs)
