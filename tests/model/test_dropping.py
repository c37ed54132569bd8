"""Drop path and patch dropout: timm's arithmetic, with decisions that are functions of their address alone."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import DropPath
from torch import Tensor, nn

from silc.config import VisionConfig
from silc.model import SilcModel, VisionTower, build, compile_blocks, initialize
from silc.model.dropping import (
    Drawn,
    Dropping,
    branch_scales,
    chosen_patches,
    drop_rates,
    kept_patches,
    thinned,
    words,
)
from silc_kernels import PackedLayout

from .conftest import as_float, tiny_config

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15
PATCHES = 1 << 16


def finalised(x: int) -> int:
    """SplitMix64's finaliser as it was published, on Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def address(seed: int, position: int, view: int) -> int:
    key = finalised((seed * GAMMA + GAMMA) & MASK)
    for number in (position, view):
        key = finalised((key + (number + 1) * GAMMA) & MASK)
    return key


def word(seed: int, position: int, view: int, number: int) -> int:
    return finalised((address(seed, position, view) + (number + 1) * GAMMA) & MASK)


def test_words_are_those_of_splitmix64():
    """The first outputs of the published generator with seed 0."""
    found = words(torch.zeros(1, dtype=torch.int64), torch.arange(3))[0].numpy().astype(np.uint64)
    assert [f"{value:x}" for value in found] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "6c45d188009454f"]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    first=st.integers(0, 10**13),
    samples=st.integers(1, 4),
    views=st.tuples(st.integers(0, 3), st.integers(1, 3)),
    number=st.integers(0, 70_000),
)
def test_an_address_leads_to_the_same_words_in_python(seed, first, samples, views, number):
    own = range(views[0], sum(views))
    keys = Dropping(seed, first).keys(samples, own, "cpu")
    found = words(keys, torch.tensor([number]))[:, 0].numpy().astype(np.uint64).tolist()
    assert found == [word(seed, first + at, view, number) for at in range(samples) for view in own]


def uniform(seed: int = 0) -> np.ndarray:
    """[positions, views, numbers] on [0, 1)."""
    keys = Dropping(seed, 10_000_019).keys(2000, range(10), "cpu")
    found = words(keys, torch.arange(24)).numpy().astype(np.uint64)
    return (found.reshape(2000, 10, 24) >> np.uint64(11)) * 2.0**-53


def test_words_are_uniform_also_one_position_view_or_number_at_a_time():
    """Chi-square over 64 cells: 63 expected, with a standard deviation of 11."""
    values = uniform()

    def chi_square(some: np.ndarray) -> float:
        counts, expected = np.bincount((some.ravel() * 64).astype(int), minlength=64), some.size / 64
        return float(((counts - expected) ** 2 / expected).sum())

    assert chi_square(values) < 63 + 5 * 11.3
    parts = [*(values[:, view] for view in range(10)), *(values[..., number] for number in range(24))]
    parts += [values[at : at + 100] for at in range(0, 2000, 100)]
    found = [chi_square(part) for part in parts]
    assert max(found) < 63 + 5 * 11.3
    assert np.mean(found) == pytest.approx(63, abs=8)


@pytest.mark.parametrize("lag", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2), (1, 1, 0), (7, 0, 0)])
def test_neighbours_do_not_know_of_each_other(lag):
    """Of positions, views, blocks and branches: no correlation, and joint events as often as the product says."""
    values = uniform(seed=3)
    one = values[tuple(slice(None, -step or None) for step in lag)].ravel()
    other = values[tuple(slice(step, None) for step in lag)].ravel()
    count = len(one)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / count**0.5
    for rate in (0.05, 0.3):
        both = np.mean((one < rate) & (other < rate))
        assert both == pytest.approx(rate**2, abs=4 * (rate**2 * (1 - rate**2) / count) ** 0.5)


def test_other_seeds_give_other_words():
    one, other = uniform(0).ravel(), uniform(1).ravel()
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / len(one) ** 0.5


@pytest.mark.parametrize(
    ("patches", "dropout", "kept"), [(256, 0.5, 128), (256, 0.75, 64), (10, 0.9, 1), (4, 0.99, 1), (1, 0.5, 1)]
)
def test_the_number_kept_is_rounded_and_at_least_one(patches, dropout, kept):
    assert kept_patches(patches, dropout) == kept


