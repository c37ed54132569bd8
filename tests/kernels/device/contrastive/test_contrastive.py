"""contrastive_loss in Triton: as good as plain torch, deterministic, small, and an operator that compilers know."""

import itertools

import pytest
import torch
from torch.nn import functional

from silc_kernels import contrastive_loss
from silc_kernels.common.collectives import Ranks
from silc_kernels.common.triton_runtime import INTERPRET
from silc_kernels.contrastive import triton_tiles as backend
from silc_kernels.contrastive.agreement import Call
from silc_kernels.contrastive.passes import Options, Similarities, cut
from tests.kernels.oracles import Allocations, contrastive, far_below_one_another, relative, unit
from tests.kernels.tolerance import FLOOR, assert_as_good_as

KINDS = pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
HALVES = torch.bfloat16, torch.float16
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=["fp32", "bf16", "fp16"])
# Pairs, width, views, chunk, scale: a single pair, odd widths (loaded by pointers), several tiles, slices that do not
# divide the pairs.
SHAPES = [(1, 1, 1, 4096, 9.0), (5, 3, 2, 2, 9.0), (131, 72, 1, 4096, 100.0), (70, 40, 2, 33, 9.0)]
if not INTERPRET:
    SHAPES += [
        (1024, 768, 2, 4096, 30.0),
        (4096, 768, 1, 1024, 14.3),
        (3000, 1152, 1, 700, 100.0),
        (2049, 511, 2, 4096, 30.0),
    ]
TILES = sorted({*backend.table.SHIPPED.values(), *itertools.chain(*backend.table.TRIALS.values())})
NAMES = "loss", "image", "text", "scale", "bias"


def leaves(device, n=70, d=40, views=1, scale=9.0, bias=-4.0, dtype=torch.float32):
    """Pairs that are alike but noisy, as in training: neither all positives nor none stand out."""
    image, text = unit(views, n, d, seed=1), unit(n, d, seed=2)
    image = functional.normalize(image + 0.7 * text, dim=-1)
    scalars = (torch.tensor([value], device=device) for value in (scale, bias))
    features = (x.to(device=device, dtype=dtype) for x in (image, text))
    return [x.requires_grad_() for x in (*features, *scalars)]


def solve(inputs, loss):
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return loss.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True))


def ours(inputs, kind, **options):
    return solve(inputs, contrastive_loss(*inputs, kind=kind, backend="triton", **options))


def exact(inputs, kind):
    wide = [x.detach().cpu().double().requires_grad_() for x in inputs]
    return solve(wide, contrastive(*wide, kind))


def pull(inputs):
    """The gradients of the mean positive: what a loss's gradients are, less what the negatives push."""
    image, text, scale, bias = wide = [x.detach().cpu().double().requires_grad_() for x in inputs]
    return solve(wide, ((image * text).sum(-1) * scale + bias).mean())[1:]


