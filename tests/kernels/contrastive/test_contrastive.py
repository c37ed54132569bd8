"""contrastive_loss against open_clip's losses and against one process, and what it promises about memory."""

import re

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss, SigLipLoss

from silc_kernels import center_update, contrastive_loss
from silc_kernels.common.collectives import Ranks
from silc_kernels.contrastive import torch_tiles as tiles
from silc_kernels.contrastive.agreement import Call
from silc_kernels.contrastive.passes import Options, Similarities
from tests.kernels.contrastive.worker import WORLD, work, work_beside_one_that_dies
from tests.kernels.oracles import Allocations, contrastive, far_below_one_another, normal, relative, unit
from tests.kernels.tolerance import assert_as_good_as

KINDS = pytest.mark.parametrize("kind", ["softmax", "sigmoid"])


def leaves(n=7, d=5, views=1, scale=9.0, bias=-4.0, dtype=torch.float64):
    features = unit(views, n, d, seed=1, dtype=dtype), unit(n, d, seed=2, dtype=dtype)
    scalars = torch.tensor([scale], dtype=torch.float64), torch.tensor([bias], dtype=torch.float64)
    if dtype != torch.float64:
        scalars = tuple(scalar.float() for scalar in scalars)
    return [x.requires_grad_() for x in (*features, *scalars)]


def solve(inputs, loss):
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return loss.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True))


