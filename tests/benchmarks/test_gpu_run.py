"""`make gpu`: jobs by worth, in the time there is, taken up where they stopped; wheels to take along."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_run import device_tests, jobs, part, process, progress, wheels
from benchmarks.gpu_run.jobs import Job
from benchmarks.gpu_run.process import Outcome

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, name: str = "job", **options) -> Job:
    return Job(name, [sys.executable, "-c", code], 0, 60, **options)


@pytest.fixture
def kept(tmp_path) -> progress.Progress:
    return progress.Progress.load(tmp_path / "gpu_cpu.json", "cpu")


def test_the_script_runs_jobs_and_says_what_it_left_out(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--size", "tiny", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    only = ["--only", "patch_embed,memcheck"]
    first, second = (
        subprocess.run([*command, *only], env=environment, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, first.stdout + first.stderr
    page = (tmp_path / "cpu.md").read_text()
    assert "| patch_embed | passed |" in page
    assert "needs compute-sanitizer" in page
    assert (tmp_path / "patch_embed_cpu.csv").exists()
    assert "patch_embed backward" in (tmp_path / "logs" / "patch_embed.log").read_text()
    assert "patch_embed: passed in an earlier call" in second.stdout


def test_it_refuses_a_machine_without_a_gpu(capsys, tmp_path):
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "no GPU is visible" in capsys.readouterr().err


def test_the_jobs_come_in_the_order_of_their_worth(tmp_path):
    names = [job.name for job in jobs.jobs("cuda", tmp_path) if job.name != "host"]
    kernels = ["compile_smoke", "smoke", "compile", "roofline", "loss", "patch_embed", "views", "tests"]
    assert names == [*kernels, "compile_trials", "tune", *jobs.SANITIZED, "train", "train_bench", "claims"]


def test_all_that_a_bare_machine_can_do_needs_torch_triton_and_pytest_alone(tmp_path):
    bare = [job for job in jobs.jobs("cuda", tmp_path) if set(job.needs) <= {"pytest"}]
    assert [job.name for job in bare if job.name != "host"][-1] == "tune"
    for job in jobs.jobs("cuda", tmp_path):
        assert job.least <= job.most


def test_a_job_past_its_time_is_ended_with_all_its_processes(tmp_path):
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '300']); print(p.pid, flush=True); p.wait()"
    assert process.run(python(script), tmp_path, 3).status == "timed out"
    child = int((tmp_path / "job.log").read_text().split()[0])
    state = Path(f"/proc/{child}/stat")
    deadline = time.monotonic() + 30  # a signal that was sent takes a moment on a busy machine
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.1)


def test_what_no_longer_fits_is_left_and_what_lacks_a_package_is_said_first(kept, tmp_path, capsys):
    todo = [Job("long", ["true"], 500, 600), Job("lacking", ["true"], 500, 600, ("no_such_package",)), python("")]
    outcomes = gpu.work(todo, kept, tmp_path, 5.0, None)
    assert [outcome.status for outcome in outcomes] == ["left for the next call", "left out", "passed"]
    assert "500 s needed" in outcomes[0].why
    assert outcomes[1].why == "needs no_such_package"
    page = (tmp_path / "cpu.md").read_text()
    assert "| long | left for the next call (2" in page


def test_what_has_ended_is_not_done_again_and_what_was_stopped_is_taken_up(kept, tmp_path):
    told = tmp_path / "told"
    code = f"import sys, pathlib; pathlib.Path({str(told)!r}).open('a').write(' '.join(sys.argv[1:]) + ';')"
    done, stopped = python(code + "; sys.exit(1)", "done"), python(code, "stopped", resumes=True)
    kept.begin("stopped")
    kept.end(Outcome("stopped", process.TIMED_OUT, 3.0))
    for again in (False, False, True):
        held = progress.Progress.load(kept.path, "cpu", again=again)
        outcomes = gpu.work([done, stopped], held, tmp_path, math.inf, None)
        assert [outcome.status for outcome in outcomes] == ["failed", "passed"]
    assert told.read_text() == ";--resume;;;"  # once each, and with --again from the start


def test_other_sources_or_another_device_begin_anew(kept, monkeypatch):
    kept.end(Outcome("job", process.PASSED, 1.0))
    assert progress.Progress.load(kept.path, "cpu").finished("job")
    assert not progress.Progress.load(kept.path, "nvidia").finished("job")
    monkeypatch.setattr(progress, "sources", lambda: "changed")
    assert not progress.Progress.load(kept.path, "cpu").finished("job")
    assert json.loads(kept.path.read_text())["outcomes"]["job"]["status"] == "passed"


def test_a_package_may_lie_in_a_folder_of_its_own(tmp_path):
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "__init__.py").touch()
    job = python("import brought", needs=("brought", "json"))
    assert process.missing(job, None) == ["brought"]
    assert process.missing(job, tmp_path) == []
    assert process.run(job, tmp_path, 60, site=tmp_path).status == "passed"


TESTS = """
import pytest
@pytest.mark.parametrize("i", range(5))
def test_it(i):
    assert i != {}
