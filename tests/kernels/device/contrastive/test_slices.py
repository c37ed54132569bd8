"""Slices of several ranks' features: a last, narrower one has tiles of another shape. Ranks are simulated by one."""

import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.kernels.simulated_ranks import among
from silc_kernels import contrastive_loss
from silc_kernels.contrastive import triton_tiles
from tests.kernels.device.conftest import INTERPRET

# Of a tile: some of the last slice's tiles then have more programs than any of the first one's.
ELEMENTS = 8192 if INTERPRET else 1 << 15


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("plan", ["reduce_scatter", "recompute"])
@pytest.mark.parametrize(("views", "n", "ranks", "chunk"), [(2, 69, 2, 64), (3, 37, 4, 32), (1, 150, 2, 256)])
def test_a_last_narrow_slice_is_summed_as_all_others(monkeypatch, device, kind, plan, views, n, ranks, chunk):
    monkeypatch.setattr(triton_tiles.TritonTiles, "elements", ELEMENTS)
    generator = torch.Generator().manual_seed(0)
    features = [normalize(torch.randn(*shape, 16, generator=generator), dim=-1) for shape in ((views, n), (n,))]

    def solved(backend):
        inputs = [tensor.clone().to(device) for tensor in (*features, torch.tensor([10.0]), torch.tensor([-3.0]))]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        with among(ranks):
            loss = contrastive_loss(*inputs, kind=kind, plan=plan, chunk=chunk, backend=backend)
        loss.backward()
        return [loss.detach(), *(each.grad for each in inputs)]

    for found, expected in zip(solved("triton"), solved("torch"), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-6)
