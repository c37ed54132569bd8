"""What is missing on the pages, in as few words as there are reasons."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from silc.claims.gaps import Gaps

RUNS = [SimpleNamespace(folder=Path("out") / f"clip-64-seed{seed}") for seed in range(5)]


def test_equal_reasons_are_one_clause_with_their_number_and_the_first_names():
    gaps = Gaps()
    gaps.leave_out(RUNS[0], "has no config.yaml")
    for run in RUNS[1:]:
        gaps.leave_out(run, "another data.workers, optim.lr")
    assert gaps.left_out == [
        "clip-64-seed0 (has no config.yaml)",
        "4 folders (another data.workers, optim.lr): clip-64-seed1, clip-64-seed2, clip-64-seed3 and 1 more",
    ]
    first, advice = gaps.lines(Path("out"))
    assert first == f"left out of out: {'; '.join(gaps.left_out)}"
    assert "give the words that they were made with again" in advice


def test_a_run_that_lacks_one_test_set_is_not_left_out():
    gaps = Gaps()
    gaps.lacks(RUNS[0], "ns")
    gaps.lacks(RUNS[1], "ns", "evaluation.json is damaged")
    gaps.lacks(RUNS[0], "main")
    assert gaps.left_out == []
    assert (
        list(gaps.lines(Path("out")))
        == gaps.without
        == [
            "without figures on ns: clip-64-seed0, clip-64-seed1 (evaluation.json is damaged)",
            "without figures on main: clip-64-seed0",
        ]
    )
