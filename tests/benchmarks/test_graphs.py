"""CUDA graphs are measured behind all timings, in processes that a failed capture ends."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from benchmarks.kernels import cases, distill_cases, graphs, table
from benchmarks.kernels.cases import Case

NAMES = ("ours", "waiting", "other")


def case(op: str) -> Case:
    return Case(op, "shape", lambda: {name: lambda: [torch.ones(1)] for name in NAMES}, 1, 1, 1)


def lines(ops: tuple[str, ...]) -> graphs.Lines:
    empty = dict.fromkeys(table.COLUMNS, "")
    return [empty | {"op": op, "shape": "shape", "provider": name} for op in ops for name in NAMES]


@pytest.fixture
def replayed(monkeypatch) -> list[str]:
    """Names of what was tried; that of another cannot be captured."""
    tried = []

    def replay(name, fn):
        tried.append(name)
        return math.nan if "waiting" in name else 1.5

    monkeypatch.setattr(graphs, "replayed", replay)
    return tried


def test_a_failed_capture_is_the_last_work_of_its_process_and_the_next_goes_on_behind_it(replayed, tmp_path):
    table.save("bench", lines(("a", "b")), tmp_path)

    def process() -> bool:
        return graphs.measure(
            map(case, "ab"), table.earlier("bench", tmp_path), lambda held: table.save("bench", held, tmp_path)
        )

    assert [process() for _ in range(4)] == [False, False, True, True]
    assert replayed == [f"{op} shape: {name}" for op in "ab" for name in NAMES]  # each once
    assert [line["graph_ms"] for line in table.earlier("bench", tmp_path)] == ["1.5", "refused", "1.5"] * 2


def test_what_was_tried_as_its_process_ended_is_not_tried_again(monkeypatch, tmp_path):
    table.save("bench", lines(("a",)), tmp_path)

    def crash(name, fn):
        raise SystemExit(139)

    monkeypatch.setattr(graphs, "replayed", crash)
    with pytest.raises(SystemExit):
        graphs.measure([case("a")], table.earlier("bench", tmp_path), lambda held: table.save("bench", held, tmp_path))
    assert [line["graph_ms"] for line in table.earlier("bench", tmp_path)] == ["refused", "", ""]


def test_processes_follow_while_they_try_something(tmp_path):
    told = tmp_path / "told"
    tries = f"""
import pathlib, sys
told = pathlib.Path({str(told)!r})
told.open("a").write("x")
sys.exit(len(told.read_text()) < {{}})
"""

    def rows() -> graphs.Lines:
        tried = min(len(told.read_text()), 2) if told.exists() else 0
        return lines(("a",))[tried:]

    graphs.by_processes([sys.executable, "-c", tries.format(9)], rows)
    assert told.read_text() == "xxx"  # the third has tried nothing more
    told.unlink()
    graphs.by_processes([sys.executable, "-c", tries.format(2)], rows)
    assert told.read_text() == "xx"


def test_a_benchmark_measures_graphs_when_all_is_timed_and_saved(monkeypatch, tmp_path):
    held = []
    monkeypatch.setattr(cases, "device", lambda: torch.device("cuda"))

    def by_processes(command, read):
        held.append((command[2:], [line["op"] for line in read()]))
        return read()

    monkeypatch.setattr(graphs, "by_processes", by_processes)
    monkeypatch.setattr(cases, "measure_roofline", lambda dtype: cases.Roofline(dtype, 1.0, 1.0))
    saved = "--save", str(tmp_path)
    cases.run("bench", map(case, "ab"), cases.options("", [*saved, "--size", "cuda"]))
    words = ["--graphs", "--size", "cuda", "--only", "", *saved]
    assert held == [(words, [each for each in "ab" for _ in NAMES])]


def test_a_process_for_graphs_times_nothing(monkeypatch, replayed, tmp_path):
    table.save("bench", lines(("a",)), tmp_path)
    left = []

    def leave(well):
        left.append(well)
        raise SystemExit

    monkeypatch.setattr(graphs, "leave", leave)
    monkeypatch.setattr(cases, "compare", None)
    with pytest.raises(SystemExit):
        cases.run("bench", map(case, "a"), cases.options("", ["--graphs", "--save", str(tmp_path)]))
    assert left == [False]
    assert len(replayed) == 2


def test_a_table_that_cannot_be_read_is_begun_afresh_and_said(tmp_path, capsys):
    table.save("bench", lines(("a",)), tmp_path)
    path = tmp_path / "bench_cpu.csv"
    path.write_text(path.read_text()[:-20])
    assert table.earlier("bench", tmp_path) == []
    assert "cannot be read" in capsys.readouterr().out


def test_pair_weights_of_the_benchmarks_are_read_on_the_host(monkeypatch):
    """On the device they would be read back in every call, which waits, and forbids a capture."""
    monkeypatch.setattr(distill_cases, "device", lambda: torch.device("meta"))
    pairs = distill_cases.lightly_pairs(3, 2)
    assert pairs.device.type == "cpu"
    assert pairs.tolist() == [[0, 1], [1, 0], [1, 1]]
