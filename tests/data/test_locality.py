"""What a rank reads of a batch: as few ranges as promised, measured as it would be by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.data.locality import Row, main, measure, shard_sizes, version_1, version_2


@pytest.mark.parametrize("kind", ["10,000", "random"])
@pytest.mark.parametrize(("batch", "ranks", "most"), [(16_384, 256, 1.1), (4_096, 64, 2.1), (32_768, 256, 1.1)])
def test_a_rank_reads_few_ranges(kind, batch, ranks, most):
    found = measure(version_2(shard_sizes(kind), batch), 8, ranks, gap=0)
    assert found["ranges_mean"] <= most
    assert found["ranges_p99"] <= most + 1
    assert found["bytes_p99"] == 1
    assert found["batch_shards"] >= 125


def test_before_it_read_each_sample_by_itself():
    found = measure(version_1(shard_sizes("10,000"), 16_384), 3, 256, gap=4)
    assert found["ranges_mean"] > 60
    assert found["rank_shards"] > 25


def test_version_1_is_a_permutation_of_the_same_chunks():
    take = version_1(np.full(10, 8192), 4096)
    places = np.concatenate([np.stack(take(number)) for number in range(20)], axis=1)
    assert len(np.unique(places, axis=1).T) == 10 * 8192


@given(places=st.lists(st.integers(0, 60), min_size=8, max_size=8, unique=True), gap=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_the_measure_counts_as_by_hand(places, gap):
    found = measure(lambda _: (np.array(places) // 20, np.array(places) % 20), 1, 2, gap)
    ranges, merged, read = [], [], []
    for share in (places[:4], places[4:]):
        stretches: list[list[int]] = []
        for place in sorted(share):
            near = stretches and place // 20 == stretches[-1][-1] // 20 and place - stretches[-1][-1] <= gap + 1
            if near:
                stretches[-1].append(place)
            else:
                stretches.append([place])
        merged.append(len(stretches))
        read.append(sum(stretch[-1] - stretch[0] + 1 for stretch in stretches) / 4)
        ranges.append(sum(place - 1 not in share or place % 20 == 0 for place in share))
    assert found["ranges_mean"] == np.mean(ranges)
    assert found["merged_mean"] == np.mean(merged)
    assert found["bytes_mean"] == np.mean(read)
    assert found["rank_shards"] == np.mean(
        [len({place // 20 for place in share}) for share in (places[:4], places[4:])]
    )
    assert found["batch_shards"] == len({place // 20 for place in places})


def test_the_table_is_printed_and_saved(tmp_path, capsys):
    main(["--batches", "1", "--save", str(tmp_path)])
    with (tmp_path / "locality.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(capsys.readouterr().out.splitlines()) - 2  # a heading, and where it was written
    assert {row["order"] for row in rows} == {"version 1", "version 2"}
    assert {*Row.__annotations__, "gap", "batches", "commit", "date"} == set(rows[0])
