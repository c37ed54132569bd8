"""patch_embed against timm's PatchEmbed, exact integers and float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import PatchEmbed

from silc_kernels import PackedLayout, patch_embed
from silc_kernels.patch_embedding import torch_backend
from tests.kernels.oracles import Allocations, normal, relative, tokens
from tests.kernels.patch_embedding.problems import IMAGENET, PLAIN, cut, identity, pixels, problem, trained

SIZES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    sizes=SIZES,
    patch=st.sampled_from([1, 4, 7, 8, 14, 16]),
    width=st.integers(1, 9),
    prefix=st.integers(0, 2),
    chunk=st.sampled_from([1, 500, 1 << 20]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    as_float=st.booleans(),
)
def test_equals_the_formula_with_all_gradients(sizes, patch, width, prefix, chunk, layout, as_float):
    sizes = [(m, h * patch, w * patch) for m, h, w in sizes]
    crops, weight, bias, tables, before = problem(sizes, patch, width, prefix)
    crops = [crop.contiguous(memory_format=layout) for crop in crops]
    if as_float:
        crops[0] = crops[0].double() / 255
    expected = tokens(crops, weight, bias, tables, **IMAGENET, prefix=before)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_backend, "CHUNK_ELEMENTS", chunk)
        actual = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before)
        torch.testing.assert_close(actual, expected)
        upstream = normal(*expected.shape, seed=20)
        inputs = trained(weight, bias, tables, before)
        gradients = torch.autograd.grad(actual, inputs, upstream)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("sizes", "patch"), [([(2, 256, 256), (3, 96, 96)], 16), ([(1, 224, 224)], 14)])
def test_equals_timm_in_float32(sizes, patch):
    crops, weight, bias, tables, _ = problem(sizes, patch, 64, dtype=torch.float32)
    actual = patch_embed(crops, weight, bias, tables, mean=(0.5,) * 3, std=(0.5,) * 3)
    views = PackedLayout(tuple((m, len(table)) for (m, _, _), table in zip(sizes, tables, strict=True))).views(actual)
    for crop, table, view in zip(crops, tables, views, strict=True):
        peer = PatchEmbed(crop.shape[-1], patch, 3, 64)
        peer.proj.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        expected = peer(crop.float().div(255).sub(0.5).div(0.5)) + table
        torch.testing.assert_close(view, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width", "patch"), [(12, 20, 4), (28, 14, 14), (16, 8, 8)])
def test_patchify_is_equal_on_integers(height, width, patch, layout):
    """An identity projection of raw bytes returns every byte, in place."""
    crop = pixels(3, 3, height, width).contiguous(memory_format=layout)
    weight = identity(patch, torch.float32)
    inputs = len(weight)
    tables = [torch.zeros((height // patch) * (width // patch), inputs)]
    actual = patch_embed([crop.float()], weight, torch.zeros(inputs), tables, **IMAGENET)
    # Bytes are centered by 128 inside: the identity on byte / 255 with std 1 / 255 gives them back up to one rounding.
    centered = patch_embed([crop], weight, torch.zeros(inputs), tables, **PLAIN)
    assert torch.equal(actual, cut(crop, patch).float())
    assert torch.equal(centered.round(), actual)
    assert (centered - actual).abs().max() < 1e-4


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 16, 16)])
def test_bytes_off_a_boundary_of_words_and_strides_of_single_crops(shape, patch):
    """What torch calls contiguous: a size of 1 at any stride, and storages whose addresses and offsets differ."""
    weight, bias = normal(4, 3, patch, patch, dtype=torch.float32), torch.zeros(4)
    table = torch.zeros((16 // patch) ** 2, 4)
    stored = np.zeros(2000, dtype=np.uint8)
    # The first two: addresses on a boundary, offsets not. The last: fit for words.
    for start, offset in ((patch - 5, 5), (8, 8), (3, 8), (0, 16)):
        base = torch.from_numpy(stored[(start - stored.ctypes.data) % 16 :])
        for stride in (768, 769) if shape[0] == 1 else (768,):
            crop = base.as_strided(shape, (stride, 256, 16, 1), offset).copy_(pixels(*shape))
            assert crop.is_contiguous()
            assert crop.data_ptr() % 16 == (start + offset) % 16
            by_bytes = crop.contiguous(memory_format=torch.channels_last)
            expected = patch_embed([by_bytes], weight, bias, [table], **IMAGENET)
            assert torch.equal(patch_embed([crop], weight, bias, [table], **IMAGENET), expected)


def test_changing_one_crop_leaves_every_other_row_bitwise_unchanged():
    crops, weight, bias, tables, before = problem([(3, 32, 32), (4, 16, 16)], 8, 24, prefix=1, dtype=torch.float32)
    first = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before)
    crops[0][1] = 255 - crops[0][1]
    second = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before)
    changed = (first != second).any(dim=1)
    rows = PackedLayout(((3, 17), (4, 5))).views(torch.arange(len(first)))
    # The prefix token of the changed crop does not depend on its pixels.
    assert torch.equal(changed.nonzero().flatten(), rows[0][1][1:])


def test_bfloat16_error_is_at_most_that_of_normalising_first():
    crops, weight, bias, tables, _ = problem([(4, 64, 64)], 16, 96)
    exact = tokens(crops, weight, bias, tables, **IMAGENET, prefix=None)
    low = [x.detach().bfloat16() for x in (weight, bias, tables[0])]
    actual = patch_embed(crops, low[0], low[1], [low[2]], **IMAGENET)
    assert actual.dtype == torch.bfloat16
    normalised = [(crop.double() / 255 - torch.tensor(IMAGENET["mean"]).view(3, 1, 1)) for crop in crops]
    normalised = [(x / torch.tensor(IMAGENET["std"]).view(3, 1, 1)).bfloat16() for x in normalised]
    eager = tokens(normalised, low[0], low[1], [low[2]], None, None, None)
    assert relative(actual, exact) <= relative(eager, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gradients(dtype):
    crops, weight, bias, tables, before = problem([(3, 32, 32), (2, 16, 16)], 8, 12, prefix=1)
    inputs = trained(weight, bias, tables, before)
    low = [x.detach().to(dtype).requires_grad_() for x in inputs]
    out = patch_embed(crops, low[0], low[1], low[2:4], **IMAGENET, prefix=low[4])
    upstream = normal(*out.shape, seed=20, dtype=dtype)
    wide = [x.double() for x in low]
    expected = tokens(crops, wide[0], wide[1], wide[2:4], **IMAGENET, prefix=wide[4])
    gradients = torch.autograd.grad(out, low, upstream)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, low, upstream.double()), strict=True):
        assert mine.dtype == dtype
        assert relative(mine, theirs) < 1e-2


def test_out_dtype_and_gradcheck():
    crops, weight, bias, tables, before = problem([(2, 4, 4), (1, 2, 4)], 2, 3, prefix=1)
    single = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before, out_dtype=torch.float32)
    assert single.dtype == torch.float32
    call = lambda w, b, p, *t: patch_embed(crops, w, b, t, **IMAGENET, prefix=p)  # noqa: E731
    assert torch.autograd.gradcheck(call, (weight, bias, before, *tables))


def test_two_runs_are_bitwise_equal():
    crops, weight, bias, tables, before = problem([(5, 32, 32), (3, 16, 16)], 8, 24, prefix=1, dtype=torch.float32)
    inputs = trained(weight, bias, tables, before)
    runs = []
    for _ in range(2):
        out = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before)
        runs.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_keeps_no_floats_of_the_pixels(monkeypatch):
    """Backward needs the bytes alone; the patch matrix exists a few crops at a time."""
    crops, weight, bias, tables, _ = problem([(16, 32, 32)], 8, 4, dtype=torch.float32)
    monkeypatch.setattr(torch_backend, "CHUNK_ELEMENTS", 2 * 3 * 32 * 32)
    kept = []

    def pack(tensor):
        kept.append((tensor.dtype, tensor.numel()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = patch_embed(crops, weight, bias, tables, **IMAGENET)
    assert kept == [(torch.uint8, crops[0].numel())]
    with torch.no_grad(), Allocations() as allocated:
        torch_backend.forward(crops, weight, bias, tables, None, *IMAGENET.values(), torch.float32)
    assert allocated.largest == max(2 * 3 * 32 * 32, out.numel())
    with torch.no_grad(), Allocations() as allocated:
        torch_backend.backward(out, crops, 8, [16], 0, *IMAGENET.values(), torch.float32)
    assert allocated.largest == 2 * 3 * 32 * 32


def test_parameters_may_be_gone_between_forward_and_backward():
    """As ZeRO-3 and FSDP leave them: storage freed, shape [0]."""
    crops, weight, bias, tables, before = problem([(2, 16, 16), (3, 8, 16)], 8, 12, prefix=1)
    inputs = trained(weight, bias, tables, before)
    expected = torch.autograd.grad(patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before).sum(), inputs)
    total = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before).sum()
    for parameter in inputs:
        parameter.data = parameter.new_empty(0)
    for mine, theirs in zip(torch.autograd.grad(total, inputs), expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("which", range(4))
def test_a_second_derivative_is_refused(which):
    crops, weight, bias, tables, before = problem([(2, 4, 4)], 2, 3, prefix=1)
    packed = patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before)
    inputs = trained(weight, bias, tables, before)
    (gradient,) = torch.autograd.grad(packed.square().sum(), inputs[which], create_graph=True)
    with pytest.raises(RuntimeError, match="patch_embed is differentiable once"):
        gradient.sum().backward()


def test_torch_func_is_refused():
    crops, weight, bias, tables, _ = problem([(2, 4, 4)], 2, 3)
    call = lambda w: patch_embed(crops, w, bias.detach(), [tables[0].detach()], **IMAGENET).sum()  # noqa: E731
    with pytest.raises(RuntimeError):
        torch.func.grad(call)(weight.detach())


def test_the_operators_pass_opcheck():
    crops, weight, bias, tables, before = problem([(2, 16, 16), (3, 8, 16)], 8, 12, prefix=1, dtype=torch.float32)
    mean, std = (list(values) for values in IMAGENET.values())
    operators = torch.ops.silc_kernels
    torch.library.opcheck(
        operators.patch_embed_torch.default, (crops, weight, bias, tables, before, mean, std, torch.float32)
    )
    backward = (torch.randn(2 * 5 + 3 * 3, 12), crops, 8, [4, 2], 1, mean, std, torch.float32)
    torch.library.opcheck(operators.patch_embed_torch_backward.default, backward)
    torch.library.opcheck(operators.resize_positions.default, (tables[0], [2, 2], [3, 1], False))


def test_exports():
    """To a program that holds the operator."""

    class Embed(torch.nn.Module):
        def forward(self, crop, weight, bias, table):
            return patch_embed([crop], weight, bias, [table], **IMAGENET)

    crops, weight, bias, tables, _ = problem([(2, 16, 16)], 8, 12, dtype=torch.float32)
    given = crops[0], weight.detach(), bias.detach(), tables[0].detach()
    program = torch.export.export(Embed(), given)
    assert any("patch_embed_torch" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(*given), Embed()(*given))


def test_compiles_to_one_graph():
    """As the public op, argument checks and all, with its gradients."""
    crops, weight, bias, tables, before = problem([(2, 16, 16), (3, 8, 16)], 8, 12, prefix=1, dtype=torch.float32)
    inputs = trained(weight, bias, tables, before)
    call = lambda: patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before).square()  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(), call())
    gradients = torch.autograd.grad(compiled().sum(), inputs)
    for mine, theirs in zip(gradients, torch.autograd.grad(call().sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_crops_made_in_inference_mode():
    crops, weight, bias, tables, _ = problem([(2, 16, 16)], 8, 12, dtype=torch.float32)
    with torch.inference_mode():
        made = [crop.clone() for crop in crops]
    with pytest.raises(ValueError, match=r"crops\[0\] was made under torch\.inference_mode"):
        patch_embed(made, weight, bias, tables, **IMAGENET)
    plain = weight.detach(), bias.detach(), [table.detach() for table in tables]
    assert torch.equal(patch_embed(made, *plain, **IMAGENET), patch_embed(crops, *plain, **IMAGENET))


CROP, WEIGHT, TABLE = pixels(2, 3, 16, 16), torch.zeros(4, 3, 8, 8), torch.zeros(4, 4)
MISUSE = [
    ({"crops": [CROP[:, :, :12]]}, r"crops\[0\] is 12 x 16 pixels, which patches of 8 do not divide.*8 x 16"),
    ({"crops": [CROP.int()]}, r"crops\[0\] has dtype torch.int32; give uint8"),
    ({"crops": [CROP.permute(0, 2, 3, 1)]}, "channels first"),
    ({"crops": [CROP[0]]}, r"crops\[0\] has shape \[3, 16, 16\]"),
    ({"crops": [CROP.float().requires_grad_()]}, "pixels get none"),
    ({"crops": []}, "0 crop tensors and 1 position tables"),
    ({"crops": [CROP, CROP]}, "2 crop tensors and 1 position tables"),
    ({"crops": [CROP.to("meta")]}, r"crops\[0\] is on meta"),
    ({"positions": [torch.zeros(5, 4)]}, r"positions\[0\] has shape \[5, 4\].*\[4, 4\]"),
    ({"weight": torch.zeros(4, 3, 8, 4)}, "8 x 4 pixels; only square"),
    ({"weight": torch.zeros(4, 192)}, r"weight has shape \[4, 192\]"),
    ({"bias": torch.zeros(5)}, r"bias has shape \[5\]"),
    ({"bias": None}, "bias is None.*give zeros"),
    ({"weight": None}, "weight is None; give a tensor"),
    ({"crops": [None]}, r"crops\[0\] is None; give a tensor"),
    ({"prefix": torch.zeros(4)}, r"prefix has shape \[4\]"),
    ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
    ({"std": (float("nan"), 0.5, 0.5)}, r"std \(nan, 0\.5, 0\.5\) must be.*finite"),
    ({"mean": (float("nan"), 0.5, 0.5)}, r"mean \(nan.*finite"),
    ({"mean": (0.5,)}, "3 numbers each"),
    ({"mean": 0.5}, r"mean 0\.5 and std.*3 numbers each"),
    ({"std": "abc"}, "std 'abc' must be 3 numbers each"),
    ({"out_dtype": torch.int8}, "out_dtype is torch.int8"),
]


@pytest.mark.parametrize(("change", "message"), MISUSE)
def test_misuse_is_named(change, message):
    arguments = {"crops": [CROP], "weight": WEIGHT, "bias": torch.zeros(4), "positions": [TABLE]} | IMAGENET | change
    with pytest.raises(ValueError, match=message):
        patch_embed(**arguments)
