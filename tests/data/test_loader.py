"""Batches are a pure function of seed and position, whatever reads them and whatever is broken."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import tarfile
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc import config_io
from silc.data import build_loader
from silc.data.batch import Batch, Skip
from silc.data.shards.reader import SampleReader
from silc.data.skips import FEWEST, LOGGED, RECENT, SkipGuard
from silc.data.workers import context
from silc.errors import RunStopped

ROOT = Path(__file__).resolve().parents[2]


def take(config, count: int, *, rank: int = 0, world: int = 1, **keywords) -> list[Batch]:
    return list(itertools.islice(build_loader(config, rank=rank, world=world, **keywords), count))


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.large, second.large)
        and torch.equal(first.small, second.small)
        and torch.equal(first.tokens, second.tokens)
        and (first.keys, first.position, first.skipped) == (second.keys, second.position, second.skipped)
    )


def join(parts: list[Batch]) -> Batch:
    """The batch of one process, of the ranks' shares."""
    large, small, tokens = (torch.cat([getattr(part, name) for part in parts]) for name in ("large", "small", "tokens"))
    keys = [key for part in parts for key in part.keys]
    skipped = [skip for part in parts for skip in part.skipped]
    return Batch(large, small, tokens, keys, parts[0].n_original, parts[0].position, skipped)


def break_some(shard: int, number: int, sample: dict) -> None:
    if (shard, number) == (0, 2):
        sample["jpg"] = sample["jpg"][:200]
    if (shard, number) == (0, 5):
        sample["txt"] = "  "
    if (shard, number) == (1, 3):
        del sample["txt"]
    if (shard, number) == (1, 6):
        del sample["jpg"]


BROKEN = {
    "000/0002": "undecodable image",
    "000/0005": "empty caption",
    "001/0003": "no caption",
    "001/0006": "no image",
}


def test_a_batch(write_shards, make_config):
    batch = take(make_config(write_shards([20, 13])), 1)[0]
    assert (batch.large.dtype, batch.large.shape) == (torch.uint8, (8, 2, 3, 16, 16))
    assert (batch.small.dtype, batch.small.shape) == (torch.uint8, (8, 2, 3, 8, 8))
    assert (batch.tokens.dtype, batch.tokens.shape) == (torch.int64, (8, 64))
    assert batch.large.is_contiguous()
    assert batch.small.is_contiguous()
    assert (batch.position, batch.n_original, batch.skipped, len(batch)) == (8, 0, [], 8)
    assert batch.tokens[:, 0].eq(49406).all()


def test_images_and_captions_stay_together(write_shards, make_config):
    config = make_config(write_shards([9, 9]), views={"n_global": 1, "global_area": (1.0, 1.0), "flip": 0.0})
    config.objective.contrastive_views = "original"
    seen = {}
    for batch in take(config, 6):
        for key, view, tokens in zip(batch.keys, batch.large[:, 0], batch.tokens, strict=True):
            seen.setdefault(key, set()).add((view.numpy().tobytes(), tuple(tokens.tolist())))
    assert len(seen) == 18
    assert all(len(values) == 1 for values in seen.values())
    assert len({values.pop() for values in seen.values()}) == 18


@pytest.mark.parametrize("faults", [False, True])
@given(counts=st.lists(st.integers(9, 24), min_size=2, max_size=4), block=st.integers(1, 60), start=st.integers(0, 90))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranks_share_the_batch_of_one_process(
    tmp_path_factory, write_shards, make_config, faults, counts, block, start
):
    name = tmp_path_factory.mktemp("x").name
    shards = write_shards(counts, break_some if faults else lambda *_: None, name=name)
    config = make_config(shards, shuffle_block=block, max_skipped=1.0)
    alone = take(config, 3, start_position=start)
    for world in (2, 4):
        ranks = [take(config, 3, rank=rank, world=world, start_position=start) for rank in range(world)]
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert all(part.position == whole.position for part in parts)
            assert same(whole, join(parts))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_no_difference(write_shards, make_config, workers):
    shards = write_shards([20, 13], break_some)
    alone = take(make_config(shards, max_skipped=1.0), 7)
    helped = take(make_config(shards, max_skipped=1.0, workers=workers), 7)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_a_run_goes_on_from_any_position(write_shards, make_config):
    config = make_config(write_shards([20, 13], break_some), max_skipped=1.0)
    whole = take(config, 8)
    for done in (1, 4, 7):
        rest = take(config, 8 - done, start_position=whole[done - 1].position)
        assert all(same(a, b) for a, b in zip(whole[done:], rest, strict=True))