def test_left_out():
    pytest.skip("no reason")
"""


def pytest_part(place: str, record: Path, file: Path) -> subprocess.CompletedProcess[str]:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_run.part", "-c", os.devnull]
    mine = ["--part", place, "--record", str(record), str(file)]
    return subprocess.run([sys.executable, *command, *mine], cwd=ROOT, capture_output=True, text=True)


def test_each_process_takes_its_part_of_the_tests_and_leaves_what_has_passed(tmp_path):
    file, record = tmp_path / "test_some.py", tmp_path / "record.csv"
    file.write_text(TESTS.format(2))
    statuses = [pytest_part(f"{place}/2", record, file).returncode for place in range(2)]
    assert statuses == [1, 0]
    outcomes = {name.partition("::")[2]: outcome for name, outcome in part.outcomes(record).items()}
    expected = {f"test_it[{i}]": "failed" if i == 2 else "passed" for i in range(5)} | {"test_left_out": "skipped"}
    assert outcomes == expected
    file.write_text(TESTS.format(9))
    again = [pytest_part(f"{place}/2", record, file) for place in range(2)]
    assert [done.returncode for done in again] == [0, 0]
    assert "1 passed, 5 deselected" in again[0].stdout
    assert set(part.outcomes(record).values()) == {"passed", "skipped"}


def test_the_device_tests_fail_if_one_does_or_none_ran(monkeypatch, tmp_path):
    monkeypatch.setattr(device_tests, "command", lambda *_: [sys.executable, "-c", ""])
    assert device_tests.main(["--save", str(tmp_path), "--processes", "2"]) == 1
    record = tmp_path / "device_tests_cpu.csv"
    record.write_text("a,passed,1.0,\nb,skipped,1.0,why\n")
    assert device_tests.main(["--save", str(tmp_path), "--processes", "2", "--resume"]) == 0
    monkeypatch.setattr(device_tests, "command", lambda *_: [sys.executable, "-c", "import sys; sys.exit(2)"])
    assert device_tests.main(["--save", str(tmp_path), "--processes", "2", "--resume"]) == 1


def test_wheels_are_of_all_that_is_needed_and_of_nothing_that_a_machine_has():
    pins = wheels.closure()
    assert {"deepspeed", "open-clip-torch", "lightly", "pydantic-core", "hjson"} <= pins.keys()
    assert not pins.keys() & {"torch", "triton", "numpy", "torchvision", "torchmetrics"}
    assert pins["timm"] == importlib.metadata.version("timm")


def test_too_many_wheels_are_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"0" * 1000)
    assert wheels.said(tmp_path) == 0
    monkeypatch.setattr(wheels, "MOST", 999)
    assert wheels.said(tmp_path) == 1
    assert "1 wheels, 0.0 MiB" in capsys.readouterr().out


def test_a_folder_without_wheels_is_said(tmp_path, capsys):
    assert wheels.install(tmp_path, tmp_path / "site") is None
    assert "no wheels in" in capsys.readouterr().out
