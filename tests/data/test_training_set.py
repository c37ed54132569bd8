"""What a run trains on: sources with weights, told apart by what they hold and not by where they are."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path

import pytest

from silc.config import Config, DataConfig, SourceRule
from silc.config_rules import validate
from silc.data import build_loader
from silc.data.training_set import open_training_set
from silc.errors import RunStopped


def named(prefix: str):
    """A change that gives samples keys and captions of their set."""

    def change(shard: int, number: int, sample: dict) -> None:
        sample["__key__"] = f"{prefix}{shard}-{number:04}"
        sample["txt"] = f"{prefix} {shard} {number}"

    return change


@pytest.fixture
def mixed(write_shards, make_config):
    """A configuration of two sources, three to one."""
    a, b = write_shards([50, 40, 30], named("a"), name="a"), write_shards([33, 20], named("b"), name="b")
    config = make_config([], batch=8, shuffle_block=16)
    config.data.sources = [SourceRule(shards=a, weight=3.0), SourceRule(shards=b, weight=1.0)]
    return config


def keys(config, batches: int, **words) -> list[str]:
    loader = build_loader(config, rank=0, world=1, **words)
    return [key.split("/")[1] for batch in itertools.islice(loader, batches) for key in batch.keys]


def test_a_mixture_keeps_its_shares_in_every_block_and_passes_through_each_source(mixed):
    found = keys(mixed, 60)
    for end in range(16, len(found) + 1, 16):
        shares = Counter(key[0] for key in found[:end])
        assert abs(shares["a"] - 0.75 * end) < 1
        assert abs(shares["b"] - 0.25 * end) < 1
    own = {name: [key for key in found if key[0] == name] for name in "ab"}
    assert len(set(own["a"][:96])) == 96  # six blocks of twelve: within the first pass of 120
    # Passes end inside blocks, whose samples are mixed: a sample's visits differ by one at most, its neighbours' too.
    for name, size in (("a", 120), ("b", 53)):
        visits = Counter(own[name])
        assert set(visits.values()) <= {len(own[name]) // size, len(own[name]) // size + 1}


def test_a_mixture_is_the_same_on_any_number_of_ranks_and_from_any_position(mixed):
    whole = keys(mixed, 12)
    assert keys(mixed, 7, start_position=40) == whole[40:]
    ranks = [build_loader(mixed, rank=rank, world=4) for rank in range(4)]
    dealt = [
        key.split("/")[1]
        for parts in zip(*(itertools.islice(loader, 12) for loader in ranks), strict=True)
        for part in parts
        for key in part.keys
    ]
    assert dealt == whole


def test_a_substitute_comes_from_the_same_source(mixed, write_shards):
    def unreadable(shard: int, number: int, sample: dict) -> None:
        named("c")(shard, number, sample)
        if number % 2:
            sample["jpg"] = b"nothing"

    mixed.data.sources[1].shards = write_shards([60], unreadable, name="c")
    mixed.data.max_skipped = 1.0
    found = keys(mixed, 20)
    assert Counter(key[0] for key in found) == {"a": 120, "c": 40}
    assert {int(key.split("-")[1]) % 2 for key in found if key[0] == "c"} == {0}


def test_what_a_position_counts_in_moves_with_the_shards(write_shards, make_config, tmp_path):
    shards = write_shards([20, 13])
    before = open_training_set(make_config(shards)).describe()
    shutil.copytree(shards[0], tmp_path / "moved")
    assert open_training_set(make_config([str(tmp_path / "moved")])).describe() == before
    names = sorted(str(path) for path in Path(shards[0]).glob("*.tar"))
    assert open_training_set(make_config(names)).describe() == before
    assert open_training_set(make_config(names[::-1])).describe() != before
    assert open_training_set(make_config(names[:1])).describe()["sources"][0] == {
        "shards": 1,
        "samples": 20,
        "share": 1.0,
        "identity": open_training_set(make_config(names[:1])).manifest.identity(),
    }


def test_a_prepared_set_is_the_same(mixed):
    first = open_training_set(mixed)
    again = open_training_set(mixed, prepared=True)
    assert again.describe() == first.describe()
    assert [counts.tolist() for counts in again.counts()] == [[50, 40, 30], [33, 20]]


def test_a_shard_in_two_sources_is_refused(mixed):
    mixed.data.sources[1].shards = [*mixed.data.sources[1].shards, f"{mixed.data.sources[0].shards[0]}/001.tar"]
    with pytest.raises(ValueError, match=r"1 shard of data\.sources\.1\.shards, .*a/001\.tar.*are in data\.sources\.0"):
        open_training_set(mixed)


def test_a_source_smaller_than_its_part_of_a_batch_is_refused(mixed):
    mixed.train.global_batch = 160
    mixed.data.sources[0].weight = 3.1
    with pytest.raises(ValueError, match=r"data\.sources\.0\.shards has 120 samples, .* takes 121"):
        build_loader(mixed, rank=0, world=1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"shards": ["/a"], "sources": [SourceRule(shards=["/b"])]}, r"data\.shards and data\.sources are both given"),
        ({"sources": [SourceRule(shards=[])]}, r"data\.sources\.0\.shards is empty"),
        ({"unique_captions": True}, r"data\.shuffle_block=8192 is less than two batches of 16384; take 131072"),
    ],
)
def test_mistakes_are_refused_before_anything_is_opened(words, says):
    with pytest.raises(ValueError, match=says):
        validate(Config(data=DataConfig(**words)), 1)


def test_a_cache_of_no_use_is_refused(write_shards, make_config, tmp_path):
    config = make_config(write_shards([20]), cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"data\.cache=.*/cache has no effect, since all shards are local"):
        build_loader(config, rank=0, world=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_ends_the_run_in_words(write_shards, make_config, workers):
    shards = write_shards([20, 13])
    loader = build_loader(make_config(shards, store_minutes=0.01, workers=workers), rank=0, world=1)
    for path in Path(shards[0]).glob("*.tar"):
        path.unlink()
    with pytest.raises(RunStopped, match=r"00[01]\.tar .*No such file"):
        list(itertools.islice(loader, 4))
