"""PackedLayout: where each crop's tokens lie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silc_kernels import PackedLayout

GROUPS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4).map(tuple)


@settings(max_examples=30, deadline=None)
@given(GROUPS)
def test_views_offsets_and_lengths_agree(groups):
    layout = PackedLayout(groups)
    lengths = [tokens for crops, tokens in groups for _ in range(crops)]
    assert layout.total == sum(lengths)
    assert layout.seqlens == lengths
    assert layout.max_seqlen == max(lengths)
    starts = layout.cu_seqlens("cpu")
    assert starts.dtype == torch.int32
    assert starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    packed = torch.arange(layout.total * 3).view(-1, 3)
    views = layout.views(packed)
    assert [tuple(view.shape) for view in views] == [(*group, 3) for group in groups]
    assert torch.equal(torch.cat([view.flatten(0, 1) for view in views]), packed)
    for view, start in zip(views, layout.offsets, strict=False):
        assert view.is_contiguous()
        assert view.data_ptr() == packed[start].data_ptr()
    assert layout.offsets[-1] == layout.total


def test_misuse_is_named():
    for groups in ((), ((0, 4),), ((2, 0),)):
        with pytest.raises(ValueError, match="at least one"):
            PackedLayout(groups)
    with pytest.raises(ValueError, match="this layout has 8 rows"):
        PackedLayout(((2, 4),)).views(torch.zeros(7, 3))
