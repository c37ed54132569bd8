"""Views finished on the device are those of the host: crops to the last bit, the photometric list to a level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from silc.config import ViewsConfig
from silc.config_rules import validate
from silc.data import build_loader
from silc.data.batch import Batch
from silc.data.views import device as device_views
from silc.data.views.crops import ViewPlan
from silc.data.views.device import ALL_HERE, Left, leave, left_to
from tests.data.conftest import encode

CPU, GPU = torch.device("cpu"), torch.device("cuda")

LEVELS, SHARE = 1, 0.002  # both sides round once, at the end


def sizes_that_differ(shard: int, number: int, sample: dict) -> None:
    rng = np.random.default_rng([7, shard, number])
    height, width = rng.integers(9, 60, 2)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    sample["jpg"] = encode(np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8)[:height, :width])


@pytest.fixture
def batches(write_shards, make_config):
    """batches(views..., workers=0): the first two of a run with such views, as the loader gives them."""
    shards = write_shards([20, 13], sizes_that_differ)

    def take(*, workers: int = 0, original: bool = False, local_from: int = 0, **views) -> list[Batch]:
        config = make_config(shards, views=views, workers=workers)
        if original:
            config.objective.contrastive_views = "original_and_globals"
        loader = build_loader(config, rank=0, world=1, local_from_position=local_from)
        return list(itertools.islice(loader, 2))

    return take


def apart(one: Batch, other: Batch) -> tuple[int, float]:
    """By how many levels the views of two batches differ, and the share of levels that do."""
    assert (one.small is None) == (other.small is None)
    pairs = [(one.large, other.large)] + (
        [] if one.small is None or other.small is None else [(one.small, other.small)]
    )
    for mine, theirs in pairs:
        assert (mine.shape, mine.dtype, mine.device) == (theirs.shape, theirs.dtype, theirs.device)
    far = torch.cat([(mine.int() - theirs.int()).abs().flatten() for mine, theirs in pairs])
    return int(far.max()), float((far > 0).double().mean())


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_the_hosts_to_the_last_bit(batches, original, workers):
    """Workers hand over images and boxes in place of crops."""
    here = batches(original=original)
    for mine, theirs in zip(batches(original=original, workers=workers, crops_on="device"), here, strict=True):
        assert mine.large.is_meta
        assert mine.large.shape == theirs.large.shape
        assert mine.work.images.pixels.is_shared() == (workers > 0)
        assert apart(mine.to("cpu"), theirs) == (0, 0.0)
        assert (mine.keys, mine.position) == (theirs.keys, theirs.position)
        assert torch.equal(mine.to("cpu").tokens, theirs.tokens)


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("crops_on", ["host", "device"])
def test_the_photometric_list_is_the_hosts_to_a_level(batches, original, crops_on):
    here = batches(original=original, photometric=True)
    plain = batches(original=original)
    found = batches(original=original, photometric=True, device="device", crops_on=crops_on)
    for mine, theirs, undistorted in zip(found, here, plain, strict=True):
        far, share = apart(mine.to("cpu"), theirs)
        assert far <= LEVELS
        assert share < SHARE
        assert apart(theirs, undistorted)[0] > 20
        if original:
            assert torch.equal(mine.to("cpu").large[:, 0], undistorted.large[:, 0])


def test_no_local_crops_before_distillation(batches):
    first, second = batches(crops_on="device", photometric=True, local_from=8)
    assert first.small is None
    assert first.to("cpu").small is None
    (later, _) = batches(crops_on="device", photometric=True)
    assert torch.equal(first.to("cpu").large, later.to("cpu").large)
    assert second.to("cpu").small.shape == (8, 2, 3, 8, 8)


def test_images_go_to_the_device_some_at_a_time(batches, monkeypatch):
    (batch, _) = batches(crops_on="device")
    whole = batch.to("cpu")
    sent = []
    cut = device_views.crop_resize
    monkeypatch.setattr(
        device_views,
        "crop_resize",
        lambda pixels, *rest, **more: sent.append(len(pixels)) or cut(pixels, *rest, **more),
    )
    for most in (1, 5000, 1 << 28):
        sent.clear()
        monkeypatch.setattr(device_views, "IMAGES_AT_ONCE", most)
        assert apart(batch.to("cpu"), whole) == (0, 0.0)
        largest = int((3 * batch.work.images.sizes.prod(1)).max())
        assert max(sent) <= max(most, largest)
        assert sum(sent) == 2 * len(batch.work.images.pixels)  # given for the large and for the small views


def test_a_batch_is_finished_any_number_of_times(batches):
    """It is not written over: on a CPU there is no copy that could be."""
    (batch, _) = batches(photometric=True, device="device")
    before = batch.large.clone()
    once, twice = batch.to("cpu"), batch.to("cpu")
    assert torch.equal(batch.large, before)
    assert torch.equal(once.large, twice.large)
    assert once.work is None
    assert [len(micro) for micro in once.split(4)] == [4, 4]


def test_what_is_copied_to_a_gpu_is_pinned(batches, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    (batch, _) = batches(photometric=True, crops_on="device")
    work = batch.pin_memory().work
    assert pinned == [batch.tokens.shape, work.images.pixels.shape]
    assert work.photometric is batch.work.photometric  # small: its op sends it


@pytest.mark.parametrize(
    ("views", "device", "expected"),
    [
        ({}, GPU, ALL_HERE),
        ({"photometric": True}, CPU, ALL_HERE),
        ({"photometric": True}, GPU, Left(crops=False, photometric=True)),
        ({"photometric": True, "device": "host"}, GPU, ALL_HERE),
        ({"photometric": True, "device": "device"}, CPU, Left(crops=False, photometric=True)),
        ({"crops_on": "device"}, CPU, Left(crops=True, photometric=False)),
        ({"crops_on": "device", "photometric": True}, CPU, Left(crops=True, photometric=True)),
    ],
)
def test_what_is_left_to_a_device(views, device, expected):
    assert left_to(ViewsConfig(**views), device) == expected


def test_crops_on_the_device_cannot_be_distorted_on_the_host(make_config):
    config = make_config(["x"], views={"local_size": 16, "photometric": True, "crops_on": "device", "device": "host"})
    with pytest.raises(ValueError, match=r"views\.crops_on=device leaves no crops on the host"):
        validate(config, 1)


def test_images_without_views():
    """n_global and n_local may both be 0, with an original alone."""
    plan = ViewPlan(np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=bool), None)
    images = [torch.zeros(5, 7, 3, dtype=torch.uint8)] * 2
    work = leave(Left(crops=True, photometric=False), [plan, plan], images, 1)
    assert work.images.boxes.tolist() == [[[0, 0, 5, 7]]] * 2
