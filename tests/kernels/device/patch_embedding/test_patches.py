"""patch_embed by Triton against float64, plain torch and exact integers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from silc_kernels import PackedLayout, patch_embed
from silc_kernels.common import triton_runtime as runtime
from silc_kernels.patch_embedding.triton_launch import SHIPPED
from silc_kernels.patch_embedding.triton_plan import Pixels
from tests.kernels.oracles import normal, relative, tokens
from tests.kernels.patch_embedding.problems import IMAGENET, PLAIN, cut, identity, pixels, problem, trained
from tests.kernels.tolerance import assert_as_good_as

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (M, H, W) a resolution, patch, width, prefix tokens
SHAPES = {
    "one crop": ([(1, 32, 32)], 16, 24, 0),
    "two resolutions, copy engine and pointers": ([(2, 128, 256), (3, 96, 96)], 16, 24, 1),
    "three resolutions, rectangles, odd counts": ([(3, 16, 24), (1, 40, 8), (2, 8, 8)], 8, 9, 2),
    "patches of 14, padded": ([(2, 28, 42), (3, 14, 14)], 14, 20, 0),
    "patches of 32": ([(2, 64, 96)], 32, 12, 1),
    "patches of 20, padded": ([(2, 40, 20)], 20, 12, 0),
    "wider than a tile": ([(1, 2, 4)], 2, 260, 1),
    "patches of 7 and 1 token": ([(9, 7, 7)], 7, 1, 0),
    "patches of 1": ([(2, 3, 5)], 1, 4, 0),
    "a width that is no multiple of 16, copy engine and pointers": ([(1, 128, 256), (2, 32, 32)], 16, 20, 2),
}
LARGE = {
    "as trained": ([(16, 256, 256), (64, 96, 96)], 16, 768, 0),
    "few crops of many tokens": ([(2, 256, 256), (8, 96, 96)], 16, 768, 1),
    "patches of 14 at 224": ([(8, 224, 224), (16, 98, 98)], 14, 1152, 1),
    "a narrow model": ([(64, 64, 64), (256, 32, 32)], 8, 128, 0),
}
if torch.cuda.is_available() and not runtime.INTERPRET:
    SHAPES |= LARGE
    CASES = [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
else:
    # The interpreter is slow: every shape once, and two of them in the other precisions.
    CASES = [(shape, torch.bfloat16) for shape in SHAPES]
    CASES += [(shape, dtype) for shape in ("one crop", "patches of 14, padded") for dtype in DTYPES[::2]]


def on(device, dtype, crops, weight, bias, tables, before):
    """The same problem on `device`, parameters in `dtype`."""
    crops = [crop.to(device) for crop in crops]
    move = lambda x: None if x is None else x.detach().to(device, dtype).requires_grad_()  # noqa: E731
    return crops, move(weight), move(bias), [move(table) for table in tables], move(before)


def solve(arguments, backend, upstream=None, **options) -> list[Tensor]:
    """[packed, gradients of weight, bias, positions, prefix]."""
    crops, weight, bias, tables, before = arguments
    packed = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before, backend=backend, **options)
    upstream = normal(*packed.shape, seed=20).to(packed) if upstream is None else upstream
    return [packed.detach(), *torch.autograd.grad(packed, trained(weight, bias, tables, before), upstream)]


def exactly(arguments, upstream: Tensor) -> list[Tensor]:
    """The same in float64, by autograd through a convolution."""
    crops, weight, bias, tables, before = on("cpu", torch.float64, *arguments)
    packed = tokens([c.cpu() for c in crops], weight, bias, tables, **IMAGENET, prefix=before)
    inputs = trained(weight, bias, tables, before)
    return [packed.detach(), *torch.autograd.grad(packed, inputs, upstream.cpu().double())]


def compare(arguments, **options) -> None:
    reference = solve(arguments, "torch", **options)
    upstream = normal(*reference[0].shape, seed=20).to(reference[0])
    actual, exact = solve(arguments, "triton", upstream, **options), exactly(arguments, upstream)
    names = ["tokens", "weight", "bias", *(f"positions {i}" for i in range(len(arguments[3]))), "prefix"]
    for name, mine, plain, true in zip(names, actual, reference, exact, strict=False):
        assert mine.dtype == plain.dtype
        assert_as_good_as(mine, plain, true, name)


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_tokens_and_gradients_are_as_good_as_plain_torchs(device, shape, dtype):
    compare(on(device, dtype, *problem(*SHAPES[shape])))


def test_many_splits_of_the_rows(device, monkeypatch):
    """Splits that end within a crop and at its end, tiles of several crops, and a last one that is not full."""
    monkeypatch.setattr(runtime, "multiprocessors", lambda device: 21)
    compare(on(device, torch.float32, *problem([(5, 24, 16), (37, 16, 8), (70, 8, 8)], 8, 8, 0)))


@pytest.mark.parametrize("crops", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_splits_of_few_tiles_and_of_many(device, crops, splits, monkeypatch):
    """Fewer tiles in a split than are on their way at a time, as many, and more; by the copy engine and by pointers."""
    monkeypatch.setattr(runtime, "multiprocessors", lambda device: 3 * splits)
    compare(on(device, torch.bfloat16, *problem([(crops, 32, 256), (4 * crops, 96, 96)], 16, 16, 1)))


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_out_dtype(device, out_dtype):
    arguments = on(device, torch.float32, *problem([(3, 32, 16)], 8, 24, 1))
    compare(arguments, out_dtype=out_dtype)
    assert solve(arguments, "triton", out_dtype=out_dtype)[0].dtype == out_dtype


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_floats_beside_bytes(device, dtype):
    """Crops that come normalised are not normalised again, nor does their bias gradient enter the folding's."""
    crops, *parameters = on(device, dtype, *problem([(3, 16, 24), (2, 16, 8), (1, 8, 8)], 8, 24, 1))
    crops[1] = (crops[1].to(dtype) - 100) / 64
    compare((crops, *parameters))


