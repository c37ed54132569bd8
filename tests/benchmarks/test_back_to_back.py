"""Host time and CUDA graphs of a call, with a GPU that is not there."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks.common import back_to_back, measure


class Event:
    def __init__(self, enable_timing: bool) -> None:
        self.at = 0

    def record(self) -> None:
        GPU.clock += 3
        self.at = GPU.clock

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Graph:
    def replay(self) -> None:
        GPU.replays += 1


GPU = SimpleNamespace(clock=0, replays=0, waits=0)


@pytest.fixture
def gpu(monkeypatch) -> SimpleNamespace:
    def wait() -> None:
        GPU.waits += 1

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "CUDAGraph": Graph,
        "Event": Event,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda given: contextlib.nullcontext(),
        "graph": lambda graph: contextlib.nullcontext(),
        "synchronize": wait,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    GPU.clock = GPU.replays = GPU.waits = 0
    return GPU


def test_calls_follow_one_another_without_a_wait(gpu, monkeypatch):
    waits = []
    monkeypatch.setattr(back_to_back.time, "perf_counter", lambda: 0.002 * len(waits))
    assert back_to_back.back_to_back("op", lambda: waits.append(gpu.waits)) == pytest.approx(2.0)
    assert waits == [1] * (back_to_back.CALLS + 1)  # one before the first, none between
    assert gpu.waits == 2


def test_a_call_is_warmed_captured_and_replayed(gpu):
    calls = []
    assert back_to_back.replayed("op", lambda: calls.append(1)) == 3
    assert len(calls) == 2
    assert gpu.replays == back_to_back.REPLAYS


def test_what_cannot_be_captured_has_no_time_but_a_reason(gpu, capsys):
    def waits():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    assert math.isnan(back_to_back.replayed("peer", waits))
    expected = "  no CUDA graph of peer (RuntimeError: operation not permitted when stream is capturing)\n"
    assert capsys.readouterr().out == expected


def test_host_time_back_to_back_is_of_a_gpu_alone():
    (row,) = measure.compare({"ours": lambda: None}, 2)
    assert math.isnan(row.host_ms)
