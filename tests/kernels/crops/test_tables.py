"""What backends and kernels of crop_resize are told of each view: the same by plain numbers and by tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silc_kernels.crops import regions, triton_tables, weights
from silc_kernels.crops.triton_launch import LaunchConfig
from tests.kernels.crops.problems import MIXED
from tests.kernels.crops.test_crop_resize import cuts

CONFIG = LaunchConfig(8, 64, 4)


def found(given: torch.Tensor, size: int, form: str) -> list[triton_tables.Part]:
    return list(getattr(triton_tables, form)(given, size, CONFIG))


@settings(deadline=None, max_examples=50)
@given(cuts())
def test_regions_of_many_views_are_those_of_few(drawn):
    (pixels, *others), _ = drawn
    few = regions.regions(len(pixels), *others)
    assert few.dtype == torch.int64
    assert few.shape == (len(others[2]), len(regions.REGION))
    assert torch.equal(few, regions._by_tensors(len(pixels), *others))


def test_a_region_by_hand():
    """An image of 4 x 5 pixels behind 7 bytes, cut from line 2, column 3 on."""
    boxes, flips = torch.tensor([[2, 3, 2, 1]]), torch.tensor([True])
    given = (torch.tensor([7]), torch.tensor([[4, 5]]), torch.tensor([0]), boxes, flips)
    assert regions.regions(67, *given).tolist() == [[7 + 2 * 15 + 9, 15, 2, 1, 1]]


@settings(deadline=None, max_examples=50)
@given(cuts(), st.integers(1, 3))
def test_tables_of_many_views_are_those_of_few(drawn, times):
    (pixels, *others), size = drawn
    given = regions.regions(len(pixels), *others).repeat(times, 1)
    for few, many in zip(found(given, size, "_by_numbers"), found(given, size, "_by_tensors"), strict=True):
        assert few._replace(numbers=None) == many._replace(numbers=None)
        assert few.numbers.dtype == torch.int64
        assert torch.equal(few.numbers, many.numbers)


@pytest.mark.parametrize("most", [1, 4000, 9000, 20000, 1 << 26])
@pytest.mark.parametrize("form", ["_by_numbers", "_by_tensors"])
def test_parts_hold_what_they_say_and_no_more_than_they_may(form, most, monkeypatch):
    monkeypatch.setattr(triton_tables, "MOST_BYTES", most)
    (pixels, *others), size = MIXED, 16
    given = regions.regions(len(pixels), *others)
    parts = found(given, size, form)
    assert [view for part in parts for view in range(len(given))[part.views]] == list(range(len(given)))
    assert [part.views for part in parts] == [part.views for part in found(given, size, "_by_numbers")]
    for part in parts:
        of_part = given[part.views]
        count = len(of_part)
        table = part.numbers[: count * len(triton_tables.TABLE)].view(count, -1)
        assert torch.equal(table[:, :5], of_part)
        taps = lines = tiles = 0
        for view, (height, width, across, down, line, tile) in enumerate(table[:, [2, 3, 5, 6, 7, 8]].tolist()):
            assert (across, down, line, tile) == (taps, taps + weights.most_taps(width, size), lines, tiles)
            taps, lines = down + weights.most_taps(height, size), lines + height
            of_view = part.numbers[count * len(triton_tables.TABLE) + tile :][: -(-height // CONFIG.rows)]
            assert of_view.tolist() == [view] * len(of_view)
            tiles += len(of_view)
        assert (taps, lines, tiles) == (part.taps, part.lines, part.tiles)
        assert part.numbers.numel() == table.numel() + tiles
        assert count == 1 or max(lines * 3 * size, taps * 2 * size) <= most
