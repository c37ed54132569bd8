"""Kernels of patch_embed as calls of many shapes compile them: nothing spilled, nothing overwritten, nothing in turn.

The compile gate builds what its table names; here the calls decide, by way of the driver without a GPU.
"""

import pytest
import torch

from silc_kernels import patch_embed
from silc_kernels.gate.dry import dry, rows
from silc_kernels.patch_embedding.triton_launch import padded

HALF = (0.5, 0.5, 0.5)


def pixels(count: int, height: int, width: int) -> torch.Tensor:
    return torch.zeros(count, 3, height, width, dtype=torch.uint8)


# crops, patch, width, prefix tokens
CALLS = {
    "one token of one channel": ([pixels(1, 16, 16)], 16, 1, 0),
    "a width that 16 does not divide": ([pixels(4, 256, 256), pixels(2, 96, 96)], 16, 772, 1),
    "patches of 7": ([pixels(4, 63, 63)], 7, 100, 3),
    "patches of 64": ([pixels(1, 256, 256)], 64, 768, 0),
    "channels_last": ([pixels(4, 256, 256).contiguous(memory_format=torch.channels_last)], 16, 768, 0),
    "lines off any boundary": ([pixels(2, 256, 272)[..., 1:257]], 16, 768, 0),
    "floats": ([torch.zeros(4, 3, 224, 224)], 14, 768, 0),
}


@pytest.mark.parametrize("call", CALLS)
def test_nothing_spills_at_sizes_that_the_gate_does_not_name(call):
    crops, patch, width, before = CALLS[call]
    grids = [(crop.shape[2] // patch) * (crop.shape[3] // patch) for crop in crops]
    shapes = ((width, 3, patch, patch), (width,), *((count, width) for count in grids))
    weight, bias, *tables = (torch.zeros(shape, requires_grad=True) for shape in shapes)
    prefix = torch.zeros(before, width, requires_grad=True) if before else None
    with dry(90) as run:
        statistics = {"mean": HALF, "std": HALF}
        packed = patch_embed(crops, weight, bias, tables, **statistics, prefix=prefix, out_dtype=torch.bfloat16)
        packed.backward(torch.zeros_like(packed))
        found = rows(run.launches, 90)
    assert not run.problems
    assert {row.name for row in found} >= {"fold", "unfold"}
    for row in found:
        assert (row.spill_bytes, row.hazards, row.serialized) == (0, 0, False), row
        assert row.wgmma == (row.name not in ("fold", "unfold")), row


def test_other_sizes_do_not_compile_other_kernels():
    """Counts that are 1, or multiples of 16, are not looked at: what is seen once is what runs."""
    with dry(90) as run:
        for count, side in ((1, 16), (16, 32), (3, 48)):
            weight, table = torch.zeros(32, 3, 16, 16), torch.zeros((side // 16) ** 2, 32)
            for before in (0, 1, 16):
                prefix = torch.zeros(before, 32) if before else None
                crops = [pixels(count, side, side)]
                patch_embed(
                    crops, weight, table[0], [table], mean=HALF, std=HALF, prefix=prefix, out_dtype=torch.bfloat16
                )
    assert len({launch.compiled.hash for launch in run.launches if launch.kernel == "project"}) == 1


@pytest.mark.parametrize("width", [1, 15, 16, 17, 768, 772])
def test_widths_are_padded_to_multiples_of_16(width):
    assert padded(width) % 16 == 0
    assert 0 <= padded(width) - width < 16