def test_every_patch_is_kept_equally_often_in_order_and_without_repetition():
    keys = Dropping(5, 77).keys(20_000, range(1), "cpu")
    chosen = chosen_patches(keys, 12, 5)
    assert chosen.shape == (20_000, 5)
    assert (chosen.diff(dim=1) > 0).all()
    often = torch.bincount(chosen.flatten(), minlength=12) / 20_000
    torch.testing.assert_close(often, torch.full((12,), 5 / 12), atol=4 * (5 / 12 * 7 / 12 / 20_000) ** 0.5, rtol=0)
    sets = {tuple(row) for row in chosen.tolist()}
    assert len(sets) == 792  # 12 choose 5


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_a_branch_stays_with_its_probability_and_is_divided_by_it(rate):
    drawn = [Drawn(Dropping(9, 0).keys(3000, range(2), "cpu"), True)]
    scales = branch_scales(PackedLayout(((6000, 1),)), drawn, [0.0, rate / 2, rate], torch.float64)
    assert scales[0] is None
    for probability, scale in zip((rate / 2, rate), scales[1:], strict=True):
        assert scale.unique().tolist() == pytest.approx([0.0, 1 / (1 - probability)], rel=1e-7)
        stays = (scale > 0).double().mean()
        assert stays == pytest.approx(1 - probability, abs=4 * (probability * (1 - probability) / 12_000) ** 0.5)


class Given(nn.Module):
    """In place of timm's DropPath: multiplies each sample by what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None]


class Taking(nn.Module):
    """In place of timm's PatchDropout: keeps the patches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.places is None else torch.stack([row[own] for row, own in zip(x, self.places, strict=True)])


VISION = VisionConfig(image_size=32, patch_size=8, width=32, depth=3, heads=2, drop_path=0.4, patch_dropout=0.4)


def timm_tower(**options: object) -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
    return timm.create_model("vit_base_patch16_siglip_256", dynamic_img_size=True, **sizes, **options)


def test_rates_rise_as_timms():
    blocks = timm_tower(drop_path_rate=0.4).blocks
    theirs = [
        [path.drop_prob if isinstance(path, DropPath) else 0.0 for path in (block.drop_path1, block.drop_path2)]
        for block in blocks
    ]
    assert [[rate, rate] for rate in drop_rates(0.4, 3)] == [pytest.approx(rates) for rates in theirs]
    assert drop_rates(0.4, 1) == [0.0]


def timm_features(tower: VisionTower, crop: Tensor, addresses: list[tuple[int, int, int]], whole: bool) -> Tensor:
    """Of timm's tower in training, with decisions found in Python."""
    twin = timm_tower(drop_path_rate=0.4, patch_drop_rate=0.4)
    twin.load_state_dict(tower.trunk.state_dict())
    patches = crop[0, 0].numel() // 64
    twin.patch_drop = Taking()
    if not whole:
        found = np.array([[word(*a, PATCHES + patch) for patch in range(patches)] for a in addresses], dtype=np.uint64)
        order = found.astype(np.int64).argsort(axis=1)
        twin.patch_drop.places = torch.tensor(np.sort(order[:, : round(patches * 0.6)], axis=1))
    for number, block in enumerate(twin.blocks):
        for branch, name in enumerate(("drop_path1", "drop_path2")):
            rate = number * 0.2
            draws = [word(*a, 2 * number + branch) / 2**64 for a in addresses]
            given = Given()
            given.scale = torch.tensor([0.0 if draw < rate else 1 / (1 - rate) for draw in draws])
            setattr(block, name, given)
    return twin.train()(as_float(crop))


def test_packed_crops_of_two_sizes_equal_timm_called_for_each(pixels):
    """Values and gradients, patches and branches left out."""
    tower = VisionTower(VISION)
    initialize(tower, seed=2)
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.2)
    crops, numbers = [pixels(6, 3, 32, 32), pixels(9, 3, 16, 16)], [range(2), range(2, 5)]
    drawn = [Drawn(Dropping(4, 1000).keys(3, own, "cpu"), own.start > 0) for own in numbers]
    ours = tower(crops, drawn)
    addresses = [[(4, 1000 + at, view) for at in range(3) for view in own] for own in numbers]
    for found, crop, own, group in zip(ours, crops, addresses, drawn, strict=True):
        torch.testing.assert_close(found, timm_features(tower, crop, own, group.whole), atol=2e-5, rtol=1e-4)
    plain = tower(crops)
    assert (plain[0] - ours[0]).abs().max() > 1e-2
    assert (plain[1] - ours[1]).abs().max() > 1e-2