@pytest.mark.parametrize(
    ("height", "width", "patch", "dtype"),
    [
        (96, 96, 16, torch.float16),
        (128, 256, 16, torch.bfloat16),
        (28, 42, 14, torch.bfloat16),
        (28, 14, 14, torch.float32),
        (16, 24, 8, torch.bfloat16),
    ],
)
def test_patchify_is_equal_on_integers(device, height, width, patch, dtype):
    """An identity projection of raw bytes (some rows of it) returns them in place, whatever the dtype."""
    crop, weight = pixels(2, 3, height, width), identity(patch, dtype).to(device)[2::29]
    table = torch.zeros((height // patch) * (width // patch), len(weight), dtype=dtype, device=device)
    for given in (crop.to(device), crop.to(device, dtype)):
        packed = patch_embed([given], weight, table[0], [table], **PLAIN, backend="triton")
        assert torch.equal(packed.cpu(), cut(crop, patch)[:, 2::29].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weight_gradient_is_equal_on_integers(device, dtype, monkeypatch):
    """One row of ones among zeros: the gradient is the pixels of that patch."""
    monkeypatch.setattr(runtime, "multiprocessors", lambda device: 16)
    crop = pixels(1, 3, 128, 256) if dtype == torch.bfloat16 else pixels(3, 3, 48, 32)
    rows = cut(crop, 16)
    weight = torch.zeros(8, 3, 16, 16, dtype=dtype, device=device, requires_grad=True)
    table = torch.zeros(len(rows) // len(crop), 8, dtype=dtype, device=device)
    packed = patch_embed([crop.to(device)], weight, table[0], [table], **PLAIN, backend="triton")
    for row in (0, len(rows) // 2 + 1, len(rows) - 1):
        upstream = torch.zeros_like(packed)
        upstream[row, 3] = 1
        (found,) = torch.autograd.grad(packed, weight, upstream, retain_graph=True)
        assert torch.equal(found[3].flatten().cpu(), rows[row].to(dtype))
        assert not found[:3].any()


def test_both_paths_give_the_same(device, monkeypatch):
    """What the copy engine cuts and what pointers cut."""
    arguments = on(device, torch.bfloat16, *problem([(1, 128, 256)], 16, 24, 1))
    assert Pixels.of(arguments[0][0]).block(16, 128) == (8, 16)
    bulk = solve(arguments, "triton")
    for key in [key for key in SHIPPED if key[1] == "half"]:
        monkeypatch.setitem(SHIPPED, key, replace(SHIPPED[key], bulk=False))
    for mine, other in zip(bulk, solve(arguments, "triton"), strict=True):
        torch.testing.assert_close(mine.float(), other.float(), rtol=1e-2, atol=1e-3)


def test_strides(device):
    """channels_last, a slice of a larger tensor, one shifted by a byte: the same tokens as from a packed copy."""
    crops, weight, bias, tables, _ = on(device, torch.float32, *problem([(2, 32, 48)], 16, 24))
    wide = pixels(4, 3, 32, 80, seed=5).to(device)
    shifted = pixels(1 + crops[0].numel(), seed=6).to(device)[1:].view(crops[0].shape)
    for crop in (crops[0].contiguous(memory_format=torch.channels_last), wide[::2, :, :, 17:65], shifted):
        expected = solve(([crop.contiguous()], weight, bias, tables, None), "triton")
        for mine, other in zip(solve(([crop], weight, bias, tables, None), "triton"), expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-4)


def test_channels_further_apart_than_32_bits_count(device):
    crops, weight, bias, tables, _ = on(device, torch.float32, *problem([(1, 16, 16)], 8, 4))
    # Only the pages that are written take memory on a CPU.
    apart = torch.empty_strided((1, 3, 16, 16), (16, 1 << 30, 16, 1), dtype=torch.uint8, device=device)
    apart.copy_(crops[0])
    expected = solve((crops, weight, bias, tables, None), "triton")
    for mine, other in zip(solve(([apart], weight, bias, tables, None), "triton"), expected, strict=True):
        assert torch.equal(mine, other)


def test_patches_longer_than_a_tile_go_to_the_reference(device):
    arguments = on(device, torch.float32, *problem([(1, 65, 65)], 65, 4))
    with pytest.raises(ValueError, match="patches of up to 64 pixels, not 65"):
        solve(arguments, "triton")
    for mine, other in zip(solve(arguments, "auto"), solve(arguments, "torch"), strict=True):
        assert torch.equal(mine, other)


def test_gradients_that_are_no_plain_tensors(device):
    """An expanded one, as a sum gives, and one that starts off a 16-byte boundary."""
    arguments = on(device, torch.bfloat16, *problem([(1, 128, 256)], 16, 24))
    rows = 128
    ones = solve(arguments, "triton", torch.ones(rows, 24, dtype=torch.bfloat16, device=device))
    expanded = torch.ones(1, 1, dtype=torch.bfloat16, device=device).expand(rows, 24)
    shifted = torch.ones(1 + rows * 24, dtype=torch.bfloat16, device=device)[1:].view(rows, 24)
    for upstream in (expanded, shifted):
        for mine, other in zip(solve(arguments, "triton", upstream), ones, strict=True):
            torch.testing.assert_close(mine.float(), other.float(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [0, 255])
def test_extremes(device, value, dtype):
    """Crops of one colour, weights near the small end of fp16 and large ones: nothing is lost, nothing overflows."""
    crops, weight, bias, tables, _ = problem([(2, 32, 32)], 16, 24)
    arguments = [torch.full_like(crops[0], value)], weight * 1e-3, bias * 1e-3, [tables[0] * 1e-3], None
    compare(on(device, dtype, *arguments))
    arguments = [torch.full_like(crops[0], value)], weight * 50, bias, tables, None
    compare(on(device, dtype, *arguments))


@pytest.mark.parametrize("statistics", [IMAGENET, {"mean": (0.5,) * 3, "std": (0.5,) * 3}])
def test_bfloat16_error_is_at_most_that_of_normalising_first(device, statistics):
    """Eager code rounds normalised pixels to bfloat16, we only the folded weight, and one channel of it not at all."""
    crops, weight, bias, tables, _ = on(device, torch.bfloat16, *problem([(4, 64, 64)], 16, 48))
    wide = [x.detach().cpu().double() for x in (weight, bias, tables[0])]
    exact = tokens([crops[0].cpu()], *wide[:2], wide[2:], **statistics, prefix=None)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in statistics.values())
    normalised = ((crops[0].cpu().double() / 255 - mean) / std).bfloat16().double()
    eager = tokens([normalised], *wide[:2], wide[2:], None, None, None).bfloat16()
    actual = patch_embed(crops, weight, bias, tables, **statistics, backend="triton")
    assert relative(actual.cpu(), exact) <= relative(eager, exact)


def test_changing_one_crop_leaves_every_other_row_bitwise_unchanged(device):
    crops, weight, bias, tables, before = on(device, torch.bfloat16, *problem([(1, 128, 256), (4, 96, 96)], 16, 24, 1))
    first = solve((crops, weight, bias, tables, before), "triton")[0]
    crops[1][2] = 255 - crops[1][2]
    second = solve((crops, weight, bias, tables, before), "triton")[0]
    changed = (first != second).any(dim=1).cpu()
    rows = PackedLayout(((1, 129), (4, 37))).views(torch.arange(len(first)))
    # The prefix token of the changed crop does not depend on its pixels.
    assert torch.equal(changed.nonzero().flatten(), rows[1][2][1:])


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_two_runs_are_bitwise_equal(device, dtype):
    arguments = on(device, dtype, *problem([(1, 128, 256), (3, 32, 32)], 16, 24, 1))
    for first, second in zip(solve(arguments, "triton"), solve(arguments, "triton"), strict=True):
        assert torch.equal(first, second)


def test_keeps_the_bytes_alone(device):
    crops, weight, bias, tables, before = on(device, torch.float32, *problem([(2, 32, 32), (3, 16, 16)], 8, 12, 1))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append((x.dtype, x.shape)) or x, lambda x: x):
        patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before, backend="triton")
    assert kept == [(torch.uint8, crop.shape) for crop in crops]


def test_float64_is_refused(device):
    crops, weight, bias, tables, _ = on(device, torch.float64, *problem([(1, 8, 8)], 8, 4))
    with pytest.raises(ValueError, match=r"not torch\.float64"):
        patch_embed(crops, weight, bias, tables, **IMAGENET, backend="triton")
