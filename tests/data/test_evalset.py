"""An evaluation split is read once, whole and in order."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from silc.data import EvalSet
from silc.data.crops import resize_into
from silc.data.decode import decode_picture


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def mask_of(shard: int, number: int) -> np.ndarray:
    return np.random.default_rng([shard, number]).integers(0, 129, (40, 32)).astype(np.uint8)


def test_a_split_in_order(write_shards, make_config):
    pictures = []

    def mask(shard: int, number: int, sample: dict) -> None:
        pictures.append(sample["jpg"])
        if number % 2:
            sample["mask.png"] = png(mask_of(shard, number))

    shards = write_shards([5, 4], mask)
    split = EvalSet(make_config(shards).data, shards, size=24, batch=4)
    assert len(split) == 9
    batches = list(split)
    assert [len(batch) for batch in batches] == [4, 4, 1]
    images = torch.cat([batch.images for batch in batches])
    assert images.dtype == torch.uint8
    for image, data in zip(images, pictures, strict=True):
        expected = torch.empty(3, 24, 24, dtype=torch.uint8)
        resize_into(expected, decode_picture(data, 10**6).contiguous())
        assert torch.equal(image, expected)
    places = [(shard, number) for shard, count in enumerate((5, 4)) for number in range(count)]
    assert [text for batch in batches for text in batch.captions] == [f"thing {s} {n}" for s, n in places]
    assert [info for batch in batches for info in batch.infos] == [{"shard": s, "number": n} for s, n in places]
    assert [key for batch in batches for key in batch.keys] == [f"{s:03}/{n:04}" for s, n in places]
    for (shard, number), classes in zip(places, (m for batch in batches for m in batch.masks), strict=True):
        if number % 2:
            assert classes.dtype == torch.int64
            assert np.array_equal(classes.numpy(), mask_of(shard, number))
        else:
            assert classes is None
    again = list(split)
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize("world", [2, 3, 12])
def test_ranks_read_all_of_it_once(write_shards, make_config, world):
    shards = write_shards([5, 4])
    config = make_config(shards).data
    parts = [EvalSet(config, shards, size=8, batch=2, rank=rank, world=world) for rank in range(world)]
    keys = [key for part in parts for batch in part for key in batch.keys]
    assert keys == [key for batch in EvalSet(config, shards, size=8, batch=9) for key in batch.keys]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_captions_are_not_needed_and_broken_samples_are_counted(write_shards, make_config, caplog):
    def spoil(shard: int, number: int, sample: dict) -> None:
        del sample["txt"]
        if number == 2:
            sample["jpg"] = b"no picture"
        if number == 4:
            sample["json"] = b"{"
        if number == 5:
            del sample["json"]

    shards = write_shards([7], spoil)
    split = EvalSet(make_config(shards).data, shards, size=8, batch=10)
    (batch,) = split
    assert len(batch) == 5
    assert set(batch.captions) == {""}
    assert batch.infos[3] == {}
    assert [skip.key for skip in split.skipped] == ["000/0002", "000/0004"]
    assert "000/0002: undecodable picture" in caplog.text


def test_a_missing_split_is_told(make_config):
    with pytest.raises(ValueError, match="does not exist"):
        EvalSet(make_config([]).data, ["/nowhere.tar"], size=8, batch=1)