def test_local_crops_keep_all_patches_and_the_others_theirs_with_their_positions():
    layout = PackedLayout(((4, 9), (5, 4)))
    x = torch.arange(layout.total, dtype=torch.float64)[:, None].requires_grad_()
    keys = Dropping(1, 0).keys(9, range(1), "cpu")
    found, groups = thinned(x, layout, [Drawn(keys[:4], False), Drawn(keys[4:], True)], 0.5)
    assert groups == ((4, 4), (5, 4))  # 4.5 is rounded to an even number
    large, small = PackedLayout(groups).views(found[:, 0])
    assert torch.equal(small.flatten(), torch.arange(36, 56, dtype=torch.float64))
    for crop, row in enumerate(large):
        assert torch.equal(row, 9 * crop + chosen_patches(keys[crop : crop + 1], 9, 4)[0])
    found.sum().backward()
    assert x.grad[:36].sum() == 16
    assert x.grad[36:].sum() == 20


def test_decisions_of_a_sample_do_not_depend_on_what_else_is_in_the_batch(pixels):
    config = tiny_config()
    config.model.vision.drop_path, config.model.vision.patch_dropout = 0.5, 0.5
    model = build(config)
    large, small = pixels(6, 2, 3, 64, 64), pixels(6, 3, 3, 32, 32)
    whole = model._image(large, small, Dropping(7, 40))
    for at in range(0, 6, 2):
        part = model._image(large[at : at + 2], small[at : at + 2], Dropping(7, 40 + at))
        for some, every in zip(part, whole, strict=True):
            torch.testing.assert_close(some, every[at : at + 2], atol=2e-6, rtol=1e-5)
    alone = model._image(large, None, Dropping(7, 40))[0]  # the first pass of an accumulated step
    torch.testing.assert_close(alone, whole[0], atol=2e-6, rtol=1e-5)
    moved = model._image(large, small, Dropping(7, 41))
    assert (moved[0] - whole[0]).abs().amax((1, 2)).min() > 1e-4


@pytest.mark.parametrize("way", ["recomputed", "compiled"])
def test_recomputed_and_compiled_blocks_give_the_same_features_and_gradients(way, pixels):
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    models = []
    for flag in (False, True):
        config = tiny_config(checkpoint_activations=flag and way == "recomputed")
        config.model.vision.drop_path, config.model.vision.patch_dropout = 0.5, 0.5
        models.append(SilcModel.of(config))
    plain, other = models
    initialize(plain, seed=3)
    other.load_state_dict(plain.state_dict())
    if way == "compiled":
        compile_blocks(other.visual, backend=backend)
    large, small = pixels(2, 2, 3, 64, 64), pixels(2, 2, 3, 32, 32)
    features = []
    for model in models:
        found = torch.cat([group.flatten(0, 1) for group in model._image(large, small, Dropping(7, 40))])
        found.square().sum().backward()
        features.append(found.detach())
    torch.testing.assert_close(*features, atol=1e-5, rtol=1e-4)
    for (name, one), two in zip(plain.visual.named_parameters(), other.visual.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-3, msg=name)
    assert len(graphs) == (2 if way == "compiled" else 0)  # of the first block, which drops nothing, and of the others


def test_no_branch_is_kept_for_the_backward_pass_besides_what_is_kept_without_drop_path(pixels):
    kept = []
    for rate in (0.0, 0.4):
        tower = VisionTower(VisionConfig(image_size=32, patch_size=8, width=64, depth=3, heads=2, drop_path=rate))
        initialize(tower, seed=1)
        seen: dict[int, int] = {}
        alive = []

        def pack(tensor: Tensor, seen=seen, alive=alive) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
            return tensor

        drawn = [Drawn(Dropping(0, 0).keys(8, range(1), "cpu"), True)] if rate else None
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive += tower([pixels(8, 3, 32, 32)], drawn)
        kept.append(sum(seen.values()))
    tokens = 8 * 16
    assert kept[1] - kept[0] <= 2 * 3 * tokens * 4 + 1024  # two factors a block and token


def test_nothing_is_left_out_where_it_is_not_asked_for(pixels):
    """The teacher and evaluation give no addresses; a tower whose rates are 0 has no use for them."""
    config = tiny_config()
    plain = build(config)
    config.model.vision.drop_path, config.model.vision.patch_dropout = 0.5, 0.5
    dropping = build(config).train()
    crops = [pixels(3, 3, 64, 64), pixels(2, 3, 32, 32)]
    for one, other in zip(plain.visual(crops), dropping.visual(crops), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(plain.encode_image(crops[0]), dropping.encode_image(crops[0]))
    drawn = [Drawn(Dropping(0, 0).keys(len(crop), range(1), "cpu"), False) for crop in crops]
    for one, other in zip(plain.visual(crops), plain.visual(crops, drawn), strict=True):
        assert torch.equal(one, other)