@KINDS
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 12),
    d=st.integers(1, 9),
    views=st.integers(1, 3),
    chunk=st.integers(1, 13),
    tile=st.sampled_from([1, 17, 1 << 22]),
    kept=st.sampled_from([0, 1 << 22]),
    scale=st.sampled_from([0.5, 20.0, 100.0]),
)
def test_equals_the_formula_whatever_the_shape_and_the_chunk(kind, n, d, views, chunk, tile, kept, scale):
    inputs = leaves(n, d, views, scale)
    expected = solve(inputs, contrastive(*inputs, kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", tile)
        patch.setattr(tiles, "KEPT_ELEMENTS", kept)
        actual = solve(inputs, contrastive_loss(*inputs, kind=kind, chunk=chunk))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@KINDS
@pytest.mark.parametrize("chunk", [4096, 40])
def test_equals_open_clip(kind, chunk):
    inputs = leaves(96, 32, 1, dtype=torch.float32)
    image, text, scale, bias = inputs
    peer = ClipLoss()(image[0], text, scale) if kind == "softmax" else SigLipLoss()(image[0], text, scale, bias)
    actual = solve(inputs, contrastive_loss(*inputs, kind=kind, chunk=chunk))
    for mine, theirs in zip(actual, solve(inputs, peer), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@KINDS
def test_views_are_losses_of_their_own(kind):
    image, text, scale, bias = leaves(6, 4, 3)
    apart = torch.stack([contrastive_loss(view, text, scale, bias, kind=kind) for view in image])
    torch.testing.assert_close(contrastive_loss(image, text, scale, bias, kind=kind), apart.mean())


def test_processes_equal_one_process(tmp_path):
    """1, 2 and 4 gloo processes, both kinds and plans, chunks that do not divide n; see worker.py."""
    context = mp.get_context("spawn")
    queue = context.Queue()
    spawned = mp.spawn(work, (str(tmp_path / "store"), queue), nprocs=WORLD, join=False, start_method="spawn")
    results = dict(queue.get(timeout=240) for _ in range(WORLD))
    for process in spawned.processes:
        process.join(30)
    assert results == dict.fromkeys(range(WORLD))


@KINDS
def test_a_rank_that_dies_in_the_middle_ends_the_others(kind, tmp_path):
    context = mp.get_context("spawn")
    queue = context.Queue()
    arguments = kind, str(tmp_path / "store"), queue
    processes = [context.Process(target=work_beside_one_that_dies, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    # The next slice is on its way meanwhile: whichever of the two is waited for first.
    message = r"contrastive_loss: (all_gather|reduce_scatter) failed on rank 0 of 2: another rank died"
    assert re.match(message, queue.get(timeout=120))
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 1]


@pytest.mark.parametrize("tile", [1 << 22, 64])
def test_scale_100_far_from_the_positives_is_exact(tile, monkeypatch):
    """A text opposite to all images: its column lies 200 below the rows' maxima, which exp() cannot span."""
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", tile)
    image, text, scale, _ = leaves(16, 8, 1, 100.0, dtype=torch.float32)
    with torch.no_grad():
        far_below_one_another(image[0], text)
    inputs = [image, text, scale]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = solve(wide, contrastive(*wide, None, "softmax"))
    actual = solve(inputs, contrastive_loss(*inputs))
    assert all(relative(mine, theirs) < 1e-4 for mine, theirs in zip(actual, expected, strict=True))


@KINDS
def test_duplicates_and_a_single_pair(kind):
    image, text, scale, bias = leaves(4, 3, 1, 100.0)
    same = [x.detach().requires_grad_() for x in (image, text[:1].expand(4, -1).clone(), scale, bias)]
    single = [x.detach().requires_grad_() for x in (image[:, :1], text[:1], scale, bias)]
    for inputs in (same, single):
        actual = solve(inputs, contrastive_loss(*inputs, kind=kind))
        for mine, theirs in zip(actual, solve(inputs, contrastive(*inputs, kind)), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_features_are_computed_in_float32(kind, dtype):
    inputs = leaves(33, 16, 2, 30.0, dtype=dtype)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = solve(wide, contrastive(*wide, kind))
    actual = solve(inputs, contrastive_loss(*inputs, kind=kind, chunk=10))
    assert actual[0].dtype == torch.float32
    assert [x.dtype for x in actual[1:]] == [dtype, dtype, torch.float32, torch.float32]
    assert relative(actual[0], expected[0]) < 1e-6
    assert all(relative(mine, theirs) < 5e-3 for mine, theirs in zip(actual[1:3], expected[1:3], strict=True))
    # Only the features' gradients are rounded to the features' dtype.
    assert relative(actual[3], expected[3]) < 1e-5


@KINDS
@pytest.mark.parametrize("wanted", range(4))
def test_only_what_asks_gets_a_gradient(kind, wanted):
    inputs = leaves()
    expected = solve(inputs, contrastive(*inputs, kind))[1 + wanted]
    fixed = [x.detach() for x in inputs]
    fixed[wanted].requires_grad_()
    (actual,) = torch.autograd.grad(contrastive_loss(*fixed, kind=kind), fixed[wanted])
    torch.testing.assert_close(actual, expected)


@KINDS
def test_without_gradients_the_value_is_the_same(kind):
    inputs = leaves()
    with torch.no_grad():
        value = contrastive_loss(*inputs, kind=kind)
    assert not value.requires_grad
    torch.testing.assert_close(value, contrastive(*inputs, kind).detach())


@KINDS
def test_gradcheck(kind):
    inputs = leaves(4, 3, 2, 5.0)
    assert torch.autograd.gradcheck(lambda *x: contrastive_loss(*x, kind=kind, chunk=3), inputs)


def test_normalize_is_part_of_the_op():
    image, text = (normal(6, 4, seed=seed).requires_grad_() for seed in (1, 2))
    scale = torch.tensor([8.0], dtype=torch.float64)
    units = [torch.nn.functional.normalize(x, dim=-1) for x in (image, text)]
    expected = torch.autograd.grad(contrastive(units[0][None], units[1], scale, None, "softmax"), (image, text))
    actual = torch.autograd.grad(contrastive_loss(image, text, scale, normalize=True), (image, text))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_normalized_features_keep_their_dtype(dtype, monkeypatch):
    """Gathered and multiplied in it, and no worse than the same in plain torch."""
    inputs = [3 * normal(33, 16, seed=seed).to(dtype) for seed in (1, 2)]
    scale = torch.tensor([30.0])
    multiplied = []
    operand = tiles.TorchTiles.operand
    monkeypatch.setattr(tiles.TorchTiles, "operand", lambda self, x: (multiplied.append(x.dtype), operand(self, x))[1])

    def run(loss, wanted):
        leaves = [x.detach().to(wanted).requires_grad_() for x in (*inputs, scale)]
        return solve(leaves, loss(*leaves))

    def plain(image, text, scale):
        units = (torch.nn.functional.normalize(x.float(), dim=-1).to(x.dtype).float() for x in (image, text))
        return contrastive(next(units)[None], next(units), scale.float(), None, "softmax")

    def exact(image, text, scale):
        units = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text))
        return contrastive(next(units)[None], next(units), scale, None, "softmax")

    found = run(lambda *leaves: contrastive_loss(*leaves, normalize=True), dtype)
    assert set(multiplied) == {dtype}
    for name, mine, theirs, truth in zip(
        ("loss", "image", "text", "scale"), found, run(plain, dtype), run(exact, torch.float64), strict=True
    ):
        assert_as_good_as(mine, theirs, truth, name)


@KINDS
def test_two_runs_are_bitwise_equal(kind):
    inputs = leaves(50, 16, 2, dtype=torch.float32)
    runs = [solve(inputs, contrastive_loss(*inputs, kind=kind, chunk=7)) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@KINDS
def test_keeps_only_gradients_of_the_features(kind):
    inputs = leaves(256, 8, 1, dtype=torch.float32)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contrastive_loss(*inputs, kind=kind, chunk=64).backward()
    assert max(kept) == 256 * 8


@KINDS
def test_allocates_nothing_of_batch_by_batch(kind, monkeypatch):
    n, d, chunk = 256, 8, 64
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 32 * chunk)
    monkeypatch.setattr(tiles, "KEPT_ELEMENTS", 0)
    # Not through the operator: what happens inside one is not seen.
    options = Options(kind == "softmax", Ranks.of("contrastive_loss", None), False, chunk, True, True, True)
    with Allocations() as allocated:
        Similarities(*(x.detach() for x in leaves(n, d, 1, dtype=torch.float32)), options, tiles.TorchTiles).solve()
    assert allocated.largest <= 32 * chunk == n * d


@KINDS
def test_is_an_operator_by_the_book(kind):
    for wanted in ([True, True, True], [False, True, False]):
        inputs = [x.requires_grad_(needed) for x, needed in zip(leaves(5, 3, 2), [*wanted, True], strict=True)]
        arguments = *inputs, "", Call(kind == "softmax", 0, 4, *wanted)
        torch.library.opcheck(torch.ops.silc_kernels.contrastive_torch.default, arguments)


@KINDS
def test_compiles_into_one_graph(kind):
    def loss(image, text, scale, bias):
        return 2 * contrastive_loss(image, text, scale.exp(), bias, kind=kind, normalize=True)

    inputs = leaves(8, 5, 2, scale=2.0)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, expected in zip(solve(inputs, compiled(*inputs)), solve(inputs, loss(*inputs)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("power", [1, 2])
def test_differentiating_twice_is_refused(power):
    """Also where the incoming gradient, that of a bare loss, is a constant."""
    inputs = leaves()
    gradients = torch.autograd.grad(contrastive_loss(*inputs, kind="sigmoid") ** power, inputs, create_graph=True)
    for gradient in gradients:
        with pytest.raises(RuntimeError, match="contrastive_loss is differentiable once"):
            gradient.sum().backward(retain_graph=True)


@pytest.mark.parametrize("wanted", [False, True])
def test_forward_mode_is_refused(wanted):
    """Not a tangent of 0."""
    image, text, scale, _ = [x.detach().requires_grad_(wanted) for x in leaves()]
    with pytest.raises(RuntimeError, match=r"forward AD|jvp"):
        torch.func.jvp(lambda x: contrastive_loss(x, text, scale), (image,), (torch.ones_like(image),))
    with pytest.raises(RuntimeError, match=r"forward AD|jvp"), torch.autograd.forward_ad.dual_level():
        contrastive_loss(torch.autograd.forward_ad.make_dual(image, torch.ones_like(image)), text, scale)


def test_functional_transforms_are_refused():
    image, text, scale, _ = [x.detach() for x in leaves()]
    with pytest.raises(RuntimeError, match=r"contrastive_loss does not run under torch\.func\.grad"):
        torch.func.grad(lambda x: contrastive_loss(x, text, scale))(image)


MISUSE = [
    ({"image": torch.zeros(3, 5)}, r"image has shape \[3, 5\].*\[7, 5\]"),
    ({"image": torch.zeros(2, 6, 5)}, r"image has shape \[2, 6, 5\]"),
    ({"text": torch.zeros(7)}, r"text has shape \[7\]"),
    ({"image": torch.zeros(0, 5), "text": torch.zeros(0, 5)}, r"text has shape \[0, 5\]"),
    ({"image": torch.zeros(7, 5, dtype=torch.int32)}, "dtype torch.int32"),
    ({"logit_scale": torch.ones(2)}, r"logit_scale has shape \[2\]"),
    ({"logit_bias": torch.ones(3)}, r"logit_bias has shape \[3\]"),
    ({"text": torch.zeros(7, 5, device="meta")}, "text is on meta"),
    ({"kind": "siglip"}, "kind is 'siglip'; choose one of softmax, sigmoid"),
    ({"plan": "ring"}, "plan is 'ring'"),
    ({"chunk": 0}, "chunk is 0"),
    ({"chunk": 2.5}, r"chunk is 2\.5.*a whole number"),
    ({"chunk": None}, "chunk is None.*a whole number"),
    ({"logit_scale": 10.0}, r"logit_scale is 10\.0, no tensor.*torch\.tensor\(\[10\.0\]\)"),
    ({"logit_bias": -10.0}, r"logit_bias is -10\.0, no tensor.*torch\.tensor\(\[-10\.0\]\)"),
]


@pytest.mark.parametrize(("change", "message"), MISUSE)
def test_misuse_is_named(change, message):
    arguments = {"image": torch.zeros(7, 5), "text": torch.zeros(7, 5), "logit_scale": torch.ones(1)} | change
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**arguments)


def test_center_update_in_one_process():
    center, weight, features = normal(9), normal(9, 4, seed=1), normal(6, 4, seed=2)
    before = center.clone()
    expected = 0.9 * center + 0.1 * (features @ weight.T).mean(0)
    torch.testing.assert_close(center_update(center, features.mean(0), weight, momentum=0.9), expected)
    torch.testing.assert_close(center_update(center, (features @ weight.T).mean(0), momentum=0.9), expected)
    assert torch.equal(center, before)
    low = center_update(center.float(), features.mean(0).bfloat16(), weight.bfloat16(), momentum=0.9)
    assert low.dtype == torch.float32
    assert relative(low, expected) < 1e-2


def test_center_update_is_exact_under_autocast():
    center, weight, feature = (normal(*shape, dtype=torch.float32) for shape in ((9,), (9, 4), (4,)))
    expected = center_update(center, feature, weight, momentum=0.9)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(center_update(center, feature, weight, momentum=0.9), expected)


def test_a_group_without_this_process_is_named():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        others, features = dist.GroupMember.NON_GROUP_MEMBER, torch.zeros(2, 3)  # what new_group gives others
        with pytest.raises(ValueError, match=r"contrastive_loss: group is.*no member"):
            contrastive_loss(features, features, torch.ones(1), group=others)
        with pytest.raises(ValueError, match=r"center_update: group is.*no member"):
            center_update(features[0], features[0], momentum=0.9, group=others)
    finally:
        dist.destroy_process_group()


def test_center_update_misuse_is_named():
    center = torch.zeros(9)
    with pytest.raises(ValueError, match=r"momentum is 1\.5"):
        center_update(center, center, momentum=1.5)
    with pytest.raises(ValueError, match="give teacher_weight"):
        center_update(center, torch.zeros(4), momentum=0.9)
    with pytest.raises(ValueError, match=r"teacher_weight has shape \[9, 3\]"):
        center_update(center, torch.zeros(4), torch.zeros(9, 3), momentum=0.9)