def plain(inputs, kind):
    """Plain torch in the dtype of the features. On a GPU that is whole matrices in it, G among them, as ours is there.

    In the interpreter the kernels multiply in float32, and so must the reference.
    """
    if INTERPRET or inputs[0].dtype == torch.float32:
        return solve(inputs, contrastive_loss(*inputs, kind=kind, backend="torch"))
    image, text, scale, bias = inputs
    losses = []
    for view in image:
        logits = (view @ text.T).float() * scale
        if kind == "softmax":
            labels = torch.arange(len(text), device=text.device)
            losses.append((functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2)
        else:
            signs = 2 * torch.eye(len(text), device=text.device) - 1
            losses.append(-functional.logsigmoid(signs * (logits + bias)).sum() / len(text))
    return solve(inputs, torch.stack(losses).mean())


def assert_right(inputs, kind, unit=0.0, **options):
    """unit: of the rounding of G, added to the floor of the features' gradients: where its errors are all alike."""
    found = ours(inputs, kind, **options)
    assert found[0].dtype == torch.float32
    assert [x.dtype for x in found[1:]] == [x.dtype for x in inputs]
    truths = exact(inputs, kind)
    # Similarities and their log-sum-exps are as large as the scale, and rounded.
    floor = max(FLOOR, 2 * 2**-24 * inputs[2].item())
    # A loss is a mean over pairs of differences of log-sum-exps, whose roundings average out.
    least = torch.tensor(len(inputs[1]) ** -0.5)
    for name, mine, theirs, truth, terms in zip(
        NAMES, found, plain(inputs, kind), truths, (least, *pull(inputs)), strict=True
    ):
        # What the negatives push can also be larger than the pull.
        larger = max(truth, terms, key=lambda x: float(x.detach().norm()))
        own = floor + unit * (name in ("image", "text"))
        assert_as_good_as(mine, theirs, truth, f"{kind} {name}", own, larger)


@KINDS
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_good_as_plain_torch(device, kind, dtype, shape):
    n, d, views, chunk, scale = shape
    assert_right(leaves(device, n, d, views, scale, dtype=dtype), kind, chunk=chunk)


@KINDS
@pytest.mark.parametrize("elements", [1, 20 * 33])
def test_many_blocks_of_a_tile(device, kind, elements, monkeypatch):
    monkeypatch.setattr(backend.TritonTiles, "elements", elements)
    assert_right(leaves(device, 4 if elements == 1 else 70, 40, 2), kind, chunk=33)


@KINDS
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile(device, kind, tile, monkeypatch):
    """Also those that another chip, or another alignment, would take, and those that are yet to be timed."""
    monkeypatch.setattr(backend.table, "launch_config", lambda *_: tile)
    assert_right(leaves(device, 131, dtype=torch.bfloat16), kind)


def test_the_tile_of_a_launch_is_looked_up_each_time(device, monkeypatch):
    inputs = leaves(device, dtype=torch.bfloat16)
    ours(inputs, "softmax")
    monkeypatch.setattr(backend.table, "SHIPPED", {})
    with pytest.raises(KeyError, match="log_sum_exp"):
        ours(inputs, "softmax")


def test_the_copy_engine_brings_halves_where_there_is_one():
    for kernel, architecture in itertools.product(backend.table.KERNELS, (75, 80, 89, 90, 100, 103, 120)):
        assert backend.table.launch_config(kernel, 2, architecture).bulk == (architecture in (90, 100, 103))
        assert not backend.table.launch_config(kernel, 4, architecture).bulk


@pytest.mark.parametrize(("width", "stride"), [(64, 0), (64, 8), (64, 64), (12, 12), (1, 1), (16, 16)])
def test_features_are_made_lines_of_16(device, width, stride):
    """A single row counts as contiguous at any stride, but a descriptor takes no stride below the width."""
    row = torch.as_strided(unit(1, 64, seed=3).to(device, torch.bfloat16), (1, width), (stride, 1))
    taken = backend.Features(row).features
    assert taken.stride(0) == taken.shape[1] == max(16, width // 16 * 16)
    assert (taken is row) == (width % 16 == 0 and stride == width)
    assert torch.equal(taken[:, :width], row)
    assert not taken[:, width:].any()


def test_features_that_start_between_lines_are_copied(device):
    features = unit(1, 65, seed=3).to(device, torch.bfloat16)[0, 1:].view(1, 64)
    taken = backend.Features(features).features
    assert taken.data_ptr() % 16 == 0
    assert torch.equal(taken, features)


@pytest.mark.parametrize("stride", [0, 8, 64])
def test_a_single_row_at_any_stride(device, stride):
    row = torch.as_strided(unit(1, 64, seed=3).to(device, torch.bfloat16), (1, 64), (stride, 1))
    other = unit(1, 64, seed=4).to(device, torch.bfloat16)
    assert row.is_contiguous()
    inputs = [x.requires_grad_() for x in (row[None], other, *(torch.ones(1, device=device) for _ in range(2)))]
    assert_right(inputs, "sigmoid")


def extremes(case, device, dtype):
    image, text, scale, bias = leaves(device, 60, 24, 1, 100.0, -10.0, dtype)
    with torch.no_grad():
        if case == "far from the positives":
            wide = image[0].float(), text.float()
            far_below_one_another(*wide)
            image[0], text[:] = wide
        elif case == "all alike":
            image[:], text[:] = image[0, :1].clone(), image[0, :1].clone()
        elif case == "one-hot":
            hot = torch.eye(24, device=device)[torch.arange(60) % 24]
            image[:], text[:] = hot, hot
        elif case == "zero":
            image.zero_(), text.zero_()
        elif case == "duplicate captions":
            text[30:] = text[:30].clone()
    return image, text, scale, bias


CASES = "far from the positives", "all alike", "one-hot", "zero", "duplicate captions"


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_extremes(device, kind, dtype, case):
    # Where all entries of G are alike, so are their roundings.
    unit = 2 * torch.finfo(dtype).eps if case in ("all alike", "one-hot") and dtype == torch.bfloat16 else 0.0
    assert_right(extremes(case, device, dtype), kind, unit, chunk=40)


@pytest.mark.parametrize("bias", [0.0, -5.0, -12.0, -30.0])
def test_small_losses_of_far_negatives_are_kept(device, bias):
    """softplus(-30) = 9e-14; as log(1 + 9e-14) in float32 it would be 0."""
    image, text, *_ = leaves(device, 140, 24)
    scalars = [torch.tensor(value, device=device) for value in (1.0, bias)]
    tiles = backend.TritonTiles(image[0].detach(), text.detach(), *scalars, seen_twice=0)
    (tile,) = cut(1, 140, 140, 0, 0, 0, tiles.elements)
    tiles.sigmoid_gradient(tile, tiles.images, tiles.texts)
    expected = functional.softplus((image[0].double() @ text.double().T) + bias, threshold=100).sum()
    assert relative(tiles._sums.sum(1)[0], expected) < 1e-5


@KINDS
@pytest.mark.parametrize("wanted", range(4))
def test_only_what_asks_gets_a_gradient(device, kind, wanted):
    inputs = leaves(device, 20, 8, 2)
    fixed = [x.detach() for x in inputs]
    fixed[wanted].requires_grad_()
    (found,) = torch.autograd.grad(contrastive_loss(*fixed, kind=kind, backend="triton"), fixed[wanted])
    torch.testing.assert_close(found, ours(inputs, kind)[1 + wanted])


@KINDS
def test_without_gradients_the_value_is_the_same(device, kind):
    inputs = leaves(device, 70, 8, 2)
    with torch.no_grad():
        value = contrastive_loss(*inputs, kind=kind, backend="triton")
    assert not value.requires_grad
    torch.testing.assert_close(value, ours(inputs, kind)[0])


@KINDS
def test_a_feature_that_is_not_a_number_shows_in_the_loss(device, kind):
    inputs = leaves(device, 70, 8)
    with torch.no_grad():
        inputs[1][3, 2] = torch.nan
    assert contrastive_loss(*inputs, kind=kind, backend="triton").isnan()


@KINDS
def test_two_runs_are_bitwise_equal(device, kind):
    inputs = leaves(device, *((70, 40) if INTERPRET else (2000, 768)), 2, dtype=torch.bfloat16)
    runs = [ours(inputs, kind, chunk=33) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@KINDS
def test_keeps_only_gradients_of_the_features(device, kind):
    n, d = 70, 8
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contrastive_loss(*leaves(device, n, d), kind=kind, backend="triton").backward()
    assert max(kept) == n * d


@KINDS
def test_allocates_no_more_than_a_tile_of_similarities(device, kind, monkeypatch):
    n, d, chunk = 256, 16, 4096
    monkeypatch.setattr(backend.TritonTiles, "elements", n * d)
    ranks = Ranks.of("contrastive_loss", None)
    options = Options(kind == "softmax", ranks, False, chunk, True, True, True)
    inputs = [x.detach() for x in leaves(device, n, d)]
    with Allocations() as allocated:
        Similarities(*inputs, options, backend.TritonTiles).solve()
    assert allocated.largest == n * d


@KINDS
def test_is_an_operator_by_the_book(device, kind):
    for wanted in ([True, True, True], [False, True, False]):
        inputs = [x.requires_grad_(needed) for x, needed in zip(leaves(device, 4, 8), [*wanted, True], strict=True)]
        arguments = *inputs, "", Call(kind == "softmax", 0, 5, *wanted)
        torch.library.opcheck(torch.ops.silc_kernels.contrastive_triton.default, arguments)


@KINDS
@pytest.mark.parametrize("name", ["triton", "torch"])
def test_compiles_into_one_graph(device, kind, name):
    def loss(image, text, scale, bias):
        return 2 * contrastive_loss(image, text, scale.exp(), bias, kind=kind, normalize=True, backend=name)

    inputs = leaves(device, 20, 8, 2, scale=2.0)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, expected in zip(solve(inputs, compiled(*inputs)), solve(inputs, loss(*inputs)), strict=True):
        torch.testing.assert_close(found, expected)


@KINDS
def test_trains_as_the_reference_does(device, needs, kind):
    """A few steps of two towers of one layer, through the objective as the trainer calls it."""
    needs("pydantic")  # the trainer's configuration does
    from silc.objective import contrastive as objective
    from silc.objective import plan_views
    from tests.train import cases

    config = cases.config()
    config.objective.contrastive = kind
    plan = plan_views(config)
    runs = []
    for config.kernels.contrastive in ("triton", "torch"):
        pixels, words = unit(16, plan.student_large, 20, seed=3), unit(16, 12, seed=4)
        towers = [unit(20, 10, seed=5), unit(12, 10, seed=6), torch.tensor([2.0]), torch.tensor([-2.0])]
        towers = [x.to(device, torch.float32).requires_grad_() for x in towers]
        pixels, words = pixels.to(device, torch.float32), words.to(device, torch.float32)
        losses = []
        for _ in range(4):
            loss = objective(
                pixels @ towers[0],
                words @ towers[1],
                towers[2].exp(),
                towers[3] if kind == "sigmoid" else None,
                plan=plan,
                config=config,
                dtype=torch.float32,
            )
            used = towers if kind == "sigmoid" else towers[:3]
            for tower, gradient in zip(used, torch.autograd.grad(loss, used), strict=True):
                tower.data -= 0.5 * gradient
            losses.append(loss.item())
        runs.append(losses)
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
    assert all(later < earlier for earlier, later in itertools.pairwise(runs[0]))
