"""What a shard loses by the way it was packed is said once, and stops the run past the bound."""

from __future__ import annotations

import pytest

from silc.data.shards import Tally, check_lost


def test_nothing_lost_says_nothing(caplog):
    check_lost([Tally("a.tar", 5, {}), Tally("b.tar", 0, {})], 0.0, "data.shards")
    assert not caplog.records


def test_a_few_are_one_warning(caplog):
    tallies = [
        Tally("a.tar", 90, {"key comes twice": 1}),
        Tally("b.tar", 0, {"dot in the name": 5}),
        Tally("c.tar", 9, {}),
    ]
    check_lost(tallies, 0.1, "eval.shards")
    assert [record.getMessage() for record in caplog.records] == [
        "eval.shards: 6 of 105 samples cannot be used (dot in the name: 5, key comes twice: 1), 5 of them in b.tar; "
        "pack names with exactly one dot: all that stands behind the first is read as the extension"
    ]


@pytest.mark.parametrize(
    ("usable", "lost", "limit", "says"),
    [
        (90, {"key comes twice": 10}, 0.1, None),
        (
            90,
            {"key comes twice": 11},
            0.1,
            r"11 of 101 samples cannot be used .*more than data\.max_skipped=0\.1 allows",
        ),
        (90, {"members not adjacent": 11}, 0.1, "tar --sort=name does, or raise the limit$"),
        (90, {"too many members": 11}, 0.1, "a name of its own before the first dot, or raise the limit$"),
        (90, {"a reason of another version": 11}, 0.1, "pack the shards anew, or raise the limit$"),
        (0, {"members not adjacent": 1}, 1.0, "1 of 1 sample cannot be used .*, all in a.tar: none is left; pack the"),
        (1, {"members not adjacent": 999}, 1.0, None),
    ],
)
def test_the_bound(usable, lost, limit, says):
    if says is None:
        check_lost([Tally("a.tar", usable, lost)], limit, "data.shards")
        return
    with pytest.raises(ValueError, match=says):
        check_lost([Tally("a.tar", usable, lost)], limit, "data.shards")


def test_the_message_stays_short():
    tallies = [Tally("x" * 5000, 0, {"key comes twice": 10})] * 1000
    with pytest.raises(ValueError, match="10,000 of 10,000") as error:
        check_lost(tallies, 0.1, "data.shards")
    assert len(str(error.value)) < 700
