"""One process and two find the same; what one rank runs into, all ranks report."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from silc.evaluate.tasks import TASKS

from .worker import measure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[int, list[dict]]:
    """What every rank found: of one process, which is this one, and of two."""
    folder = tmp_path_factory.mktemp("ranks")
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.evaluate.worker", str(folder)]
    two = [
        subprocess.Popen([*command, rank, "2", port], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = measure(0, 1)
        for process in two:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        torch.set_num_threads(threads)
        for process in two:
            process.kill()
    return {1: [alone], 2: [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]}


def test_one_process_and_two_measure_identical_metrics(found):
    alone = found[1][0]["metrics"]
    for name in TASKS:
        for model in ("student", "teacher"):
            assert any(metric.startswith(f"eval/{name}/{model}/") for metric in alone), name
    assert found[2][0]["metrics"] == alone
    assert found[2][1]["metrics"] == alone
    for rank in found[2]:
        assert rank["errors"] == found[1][0]["errors"]
    assert found[1][0]["errors"]["zeroshot_segmentation/student/localization_auc"] > 0


def test_student_and_teacher_are_measured_separately(found):
    alone = found[1][0]["metrics"]
    for task in TASKS:
        own = {name: value for name, value in alone.items() if name.startswith(f"eval/{task}/student/")}
        assert any(value != alone[name.replace("/student/", "/teacher/")] for name, value in own.items()), task


def test_unreadable_images_of_all_ranks_are_known_to_all(found):
    assert {tuple(rank["skipped"]) for ranks in found.values() for rank in ranks} == {("memory/5",)}


def test_what_one_rank_runs_into_all_ranks_report(found):
    for rank in found[2]:
        late, wrong, full = rank["ended"]
        assert late.startswith("TimedOut: a task, student took longer than eval.timeout_minutes=")
        assert "on rank 1" in late
        assert wrong == "ValueError: a mistake on the last rank"
        assert full == "TaskFailed: MemoryError"


def test_a_task_that_breaks_on_one_rank_ends_on_all_and_the_next_one_runs(found):
    for rank in (*found[1], *found[2]):
        errors = []
        for first, second in rank["broken"]:
            errors.append(first[1])
            assert (first[0], first[2], first[3]) == ("retrieval", first[1] != "odd", 0)
            assert (second[0], second[1], second[2]) == ("fewshot", None, False)
            assert second[3] > 0
        assert errors == ["MemoryError", "Unsendable: of two arguments", "RecursionError: deep", "odd"]
