"""The attention registry: what it picks, why, and that a backend asked for by name runs or says why not."""

import pytest
import torch

from silc.model import attention
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
