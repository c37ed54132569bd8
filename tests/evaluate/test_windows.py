"""Resizing, sliding windows, and putting scores together, against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards import Unreadable
from silc.evaluate.segmentation import windows
from silc.evaluate.segmentation.windows import Geometry, best_class, boxes, geometry, resized, slide


def test_sizes_follow_the_crops_unless_given(config):
    config.views.global_size, config.model.vision.patch_size = 256, 16
    assert geometry(config) == Geometry(448, 448, 336, 4)
    config.eval.short_side, config.eval.window, config.eval.stride = 320, 160, 32
    assert geometry(config) == Geometry(320, 160, 32, 4)
    config.eval.window = 0
    assert "the whole image at once" in geometry(config).words()


@pytest.mark.parametrize(("window", "side"), [(32, None), (None, 32), (None, None)])
def test_a_stride_that_leaves_pixels_out_is_refused(config, window, side):
    """Also beyond a window that is not named: 7/4 of 16 px, 32 px in whole patches."""
    config.eval.window, config.eval.short_side, config.eval.stride = window, side, 33
    with pytest.raises(ValueError, match=r"eval\.stride=33 is larger than eval\.window=32"):
        geometry(config)
    config.eval.stride = 32
    assert geometry(config).stride == 32
    config.eval.window, config.eval.stride = 0, 99
    assert geometry(config).stride == 99


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(100, 200, (64, 128)), (300, 90, (216, 64)), (7, 7, (64, 64))]
)
def test_the_short_side_is_the_one_given(height, width, expected):
    image = resized(torch.zeros(height, width, 3, dtype=torch.uint8), 64, 8)
    assert image.shape == (3, *expected)


@pytest.mark.parametrize("shape", [(1, 9), (900, 100), (1, 65_535)])
def test_an_image_that_would_be_enlarged_without_bound_is_left_out(shape):
    with pytest.raises(Unreadable, match="longer than 8 times its width"):
        resized(torch.zeros(*shape, 3, dtype=torch.uint8), 64, 8)
    assert resized(torch.zeros(10, 80, 3, dtype=torch.uint8), 64, 8).shape == (3, 64, 512)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), *[st.integers(1, 40)] * 4, st.booleans())
def test_small_maps_are_upsampled_as_by_torch(classes, height, width, rows, columns, last):
    scores = torch.randn(height, width, classes, generator=torch.Generator().manual_seed(0)).permute(2, 0, 1)
    scores = scores if last else scores.contiguous()
    size = (rows, columns)
    exact = F.interpolate(scores[None].double(), size=size, mode="bilinear", align_corners=False)[0]
    assert max(scores.shape[1:]) <= windows.NARROW
    torch.testing.assert_close(windows.upsample(scores, size).double(), exact, rtol=0, atol=3e-6)
    assert torch.equal(windows.upsample(scores.double(), size), exact)  # other types by torch itself


def test_maps_of_a_large_image_are_not_multiplied_by_large_matrices(monkeypatch):
    monkeypatch.setattr(windows, "_upsample_by_products", None)
    assert windows.upsample(torch.randn(2, 8, windows.NARROW + 1), (9, 200)).shape == (2, 9, 200)


def test_a_large_image_takes_few_class_maps_at_a_time(monkeypatch):
    """All 32 of an image of 89 million pixels would take 11 GB."""
    scores = torch.randn(40, 5, 6)
    whole = best_class(scores, (20, 30))
    taken = []
    upsample = windows.upsample
    monkeypatch.setattr(windows, "upsample", lambda part, size: taken.append(len(part)) or upsample(part, size))
    for most, expected in ((600 * 7, 7), (599, 1)):
        taken.clear()
        monkeypatch.setattr(windows, "SCORES", most)
        assert torch.equal(best_class(scores, (20, 30)), whole)
        assert max(taken) == expected
    assert windows.CLASSES * 8_000_000 <= 1 << 28


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 24), st.integers(1, 24))
def test_windows_cover_every_pixel_and_stay_inside(height, width, window, stride):
    stride = min(stride, window) if window else stride
    seen = np.zeros((height, width), dtype=int)
    places = boxes(height, width, window, stride)
    for top, left, rows, columns in places:
        assert top >= 0
        assert left >= 0
        assert top + rows <= height
        assert left + columns <= width
        assert (rows, columns) == ((min(window, height), min(window, width)) if window else (height, width))
        seen[top : top + rows, left : left + columns] += 1
    assert (seen > 0).all()
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("shape", [Geometry(24, 16, 8, 2), Geometry(24, 0, 8, 2), Geometry(24, 16, 12, 99)], ids=str)
def test_overlapping_scores_are_averaged(shape):
    image = torch.randint(0, 256, (3, 24, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def scores(crops: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(crops.float(), 4) * torch.arange(1, len(crops) + 1).view(-1, 1, 1, 1)

    found = slide(image, shape, scores)
    total, count = np.zeros((3, 24, 40)), np.zeros((24, 40))
    places = boxes(24, 40, shape.window, shape.stride)
    for number, (t, x, r, c) in enumerate(places):
        one = F.avg_pool2d(image[None, :, t : t + r, x : x + c].float(), 4) * (number % shape.batch + 1)
        total[:, t : t + r, x : x + c] += F.interpolate(one, (r, c), mode="bilinear")[0].numpy()
        count[t : t + r, x : x + c] += 1
    assert np.allclose(found.numpy(), total / count, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 5, windows.CLASSES, 2 * windows.CLASSES + 3])
def test_the_best_class_is_the_argmax_of_all(classes):
    scores = torch.randn(classes, 6, 9, generator=torch.Generator().manual_seed(classes))
    expected = F.interpolate(scores[None], (20, 31), mode="bilinear")[0].argmax(0)
    assert torch.equal(best_class(scores, (20, 31)), expected)


def test_of_equals_the_first_wins():
    assert best_class(torch.zeros(70, 3, 3), (5, 5)).eq(0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), max_size=7), st.integers(1, 4))
def test_windows_of_several_images_go_through_a_model_together(images, batch):
    """Those of one size, at most `batch`, and each image has its own back."""
    crops = [torch.full((count, 3, rows, 4), number, dtype=torch.uint8) for number, (count, rows) in enumerate(images)]
    calls = []

    def function(some: torch.Tensor) -> torch.Tensor:
        calls.append(len(some))
        return some[:, 0].float().mean((1, 2))[:, None]

    found = windows.batched(crops, batch, function)
    assert [one.tolist() for one in found] == [[[number]] * count for number, (count, _) in enumerate(images)]
    totals = [sum(count for count, rows in images if rows == size) for size in (1, 2)]
    assert len(calls) == sum(-(-total // batch) for total in totals)
    assert max(calls, default=0) <= batch
