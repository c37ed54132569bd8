"""The attention registry: what it picks, why, and that a backend asked for by name runs or says why not."""

import pytest
import torch

from silc.model import attention
from silc.model.text import SelfAttention
from silc_kernels import PackedLayout

CPU = torch.device("cpu")


def test_attention_stays_inside_a_crop():
    layout = PackedLayout(((2, 5), (3, 2)))
    heads, width = 2, 8
    qkv = torch.randn(layout.total, 3 * width, dtype=torch.float64)
    rows = []
    for crop in qkv.split(layout.seqlens):
        q, k, v = crop.view(-1, 3, heads, width // heads).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / (width // heads) ** 0.5).softmax(-1)
        rows.append((weights @ v).transpose(0, 1).reshape(-1, width))
    torch.testing.assert_close(torch.cat(attention.sdpa(qkv, heads, layout)), torch.cat(rows))


def test_auto_takes_sdpa_on_a_cpu_and_says_why_not_xformers():
    op, backend, reason = attention.report("auto", CPU, torch.float32)
    assert (op, backend) == ("attention", "sdpa")
    assert "xformers" in reason
    assert "CUDA" in reason


def test_a_backend_that_cannot_run_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"xformers.*CUDA.*take auto or sdpa"):
        attention.choose("xformers", CPU, torch.float32)


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"flash.*auto, xformers, sdpa"):
        attention.choose("flash", CPU, torch.float32)


def test_sdpa_by_name():
    assert attention.choose("sdpa", CPU, torch.float32).attend is attention.sdpa


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 7, 36])
def test_half_precision_on_a_cpu_is_fp32_attention_rounded_once(dtype, length):
    q, k, v = torch.randn(3, 2, 4, length, 16).to(dtype)
    weights = (q.double() @ k.double().transpose(-1, -2) / 4).softmax(-1)
    exact = weights @ v.double()
    found = attention.sdpa_heads(q, k, v)
    assert found.dtype == dtype
    # Half a unit in the last place, and what fp32 loses before it: no intermediate value was rounded to `dtype`.
    half = torch.finfo(dtype).eps / 2
    assert ((found.double() - exact).abs() <= exact.abs() * half + 1e-5 * half + 2e-6).all()


def test_half_precision_gives_the_gradients_of_fp32():
    given = [part.bfloat16().requires_grad_() for part in torch.randn(3, 2, 3, 9, 8)]
    exact = [part.detach().double().requires_grad_() for part in given]
    upstream = torch.randn(2, 3, 9, 8).bfloat16()
    attention.sdpa_heads(*given).backward(upstream)
    q, k, v = exact
    ((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v).backward(upstream.double())
    for found, wanted in zip(given, exact, strict=True):
        assert found.grad.dtype == torch.bfloat16
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=2**-8, atol=1e-5)


def test_both_towers_attend_so(monkeypatch):
    """In bf16 on a CPU no fused kernel sees bf16: its backward pass takes five times as long."""
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, *rest, **words: seen.append(q.dtype) or real(q, *rest, **words),
    )
    layout = PackedLayout(((2, 5),))
    (out,) = attention.sdpa(torch.randn(10, 24).bfloat16(), 2, layout)
    tower = SelfAttention(16, 2).bfloat16()
    assert out.dtype == tower(torch.randn(2, 3, 16).bfloat16(), False).dtype == torch.bfloat16
    assert seen == [torch.float32] * 2
