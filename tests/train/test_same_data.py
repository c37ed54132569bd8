"""A position means nothing in other samples or in another order."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silc.config import DataConfig
from silc.data import build_loader
from silc.train import same_data
from silc.train.same_data import check_same_data, check_same_everywhere
from tests.train import cases
from tests.train.resume import BPE, SAMPLES, write_shards

PATH = Path("run/checkpoints/step_00000004")
DATA = {
    "order": {"version": 2, "block": 64, "chunk": 2, "batch": 16},
    "sources": [
        {"shards": 3, "samples": 300, "share": 0.75, "identity": "a"},
        {"shards": 1, "samples": 50, "share": 0.25, "identity": "b"},
    ],
}


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    data = copy.deepcopy(DATA)
    change(data)
    return data


CHANGES = [
    (lambda d: d["order"].update(version=3), "the order's version is 3, it was 2"),
    (lambda d: d["sources"].pop(), "the number of sources is 1, it was 2"),
    (
        lambda d: d["sources"][0].update(shards=4, samples=400, identity="c"),
        "source 0 is 400 samples in 4 shards, it was 300 samples in 3 shards",
    ),
    (lambda d: d["sources"][1].update(identity="c"), "source 1 has shards of other names, sizes or order"),
    (lambda d: d["sources"][1].update(share=0.5), "source 1 has a share of 0.5, it was 0.25"),
]


def test_the_same_data_pass_without_a_word():
    assert check_same_data(DATA, copy.deepcopy(DATA), PATH, allowed=False) is None


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_other_data_are_refused_or_named(change, said):
    with pytest.raises(ValueError, match="cannot resume from run/checkpoints/step_00000004") as refused:
        check_same_data(DATA, changed(change), PATH, allowed=False)
    assert said in str(refused.value)
    assert "data.allow_changed=true" in str(refused.value)
    note = check_same_data(DATA, changed(change), PATH, allowed=True)
    assert said in note
    assert "may come again or be left out" in note


def test_a_checkpoint_that_does_not_say_is_refused():
    with pytest.raises(ValueError, match="does not say which samples its position counts in"):
        check_same_data(None, DATA, PATH, allowed=False)


@pytest.mark.parametrize("saved", [{}, {"order": 3, "sources": []}, {"order": {}, "sources": [{}, 1]}, [1]])
def test_damage_is_named(saved):
    with pytest.raises(ValueError, match=r"trainer\.pt is damaged"):
        check_same_data(saved, DATA, PATH, allowed=True)


def test_every_rank_reads_the_same(monkeypatch):
    check_same_everywhere(DATA)
    other = changed(CHANGES[2][0])
    monkeypatch.setattr(same_data, "all_gather_objects", lambda data: [data, data, other])
    with pytest.raises(
        ValueError,
        match=r"rank 2 reads other data than rank 0 \(source 0 is 400 samples .* on rank 0 it is 300 samples",
    ):
        check_same_everywhere(DATA)


def test_one_more_shard_in_the_same_folder_is_refused_before_anything_is_trained(tmp_path):
    """The name of the folder does not change, the samples of every later position do."""
    write_shards(tmp_path / "shards")
    run = cases.config(vocabulary=BPE)
    run.data = DataConfig(shards=[str(tmp_path / "shards")], workers=0, shuffle_block=16)
    before = build_loader(run, rank=0, world=1).data
    assert check_same_data(before, build_loader(run, rank=0, world=1).data, PATH, allowed=False) is None
    shutil.copy(tmp_path / "shards" / "1.tar", tmp_path / "shards" / "2.tar")
    said = f"the data is {SAMPLES * 3 // 2} samples in 3 shards, it was {SAMPLES} samples in 2 shards"
    with pytest.raises(ValueError, match=said):
        check_same_data(before, build_loader(run, rank=0, world=1).data, PATH, allowed=False)
