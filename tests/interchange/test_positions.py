"""Position tables are resized as each library resizes its own."""

from __future__ import annotations

import itertools

import numpy as np
import open_clip.model
import pytest
import scipy.ndimage
import timm.layers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

from silc.interchange.positions import resize, resize_text

METHODS = ("timm", "hugging_face", "big_vision")
side = st.integers(min_value=1, max_value=40)


def table(positions: int, width: int = 5) -> Tensor:
    return torch.randn(1, positions, width, generator=torch.Generator().manual_seed(positions))


@settings(deadline=None)
@given(rows=side, columns=side, new=st.tuples(side, side))
def test_as_timm(rows, columns, new):
    old = table(rows * columns)
    theirs = timm.layers.resample_abs_pos_embed(old, list(new), [rows, columns], num_prefix_tokens=0)
    torch.testing.assert_close(resize(old, (rows, columns), new, "timm"), theirs, rtol=0, atol=0)


@settings(deadline=None)
@given(old=side, new=st.tuples(side, side))
def test_as_transformers(old, new):
    """Whose tables are square, for images of any proportions."""
    embeddings = SiglipVisionEmbeddings(SiglipVisionConfig(hidden_size=5, image_size=old * 4, patch_size=4))
    with torch.no_grad():
        embeddings.position_embedding.weight.copy_(table(old * old)[0])
        theirs = embeddings.interpolate_pos_encoding(torch.empty(1, new[0] * new[1], 5), new[0] * 4, new[1] * 4)
        ours = resize(embeddings.position_embedding.weight[None], (old, old), new, "hugging_face")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def zoomed(old: Tensor, new: int, **arguments: str) -> np.ndarray:
    """What big_vision's resample_posemb computes of a table [1, N, D]: [1, new * new, D]."""
    side = int(np.sqrt(old.shape[1]))
    grid = scipy.ndimage.zoom(old.numpy().reshape(side, side, -1), (new / side, new / side, 1), order=1, **arguments)
    return grid.reshape(1, new * new, -1)


@settings(deadline=None)
@given(old=side, new=side)
def test_as_big_vision(old, new):
    """The edge is continued here: where rounding takes the last position past it, as from 32 to 16, scipy's default
    fills the last row and column with zeros.
    """
    ours = resize(table(old * old), (old, old), (new, new), "big_vision")
    np.testing.assert_allclose(ours.numpy(), zoomed(table(old * old), new, mode="nearest"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(14, 16), (14, 24), (16, 24), (16, 32), (24, 16), (27, 16), (16, 27)])
def test_as_big_vision_at_the_sizes_of_its_models(old, new):
    ours = resize(table(old * old), (old, old), (new, new), "big_vision")
    np.testing.assert_allclose(ours.numpy(), zoomed(table(old * old), new), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(old=st.integers(min_value=1, max_value=200), new=st.integers(min_value=1, max_value=200))
def test_texts_as_open_clip(old, new):
    model = nn.Module()
    model.positional_embedding = nn.Parameter(torch.zeros(new, 5))
    state = {"positional_embedding": table(old)[0]}
    open_clip.model.resize_text_pos_embed(state, model)
    torch.testing.assert_close(resize_text(table(old)[0], new), state["positional_embedding"], rtol=0, atol=0)


@pytest.mark.parametrize("new", [3, 9])
def test_the_three_differ(new):
    """So that none of the tests above passes by another's arithmetic."""
    found = [resize(table(36), (6, 6), (new, new), how) for how in METHODS]
    for one, other in itertools.combinations(found, 2):
        assert not torch.allclose(one, other, atol=1e-3)


def test_equal_sizes_change_nothing():
    for how in METHODS:
        assert resize(table(36), (6, 6), (6, 6), how).equal(table(36))
    assert resize_text(table(36)[0], 36).equal(table(36)[0])


@pytest.mark.parametrize("how", METHODS)
def test_low_precision_is_kept(how):
    assert resize(table(16).bfloat16(), (4, 4), (6, 6), how).dtype == torch.bfloat16


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="3 x 6 patches"):
        resize(table(36), (3, 6), (6, 6), "timm")
    with pytest.raises(ValueError, match="6 x 6 patches"):
        resize(table(36), (6, 6), (0, 6), "timm")
    with pytest.raises(ValueError, match="not one for texts"):
        resize_text(table(36), 12)
