"""Crops have the areas, ratios and flips they should, and the pixels that Pillow would give them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from silc.config import ViewsConfig
from silc.data import photometric
from silc.data.crops import TRIES, MultiCrop, crop_box, resize_into
from silc.data.randomness import Purpose, uniform_rows

NUMBERS = 2 * TRIES + 2


def smooth(height: int, width: int, seed: int = 0) -> torch.Tensor:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)))


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


def test_flips_mirror_and_come_as_often_as_asked():
    plain, flipped, half = (ViewsConfig(n_global=1, n_local=0, global_size=32, flip=p) for p in (0.0, 1.0, 0.5))
    mirrored = 0
    for address in range(200):
        row = row_for(plain, address)
        straight, mirror, either = (views_of(row, views)[0] for views in (plain, flipped, half))
        assert (mirror.int() - straight.flip(-1).int()).abs().max() <= 1
        mirrored += torch.equal(either, mirror)
        assert torch.equal(either, mirror) or torch.equal(either, straight)
    assert 70 < mirrored < 130  # 100 +- 4.2 standard deviations


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


ALWAYS, NEVER = 0.0, 1.0  # a number below, above every probability


def distorted(view: torch.Tensor, recipe: photometric.Recipe, **numbers: float) -> torch.Tensor:
    names = ["jitter", "brightness", "contrast", "saturation", "hue", "order", "grey", "blur", "sigma", "solarize"]
    u = {"jitter": NEVER, "grey": NEVER, "blur": NEVER, "solarize": NEVER} | numbers
    out = view.clone()
    photometric.distort_(out, photometric.parameters([u.get(name, 0.5) for name in names], recipe))
    return out


def test_each_distortion_alone():
    view = smooth(32, 32).permute(2, 0, 1).contiguous()
    full = photometric.Recipe(blur=0.999, solarize=0.999)
    assert torch.equal(distorted(view, full), view)
    grey = distorted(view, full, grey=ALWAYS)
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    assert torch.equal(distorted(view, full, solarize=ALWAYS), torch.where(view >= 128, 255 - view, view))
    noise = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for sigma, pixels in ((0.0, 0.1), (1.0, 2.0)):
        blurred = (
            distorted(noise, full, blur=ALWAYS, sigma=sigma).permute(1, 2, 0).numpy()[8:24, 8:24]
        )  # off the borders
        offsets = np.arange(-8, 9)
        kernel = np.exp(-0.5 * (offsets / pixels) ** 2) * (abs(offsets) <= max(1, round(3 * pixels)))
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        windows = np.lib.stride_tricks.sliding_window_view(noise.numpy().astype(float), (17, 17), axis=(1, 2))
        expected = np.einsum("chwij,ij->hwc", windows, kernel)
        assert np.abs(blurred - expected).max() <= 1
    middle = distorted(view, full, jitter=ALWAYS)  # every factor 1, hue shift 0
    assert (middle.int() - view.int()).abs().max() <= 4
    bright, dark = (distorted(view, full, jitter=ALWAYS, brightness=b).float().mean() for b in (1.0, 0.0))
    assert bright > 1.2 * view.float().mean()
    assert dark < 0.7 * view.float().mean()
    assert not torch.equal(distorted(view, full, jitter=ALWAYS, hue=1.0), middle)


def test_distortion_is_a_switch():
    off, on = (ViewsConfig(n_global=2, n_local=2, global_size=32, local_size=16, photometric=p) for p in (False, True))
    row = row_for(off)
    assert not torch.equal(views_of(row, off)[0], views_of(row, on)[0])
    assert torch.equal(views_of(row, on)[1], views_of(row, on)[1])
