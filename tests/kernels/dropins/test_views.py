"""docs/ops/views.md: its crops and its photometric list against torchvision's, drawn from the same random numbers."""

import pytest
import torch
from torchvision.transforms import ColorJitter, InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from silc_kernels import photometric
from tests.kernels.dropins.pages import run

BICUBIC = InterpolationMode.BICUBIC


def page():
    return run("views")


@pytest.fixture(autouse=True)
def run_before():
    """The page's code draws random numbers of its own."""
    page()


def images(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), generator=generator).to(torch.uint8) for size in sizes]


def test_crops_are_torchvisions():
    given, scale, ratio = images((48, 80), (61, 33), (40, 40), (90, 64)), (0.1, 0.9), (0.5, 2.0)
    torch.manual_seed(3)
    boxes = [RandomResizedCrop.get_params(image, scale, ratio) for image in given]
    flips = torch.rand(len(given)) < 0.5
    assert flips.any()
    assert not flips.all()
    torch.manual_seed(3)
    found = page()["random_resized_crops"](given, 24, scale, ratio)
    for view, image, box, flip in zip(found, given, boxes, flips, strict=True):
        cut = tv.crop(image, *box)
        cut = tv.horizontal_flip(cut) if flip else cut
        assert torch.equal(
            view, torch.nn.functional.interpolate(cut[None], (24, 24), mode="bicubic", antialias=True)[0]
        )
        if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):  # elsewhere torchvision resizes floats
            theirs = tv.resize(cut, [24, 24], BICUBIC, antialias=True)
            assert torch.equal(view, theirs)
            assert flip or torch.equal(view, tv.resized_crop(image, *box, [24, 24], BICUBIC, antialias=True))


def torchvision(view, row):
    """The list by torchvision's operations on floats in [0, 1]."""
    brightness, contrast, saturation, hue, order, grey, sigma, solarize = row
    steps = (
        lambda x: tv.adjust_brightness(x, brightness),
        lambda x: tv.adjust_contrast(x, contrast),
        lambda x: tv.adjust_saturation(x, saturation),
        lambda x: tv.adjust_hue(x, hue),
    )
    x = view.double() / 255
    for step in page()["ORDERS"][int(order)] if order >= 0 else ():
        x = steps[step](x)
    x = tv.rgb_to_grayscale(x, 3) if grey else x
    x = tv.gaussian_blur(x, 2 * max(1, round(3 * sigma)) + 1, sigma) if sigma else x
    x = tv.solarize(x, 128 / 255) if solarize else x
    return 255 * x


def test_the_list_is_torchvisions_within_a_level():
    views = torch.stack(images(*[(20, 24)] * 12))
    torch.manual_seed(5)
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    rows = [page()["dino_row"](jitter, blur=0.7, solarize=0.3) for _ in views]
    chosen = torch.tensor(rows)
    assert all(chosen[:, place].unique().numel() > 1 for place in range(8))
    found = photometric(views, chosen)
    for view, mine, row in zip(views, found, chosen.tolist(), strict=True):
        assert (mine - torchvision(view, row)).abs().max() < 1.01


def test_rows_are_drawn_as_torchvision_draws_them():
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    torch.manual_seed(2)
    assert torch.rand(()) < 0.8
    turn, *factors = ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    torch.manual_seed(2)
    row = page()["dino_row"](jitter)
    assert row[:4] == factors
    assert page()["ORDERS"][row[4]] == tuple(turn.tolist())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            [torch.zeros(4, 20, 30, dtype=torch.uint8)],
            "pixels holds 2400 bytes, and the last image ends at 1800.*fourth",
        ),
        ([torch.zeros(1, 20, 30, dtype=torch.uint8)], "image 0 of 20 x 30 pixels"),
        ([torch.zeros(3, 20, 30)], "contiguous uint8"),
        ([], "images is empty"),
    ],
    ids=["alpha", "grey", "floats", "none"],
)
def test_what_are_no_images_of_bytes_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        page()["random_resized_crops"](given, 8)


def test_no_views_stay_no_views():
    assert page()["dino_list"](torch.zeros(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)


def test_a_list_of_views_is_written_over():
    views = torch.stack(images(*[(16, 16)] * 3))
    before = views.clone()
    torch.manual_seed(0)
    changed = page()["dino_list"](views, blur=1.0)
    assert changed.data_ptr() == views.data_ptr()
    assert not torch.equal(changed, before)
