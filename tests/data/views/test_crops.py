"""Crops have the areas, ratios and flips they should, and the pixels that Pillow would give them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from silc.config import ViewsConfig
from silc.data.randomness import Purpose, uniform_rows
from silc.data.views.crops import TRIES, MultiCrop, crop_box, resize_into
from silc.data.views.distort import distort_

NUMBERS = 2 * TRIES + 2


def smooth(height: int, width: int, seed: int = 0) -> torch.Tensor:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)))


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    low=st.floats(0.01, 1),
    span=st.floats(0, 1),
    address=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_boxes_lie_inside(height, width, low, span, address):
    u = uniform_rows(0, Purpose.CROPS, address, 1, NUMBERS)[0].tolist()
    top, left, h, w = crop_box(u, height, width, (low, low + span * (1 - low)))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0


@pytest.mark.parametrize("area", [(0.4, 1.0), (0.05, 0.4)])
@pytest.mark.parametrize("shape", [(400, 400), (300, 500)])
def test_boxes_are_distributed_as_torchvisions(area, shape):
    n = 4000
    rows = uniform_rows(1, Purpose.CROPS, 0, n, NUMBERS).tolist()
    ours = np.array([crop_box(row, *shape, area) for row in rows], dtype=float)
    torch.manual_seed(0)
    blank = torch.empty(3, *shape)
    theirs = np.array([RandomResizedCrop.get_params(blank, area, (3 / 4, 4 / 3)) for _ in range(n)], dtype=float)
    for box in (ours, theirs):
        share = box[:, 2] * box[:, 3] / math.prod(shape)
        assert share.min() >= area[0] * 0.98
        assert share.max() <= area[1] * 1.01
    for ours_, theirs_ in zip(ours.T, theirs.T, strict=True):
        # two-sample Kolmogorov-Smirnov, 99.99 % quantile
        grid = np.union1d(ours_, theirs_)
        below = [np.searchsorted(np.sort(values), grid, "right") / n for values in (ours_, theirs_)]
        assert np.abs(below[0] - below[1]).max() < 2.23 * math.sqrt(2 / n)


@pytest.mark.parametrize("shape", [(20, 2000), (2000, 20)])
def test_a_long_image_gives_its_middle(shape):
    torch.manual_seed(0)
    expected = RandomResizedCrop.get_params(torch.empty(3, *shape), (0.9, 1.0), (3 / 4, 4 / 3))
    assert crop_box([0.5] * NUMBERS, *shape, (0.9, 1.0)) == tuple(expected)


@pytest.mark.parametrize("size", [16, 64, 200])
def test_resizing_agrees_with_pillow(size):
    image = smooth(90, 70)
    out = torch.empty(3, size, size, dtype=torch.uint8)
    resize_into(out, image)
    expected = np.array(Image.fromarray(image.numpy()).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    # Both round between their two passes, which they make in opposite orders.
    assert np.abs(out.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


def views_of(
    row: np.ndarray, views: ViewsConfig, n_original: int = 0, with_small: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    large = torch.zeros(n_original + views.n_global, 3, views.global_size, views.global_size, dtype=torch.uint8)
    small = torch.zeros(views.n_local, 3, views.local_size, views.local_size, dtype=torch.uint8)
    MultiCrop(views, n_original)(smooth(60, 80), row.tolist(), large, small if with_small else None)
    return large, small


def row_for(views: ViewsConfig, address: int = 0) -> np.ndarray:
    return uniform_rows(0, Purpose.CROPS, address, 1, MultiCrop(views, 0).width)[0]


def test_views_are_the_boxes_resized():
    views = ViewsConfig(n_global=2, n_local=3, global_size=32, local_size=16, flip=0.0)
    row = row_for(views)
    large, small = views_of(row, views)
    width = len(row) // 5
    for i, view in enumerate([*large, *small]):
        box = crop_box(row[i * width :].tolist(), 60, 80, views.global_area if i < 2 else views.local_area)
        top, left, h, w = box
        expected = torch.empty_like(view)
        resize_into(expected, smooth(60, 80)[top : top + h, left : left + w].contiguous())
        assert torch.equal(view, expected)
    assert len({view.numpy().tobytes() for view in (*large, *small)}) == 5


def test_flips_come_as_often_as_asked():
    plain, flipped, half = (ViewsConfig(n_global=1, n_local=0, global_size=32, flip=p) for p in (0.0, 1.0, 0.5))
    mirrored = 0
    for address in range(200):
        row = row_for(plain, address)
        straight, mirror, either = (views_of(row, views)[0] for views in (plain, flipped, half))
        assert torch.equal(mirror, straight.flip(-1))
        mirrored += torch.equal(either, mirror)
        assert torch.equal(either, mirror) or torch.equal(either, straight)
    assert 70 < mirrored < 130  # 100 +- 4.2 standard deviations


@given(height=st.integers(1, 80), width=st.integers(1, 700), size=st.integers(1, 260), seed=st.integers(0, 100))
@settings(max_examples=150, deadline=None)
def test_a_mirrored_image_resized_is_the_resized_one_mirrored(height, width, size, seed):
    image = noise(height, width, seed)
    mirrored, expected = torch.empty(2, 3, size, size, dtype=torch.uint8)
    resize_into(mirrored, image, mirrored=True)
    resize_into(expected, image.flip(1))
    assert torch.equal(mirrored, expected)


@given(
    box=st.tuples(st.integers(0, 40), st.integers(0, 60), st.integers(1, 50), st.integers(1, 60)),
    mirrored=st.booleans(),
    size=st.sampled_from([16, 64, 97]),
)
@settings(max_examples=100, deadline=None)
def test_a_region_is_resized_as_its_copy(box, mirrored, size):
    top, left, height, width = box
    region = noise(100, 130)[top : top + height, left : left + width]
    out, expected = torch.empty(2, 3, size, size, dtype=torch.uint8)
    resize_into(out, region, mirrored=mirrored)
    planar = region.permute(2, 0, 1).contiguous()
    planar = planar.flip(2) if mirrored else planar
    expected[:] = F.interpolate(planar[None], (size, size), mode="bicubic", antialias=True)[0]
    assert torch.equal(out, expected)


def test_the_original_comes_first_and_whole():
    views = ViewsConfig(n_global=2, n_local=0, global_size=32, flip=1.0)
    large, _ = views_of(row_for(views), views, n_original=1)
    expected = torch.empty(3, 32, 32, dtype=torch.uint8)
    resize_into(expected, smooth(60, 80))
    assert large.shape[0] == 3
    assert torch.equal(large[0], expected)
    assert torch.equal(large[1:], views_of(row_for(views), views)[0])


@pytest.mark.parametrize("distort", [False, True])
def test_global_crops_do_not_depend_on_local_ones(distort):
    views = ViewsConfig(n_global=2, n_local=2, global_size=32, local_size=16, photometric=distort)
    row = row_for(views)
    with_local, local = views_of(row, views)
    without, untouched = views_of(row, views, with_small=False)
    assert torch.equal(with_local, without)
    assert local.any()
    assert not untouched.any()


def test_distortion_is_a_switch():
    off, on = (ViewsConfig(n_global=2, n_local=2, global_size=32, local_size=16, photometric=p) for p in (False, True))
    row = row_for(off)
    assert not torch.equal(views_of(row, off)[0], views_of(row, on)[0])
    assert torch.equal(views_of(row, on)[1], views_of(row, on)[1])


@pytest.mark.parametrize("distort", [False, True])
def test_a_plan_says_what_is_cut(distort):
    """Boxes, flips and rows alone give the views, whoever cuts them."""
    views = ViewsConfig(n_global=2, n_local=3, global_size=32, local_size=16, photometric=distort)
    row = row_for(views, address=5)
    plan = MultiCrop(views, 1).plan(60, 80, row.tolist())
    assert plan.boxes.shape == (5, 4)
    assert plan.boxes.dtype == np.int64
    assert plan.flips.shape == (5,)
    assert plan.flips.dtype == bool
    assert (plan.photometric is not None) == distort
    for i, view in enumerate(itertools.chain(*views_of(row, views))):
        top, left, height, width = plan.boxes[i]
        region = smooth(60, 80)[top : top + height, left : left + width]
        expected = torch.empty_like(view)
        resize_into(expected, region.flip(1) if plan.flips[i] else region)
        if distort:
            assert plan.photometric.shape == (5, 8)
            assert plan.photometric.dtype == np.float32
            distort_(expected[None], plan.photometric[i : i + 1])
        assert torch.equal(view, expected)


def test_a_turned_image_is_cut_as_its_copy():
    views = ViewsConfig(n_global=1, n_local=1, global_size=32, local_size=16)
    row = row_for(views).tolist()
    turned = noise(80, 60).transpose(0, 1).flip(0)  # as EXIF asks for; not in the order of memory
    filled = []
    for image in (turned, turned.contiguous(memory_format=torch.contiguous_format).clone()):
        out = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        MultiCrop(views, 1)(image, row, *out)
        filled.append(out)
    assert all(map(torch.equal, *filled))


def test_geometry_is_drawn_as_ever():
    """A run goes on with the same crops after an update: numbers of version 0.1.0."""
    views = ViewsConfig(n_global=2, n_local=4)
    row = uniform_rows(7, Purpose.CROPS, 12345, 1, 10 * (MultiCrop(views, 0).width // 6))[0].tolist()
    plan = MultiCrop(views, 0).plan(480, 640, row[: MultiCrop(views, 0).width])
    assert plan.boxes.tolist() == [
        [0, 19, 480, 606],
        [2, 71, 475, 546],
        [38, 94, 227, 254],
        [342, 191, 118, 151],
        [139, 65, 297, 341],
        [94, 60, 215, 279],
    ]
    assert plan.flips.tolist() == [False, False, True, False, False, True]


def test_a_view_smaller_than_its_blur_is_refused():
    views = ViewsConfig(n_global=1, n_local=1, global_size=32, local_size=6, photometric=True)
    with pytest.raises(ValueError, match=r"views.local_size=6.*views.photometric.*7"):
        MultiCrop(views, 0)
    MultiCrop(replace(views, n_local=0), 0)
    MultiCrop(replace(views, photometric=False), 0)
    large = torch.zeros(1, 3, 7, 7, dtype=torch.uint8)
    smallest = MultiCrop(replace(views, n_local=0, global_size=7), 0)
    smallest(smooth(60, 80), [0.5] * smallest.width, large, None)
    assert large.any()