def test_the_number_of_ranks_may_change_on_the_way(write_shards, make_config):
    config = make_config(write_shards([20, 13]))
    whole = take(config, 4)
    ranks = [take(config, 2, rank=rank, world=4, start_position=whole[1].position) for rank in range(4)]
    assert all(same(a, join(list(parts))) for a, *parts in zip(whole[2:], *ranks, strict=True))


def test_each_pass_holds_each_sample_once(write_shards, make_config):
    config = make_config(write_shards([20, 13]), batch=5)  # 33 samples: batches straddle the passes
    keys = [key for batch in take(config, 20) for key in batch.keys]
    passes = [keys[i : i + 33] for i in (0, 33, 66)]
    assert all(len(set(each)) == 33 for each in passes)
    assert passes[0] != passes[1] != passes[2]


def test_a_pass_makes_its_own_crops(write_shards, make_config):
    config = make_config(write_shards([8]))
    first, second = take(config, 2)
    again = dict(zip(second.keys, second.large, strict=True))
    assert set(first.keys) == set(again)
    assert not any(torch.equal(view, again[key]) for key, view in zip(first.keys, first.large, strict=True))


def test_seeds_differ(write_shards, make_config):
    shards = write_shards([40])
    first, second = (take(make_config(shards, seed=seed), 1)[0] for seed in (0, 1))
    assert first.keys != second.keys


def test_local_crops_begin_at_their_position(write_shards, make_config):
    config = make_config(write_shards([20, 13]))
    with_local, late = take(config, 3), take(config, 3, local_from_position=16)
    assert [batch.small is None for batch in late] == [True, True, False]
    assert all(torch.equal(a.large, b.large) for a, b in zip(with_local, late, strict=True))
    assert same(with_local[2], late[2])
    none = make_config(config.data.shards, views={"n_local": 0})
    assert take(none, 1)[0].small is None


def test_the_original_comes_with_the_views_that_need_it(write_shards, make_config):
    config = make_config(write_shards([20]))
    config.objective.contrastive_views = "original_and_globals"
    batch = take(config, 1)[0]
    assert batch.n_original == 1
    assert batch.large.shape[1] == 3


def test_broken_samples_are_replaced_counted_and_named(write_shards, make_config, caplog):
    config = make_config(write_shards([20, 13], break_some), batch=11, max_skipped=1.0)
    loader = build_loader(config, rank=0, world=1)
    batches = list(itertools.islice(loader, 3))  # one pass
    skipped = [skip for batch in batches for skip in batch.skipped]
    assert {skip.key: skip.reason for skip in skipped} == BROKEN
    assert all(len(batch) == len(batch.large) == len(batch.tokens) == 11 for batch in batches)
    used = {key for batch in batches for key in batch.keys}
    assert len(used) == 33 - 4
    assert not used & set(BROKEN)
    assert loader.guard.total == len(skipped)
    assert set(loader.guard.reasons) == set(BROKEN.values())
    for key, reason in BROKEN.items():
        assert f"skipped {key}: {reason}" in caplog.text


def test_a_cut_shard_is_used_up_to_the_cut(write_shards, make_config, capsys):
    shards = write_shards([20, 13])
    path = Path(shards[0]) / "000.tar"
    with tarfile.open(path) as tar:
        cut = tar.getmember("0015.jpg").offset_data + 10
    with open(path, "r+b") as file:
        file.truncate(cut)
    loader = build_loader(make_config(shards, batch=29, max_skipped=1.0), rank=0, world=1)
    assert loader.samples_per_pass == 16 + 13
    batch = next(iter(loader))
    assert batch.skipped == [Skip("000/0015", batch.skipped[0].reason)]
    assert {f"000/{i:04}" for i in range(15)} < set(batch.keys)
    assert "000.tar is damaged" in capsys.readouterr().out


def test_too_large_images_are_skipped(write_shards, make_config):
    def enlarge(shard: int, number: int, sample: dict) -> None:
        if number == 4:
            data = bytearray(sample["jpg"])
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = b"\xff\xff\xff\xff"
            sample["jpg"] = bytes(data)

    batch = take(make_config(write_shards([20], enlarge), batch=20), 1)[0]
    assert batch.skipped == [Skip("000/0004", "too many pixels")]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_ends_the_run(write_shards, make_config, workers):
    shards = write_shards([20], lambda _shard, _number, sample: sample.update(jpg=b"no image"))
    with pytest.raises(RunStopped, match="no readable sample"):
        take(make_config(shards, workers=workers), 1)


