"""crop_resize by Triton: bit for bit torch's CPU kernel."""

import random

import pytest
import torch

from silc_kernels import crop_resize
from silc_kernels.common import triton_runtime as runtime
from silc_kernels.common.limits import LIMITS
from silc_kernels.crops import regions, torch_backend, triton_tables
from tests.kernels.crops.problems import LONG, MIXED, Problem, interpolated, problem

NATIVE = torch.cuda.is_available() and not runtime.INTERPRET


def drawn(seed: int, images: int, views: int, longest: int) -> Problem:
    """Random sizes and boxes."""
    source = random.Random(seed)
    sizes = [(source.randint(1, longest), source.randint(1, longest)) for _ in range(images)]
    boxes = []
    for _ in range(views):
        image = source.randrange(images)
        height, width = (source.randint(1, side) for side in sizes[image])
        corner = source.randint(0, sizes[image][0] - height), source.randint(0, sizes[image][1] - width)
        boxes.append((image, *corner, height, width, source.randint(0, 1)))
    return problem(sizes, boxes, gap=seed, seed=seed)


def cut(device, arguments: Problem, size: int, **options):
    return crop_resize(*arguments.to(device), size, backend="triton", **options).cpu()


@pytest.mark.parametrize("size", [5, 16, 65] if NATIVE else [5, 33])
def test_it_is_torchs_own_kernel(device, size):
    assert torch.equal(cut(device, MIXED, size), interpolated(MIXED, size))


def test_of_one_pixel(device):
    arguments = problem([(3, 5)], [(0, 0, 0, 3, 5, 0), (0, 1, 1, 2, 3, 1)])
    assert torch.equal(cut(device, arguments, 1), interpolated(arguments, 1))


def test_of_very_long_and_very_thin_regions(device):
    assert torch.equal(cut(device, LONG, 16), interpolated(LONG, 16))


@pytest.mark.parametrize("seed", range(40 if NATIVE else 3))
def test_any_boxes(device, seed):
    arguments = drawn(seed, 3, 60 if NATIVE else 5, 700 if NATIVE else 50)
    for size in (96, 224) if NATIVE else (12,):
        assert torch.equal(cut(device, arguments, size), interpolated(arguments, size))


def test_views_in_parts_are_the_views_at_once(device, monkeypatch):
    """What lies between the directions is bounded."""
    whole = cut(device, MIXED, 16)
    for most in (1, 4000) if NATIVE else (4000,):
        monkeypatch.setattr(triton_tables, "MOST_BYTES", most)
        assert torch.equal(cut(device, MIXED, 16), whole)
        with monkeypatch.context() as many:  # worked out by tensors
            many.setattr(regions, "FEW", 0)
            many.setattr(triton_tables, "FEW", 0)
            assert torch.equal(cut(device, MIXED, 16), whole)


def test_into_a_given_tensor_twice_bitwise_the_same(device):
    out = torch.empty(8, 3, 16, 16, dtype=torch.uint8, device=device)
    first = cut(device, MIXED, 16, out=out)
    assert torch.equal(out.cpu(), first)
    assert torch.equal(cut(device, MIXED, 16), first)


def test_matrices_on_the_device_give_the_same(device):
    """Plain torch, where it has no kernel for bytes."""
    region = torch.randint(0, 256, (3, 77, 50), dtype=torch.uint8)
    expected = torch.nn.functional.interpolate(region[None], (16, 16), mode="bicubic", antialias=True)[0]
    assert torch.equal(torch_backend.by_matrices(region.to(device), 16).cpu(), expected)
    assert torch.equal(crop_resize(*MIXED.to(device), 16, backend="torch").cpu(), interpolated(MIXED, 16))


def test_a_view_beyond_32_bits_goes_to_plain_torch(device):
    """A long region at a large size; shapes alone, for no memory holds it."""
    out, pixels = (torch.empty(shape, dtype=torch.uint8, device="meta") for shape in ((1, 3, 20000, 20000), (1,)))
    regions = torch.tensor([[0, 3, 60000, 1, 0]])
    refused = LIMITS["crop_resize"](out, pixels, regions)
    assert refused == "the kernels count values of a view in 32 bits, and there are 3600000000"
    assert not LIMITS["crop_resize"](out[:, :, :256, :256], pixels, regions)