def skipping(used: int, skipped: int) -> Batch:
    blank = torch.empty(used, 0)
    return Batch(blank, None, blank, ["k"] * used, 0, 0, [Skip(f"s/{i}", "empty caption") for i in range(skipped)])


def test_too_many_skips_end_the_run():
    guard = SkipGuard(0.1)
    guard.update(skipping(10, int(0.1 * FEWEST)))  # more than a tenth, but of too few samples
    with pytest.raises(
        RunStopped, match=r"skipped 26 of the last 46 samples .*empty caption: 26.*data\.max_skipped=0\.1"
    ):
        guard.update(skipping(10, 1))
    strict = SkipGuard(0.0)
    strict.update(skipping(1000, 0))
    with pytest.raises(RunStopped, match=r"s/0: more than data\.max_skipped=0\.0"):
        strict.update(skipping(1000, 1))


def test_shards_that_have_changed_are_told_apart_from_bad_ones():
    batch = replace(skipping(10, 30), skipped=[Skip("s/1", "no sample where the index points")] * 30)
    with pytest.raises(RunStopped, match=r"the shards have changed since they were indexed: .*`silc shards index`"):
        SkipGuard(0.1).update(batch)


def test_only_recent_skips_count():
    guard = SkipGuard(0.1)
    for _ in range(50):
        guard.update(skipping(RECENT // 8, RECENT // 100))  # 0.074: goes on for ever
    guard.update(skipping(RECENT // 8, RECENT // 100))
    with pytest.raises(RunStopped):
        guard.update(skipping(RECENT // 8, RECENT // 8))  # a good past does not excuse it


def test_the_log_does_not_flood(caplog):
    guard = SkipGuard(1.0)
    for _ in range(1000):
        guard.update(skipping(10, 10))
    assert guard.total == 10_000
    assert LOGGED < len(caplog.records) < LOGGED + 14


@pytest.mark.parametrize("block", [8, 64])
def test_equal_captions_are_kept_apart(write_shards, make_config, block):
    shards = write_shards(
        [40, 24], lambda shard, n, sample: sample.update(txt=f"{'A  dog' if n % 2 else 'a dog'} {n % 16}")
    )
    config = make_config(shards, batch=8, unique_captions=True, shuffle_block=block)
    keys = []
    clashes = 0
    for batch in take(config, 16):
        keys += batch.keys
        clashes += 8 - len({int(key.split("/")[1]) % 16 for key in batch.keys})
    assert sorted(keys[:64]) == sorted(set(keys)) == sorted(keys[64:])
    assert keys[:64] != keys[64:]
    assert (clashes == 0) == (block == 64)  # a block of one batch has nothing to deal to
    halves = [take(config, 16, rank=rank, world=2) for rank in range(2)]
    assert [key for parts in zip(*halves, strict=True) for part in parts for key in part.keys] == keys


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch": 34}, r"global_batch=34 is more than the 33 samples"),
        ({"shards": ["/nowhere/{0..3}.tar"]}, r"data\.shards: no such file or folder '/nowhere/0\.tar'"),
        ({"caption_key": "caption"}, r"has a caption \(caption\)"),
        ({"batch": 9}, r"global_batch=9 is not divisible by the 2 ranks"),
        ({"tokenizer": "/nowhere"}, r"data\.tokenizer='/nowhere'"),
    ],
)
def test_mistakes_are_errors_before_training(write_shards, make_config, change, says):
    config = make_config(**({"shards": write_shards([20, 13])} | change))
    with pytest.raises(ValueError, match=says):
        build_loader(config, rank=0, world=2)


def test_truncated_captions_are_counted(write_shards, make_config):
    """Those of a rank's own share; captions here have 5 tokens and those for start and end."""

    def lengthen(shard: int, number: int, sample: dict) -> None:
        if number % 3 == 0:
            sample["txt"] = " ".join(["dog"] * 100)

    config = make_config(write_shards([20, 13], lengthen), batch=32)
    whole = take(config, 1)[0]
    assert whole.truncated == int((whole.tokens[:, -1] > 0).sum()) > 5
    assert sum(take(config, 1, rank=rank, world=2)[0].truncated for rank in range(2)) == whole.truncated
    assert [part.truncated for part in whole.split(16)] == [0, 0]


def test_a_vocabulary_too_small_is_an_error_before_training(write_shards, make_config):
    config = make_config(write_shards([20]))
    config.model.text.vocab_size = 1000
    with pytest.raises(ValueError, match=r"vocab_size=1000 is less than the 49408 tokens"):
        build_loader(config, rank=0, world=1)


def test_workers_outlive_the_signals_that_stop_a_job(write_shards, make_config):
    batches = iter(build_loader(make_config(write_shards([20, 13]), workers=1), rank=0, world=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    for number in ("TERM", "INT", "USR1"):
        subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)  # from another process than the trainer
    assert [next(batches).position for _ in range(5)] == [16, 24, 32, 40, 48]
    assert worker.is_alive()
    batches.close()


def test_the_trainer_can_end_its_workers(write_shards, make_config):
    batches = iter(build_loader(make_config(write_shards([20, 13]), workers=1), rank=0, world=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(timeout=30)
    assert not worker.is_alive()
    batches.close()


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_may_be_started_in_any_way(write_shards, make_config, start):
    shards = write_shards([20, 13], break_some)
    words = {"unique_captions": True, "max_skipped": 1.0}
    alone = take(make_config(shards, **words), 5)
    helped = take(make_config(shards, workers=1, worker_start=start, **words), 5)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_a_process_that_has_read_a_remote_store_is_not_forked_to_read_one(monkeypatch):
    """obstore hangs in the child."""
    monkeypatch.setitem(sys.modules, "obstore", types.ModuleType("obstore"))
    assert context("auto", remote=True).get_start_method() == "forkserver"
    assert context("auto", remote=False).get_start_method() == "fork"
    with pytest.raises(ValueError, match=r"data\.worker_start=fork: .* take auto, forkserver or spawn"):
        context("fork", remote=True)
    monkeypatch.delitem(sys.modules, "obstore")
    assert context("auto", remote=True).get_start_method() == "fork"


KILLED = """
import itertools, multiprocessing, sys, time
from pathlib import Path
from silc import config_io
from silc.data import build_loader
from silc.errors import RunStopped

batches = iter(build_loader(config_io.read_config(Path(sys.argv[1])), rank=0, world=1))
next(batches)
multiprocessing.active_children()[0].kill()
time.sleep(1)  # a step
try:
    list(itertools.islice(batches, 99))
except RunStopped as error:
    print(error)
"""


def test_a_worker_that_was_killed_stops_the_run_in_words(write_shards, make_config, tmp_path):
    """In a process of its own: torch answers the signal wherever the main thread is."""
    config = make_config(write_shards([20, 13]), workers=1)
    (tmp_path / "config.yaml").write_text(config_io.to_yaml(config))
    words = [sys.executable, "-c", KILLED, str(tmp_path / "config.yaml")]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run(words, env=os.environ | paths, capture_output=True, text=True, timeout=200, check=False)
    assert re.search(r"a process that decodes images has ended .*fewer data\.workers", done.stdout), done.stderr


def test_a_slow_worker_is_waited_for_and_the_trainer_is_told(write_shards, make_config, monkeypatch):
    """Every second: a signal may ask for the end while nothing arrives."""
    inner = SampleReader.read

    def slow(self: SampleReader, places: list) -> Iterator:
        time.sleep(2.5)
        return inner(self, places)

    monkeypatch.setattr(SampleReader, "read", slow)
    polled = build_loader(make_config(write_shards([20, 13]), workers=1), rank=0, world=1).poll()
    found = list(itertools.islice(polled, 3))
    assert found[:2] == [None, None]
    batches = itertools.islice((one for one in itertools.chain(found, polled) if one is not None), 3)
    assert [batch.position for batch in batches] == [8, 16, 24]
    polled.close()


def test_other_shards_may_be_given(write_shards, make_config):
    config = make_config([])
    assert take(config, 1, shards=write_shards([20]))[0].position == 8


def test_micro_batches(write_shards, make_config):
    batch = take(make_config(write_shards([20, 13], break_some), max_skipped=1.0), 1)[0]
    micros = batch.split(2)
    assert [len(micro) for micro in micros] == [2] * 4
    joined = join(micros)
    assert torch.equal(joined.large, batch.large)
    assert torch.equal(joined.small, batch.small)
    assert torch.equal(joined.tokens, batch.tokens)
    assert joined.keys == batch.keys
    late = take(make_config(write_shards([20], name="late")), 1, local_from_position=99)[0]
    assert [micro.small for micro in late.split(4)] == [None, None]


def test_a_batch_moves_to_a_device(write_shards, make_config):
    batch = take(make_config(write_shards([20])), 1)[0]
    moved = batch.to("meta", non_blocking=True)
    assert {moved.large.device.type, moved.small.device.type, moved.tokens.device.type} == {"meta"}
    assert (moved.keys, moved.position) == (batch.keys, batch.position)
