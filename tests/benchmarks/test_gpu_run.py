"""`make gpu`: jobs by worth, in the time there is, taken up where they stopped; wheels to take along."""

from __future__ import annotations

import importlib.metadata
import math
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu
from benchmarks.common import files
from benchmarks.gpu_run import device_tests, jobs, part, process, progress, sources, wheels
from benchmarks.gpu_run.jobs import Job
from benchmarks.gpu_run.process import Outcome

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, name: str = "job", **options) -> Job:
    return Job(name, [sys.executable, "-c", code], 0, 60, **options)


def key(job: Job) -> progress.Key:
    return {"command": " ".join(job.command)}


@pytest.fixture
def kept(tmp_path) -> progress.Progress:
    return progress.Progress.load(tmp_path / "gpu_cpu.json", key)


def work(todo: list[Job], kept: progress.Progress, folder: Path, minutes: float = math.inf) -> list[str]:
    """The outcomes on the page."""
    gpu.work(todo, todo, kept, folder, time.monotonic() + 60 * minutes, None)
    return on_page(folder)


def on_page(folder: Path) -> list[str]:
    lines = (folder / "cpu.md").read_text().splitlines()
    start = lines.index("|---|---|---|") + 1
    return [line.split(" | ")[1] for line in lines[start:]]


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
    kernels = ["compile_smoke", "smoke", "compile", "roofline", "loss", "patch_embed", "tests", "views"]
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


def test_what_no_longer_fits_is_left_and_what_lacks_a_package_is_said_first(kept, tmp_path):
    todo = [Job("long", ["true"], 500, 600), Job("lacking", ["true"], 500, 600, ("no_such_package",)), python("")]
    outcomes = work(todo, kept, tmp_path, 5.0)
    assert [outcome.partition(" (")[0] for outcome in outcomes] == ["left for the next call", "left out", "passed"]
    page = (tmp_path / "cpu.md").read_text()
    assert "| long | left for the next call (2" in page
    assert "500 s needed" in page
    assert "needs no_such_package" in page


def test_what_has_passed_is_not_done_again_what_was_stopped_is_taken_up_and_what_failed_tried_once_more(kept, tmp_path):
    told = tmp_path / "told"
    code = f"import sys, pathlib; pathlib.Path({str(told)!r}).open('a').write(' '.join(sys.argv[1:]) + ';')"
    failing, stopped = python(code + "; sys.exit(1)", "failing"), python(code, "stopped", resumes=True)
    kept.begin(stopped)
    kept.end(stopped, Outcome("stopped", process.TIMED_OUT, 3.0))
    for expected in (";--resume;", ";--resume;;", ";--resume;;"):
        held = progress.Progress.load(kept.path, key)
        assert work([failing, stopped], held, tmp_path) == ["failed", "passed"]
        assert told.read_text() == expected
    held = progress.Progress.load(kept.path, key)
    held.forget([stopped])
    assert work([failing, stopped], held, tmp_path) == ["failed", "passed"]
    assert told.read_text() == ";--resume;;;"  # from its start, and the other left as it is


def test_a_repetition_of_some_jobs_keeps_what_is_known_of_the_others(tmp_path, monkeypatch):
    told = tmp_path / "told"
    code = f"import pathlib; pathlib.Path({str(told)!r}).open('a').write('NAME;')"
    every = [python(code.replace("NAME", name), name) for name in ("first", "second", "third")]
    monkeypatch.setattr(gpu, "jobs", lambda *_: every)
    for options in (["--only", "first,second"], ["--again", "--only", "second"], []):
        assert gpu.main(["--size", "tiny", "--out", str(tmp_path), *options]) == 0
    assert told.read_text() == "first;second;second;third;"
    assert on_page(tmp_path) == ["passed"] * 3
    assert gpu.main(["--size", "tiny", "--out", str(tmp_path), "--only", "third"]) == 0
    assert on_page(tmp_path) == ["passed"] * 3


def test_progress_that_cannot_be_read_is_begun_afresh_and_said(kept, capsys):
    job = python("")
    kept.end(job, Outcome("job", process.PASSED, 1.0))
    whole = kept.path.read_text()
    assert progress.Progress.load(kept.path, key).finished(job)
    for text in (whole[:-30], "[]", '{"jobs": {"job": {}}}', '{"jobs": []}', "\0"):
        kept.path.write_text(text)
        assert not progress.Progress.load(kept.path, key).finished(job)
        assert "cannot be read" in capsys.readouterr().out


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "held"
    files.write_text(path, "old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # ended just before
    for write in (lambda: files.write_text(path, "new"), lambda: files.write_csv(path, ["a"], [{"a": 1}])):
        with pytest.raises(KeyboardInterrupt):
            write()
        assert path.read_text() == "old"


def test_an_outcome_is_of_its_own_sources_and_of_versions(tmp_path, monkeypatch):
    at = "kernels/silc_kernels/op.py", "silc/model.yaml", "tests/kernels/test_op.py", "benchmarks/kernels/smoke.py"
    at += ("benchmarks/loss_bench.py", "benchmarks/common/measure.py", "benchmarks/kernels/checks.py")
    for name in at:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / at[3]).write_text("def f():\n    from benchmarks.kernels import checks\n")
    (tmp_path / at[4]).write_text("import benchmarks.common.measure\n")
    of = {
        "smoke": (["python", "-m", "benchmarks.kernels.smoke"], ()),
        "loss": (["python", str(tmp_path / at[4])], ()),
        "tests": (["python"], ("tests/kernels",)),
        "train": (["python"], ("silc", "launch")),
    }

    def digests() -> dict[str, str]:
        return {name: sources.digest(*given, tmp_path) for name, given in of.items()}

    changes = ({*of}, {"train"}, {"tests"}, {"smoke"}, {"loss"}, {"loss"}, {"smoke"})
    for name, expected in zip(at, changes, strict=True):
        before = digests()
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        after = digests()
        assert {each for each in of if before[each] != after[each]} == expected, name


def test_other_versions_sizes_or_devices_begin_anew(tmp_path, monkeypatch):
    job = python("")
    first = progress.keys("cpu", "tiny", tmp_path)(job)
    assert first == progress.keys("cpu", "tiny", tmp_path)(job)
    others = [progress.keys("nvidia", "tiny", tmp_path)(job), progress.keys("cpu", "cuda", tmp_path)(job)]
    monkeypatch.setattr(progress.torch, "__version__", "9.9")
    others.append(progress.keys("cpu", "tiny", tmp_path)(job))
    monkeypatch.setattr(progress, "DRIVER", tmp_path / "version")
    progress.DRIVER.write_text("NVRM version: 999\nGCC\n")
    others.append(progress.keys("cpu", "tiny", tmp_path)(job))
    assert len({str(each) for each in [first, *others]}) == 5
    assert "999" in others[-1]["driver"]
    kept = progress.Progress(tmp_path / "kept.json", lambda _: first)
    kept.end(job, Outcome("job", process.PASSED, 1.0))
    assert kept.finished(job)
    kept.key = lambda _: others[0]
    assert not kept.finished(job)
    assert kept.outcome(job) is None


def test_every_job_hangs_on_its_own_script(tmp_path):
    held = {job.name: job for job in jobs.jobs("cuda", tmp_path)}
    for name, script in (
        ("smoke", "kernels/smoke_checks.py"),
        ("loss", "kernels/distill_cases.py"),
        ("tests", "gpu_run/part.py"),
    ):
        (first,) = filter(None, (sources.module_file(word, ROOT) for word in held[name].command))
        assert ROOT / "benchmarks" / script in sources.imported(first, ROOT)
    assert held["tests"].reads == ("tests/kernels",)
    assert {name for name, job in held.items() if "silc" in job.reads} == {"train", "train_bench", "claims"}


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


def wheel(folder: Path, name: str, tag: str = "py3-none-any") -> None:
    """With a module of its name."""
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1-{tag}.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{info}/RECORD", "")


def test_wheels_that_do_not_fit_are_said_and_the_others_installed_once(tmp_path, capsys, monkeypatch):
    brought, site = tmp_path / "brought", tmp_path / "site"
    brought.mkdir()
    wheel(brought, "old", "cp27-cp27mu-manylinux1_x86_64")
    assert wheels.install(brought, site) is None
    said = capsys.readouterr().out
    assert "no wheel of" in said
    assert "not a supported wheel" in said
    wheel(brought, "fitting")
    assert wheels.install(brought, site) == site
    assert (site / "fitting.py").is_file()
    assert "does not fit: old-1" in capsys.readouterr().out
    monkeypatch.setattr(wheels, "pip_install", None)
    assert wheels.install(brought, site) == site
    assert "already" in capsys.readouterr().out
    monkeypatch.undo()
    (brought / "old-1-cp27-cp27mu-manylinux1_x86_64.whl").unlink()
    (brought / "fitting-1-py3-none-any.whl").unlink()
    wheel(brought, "newer")
    assert wheels.install(brought, site) == site
    assert not (site / "fitting.py").exists()
    assert (site / "newer.py").is_file()


def test_a_python_without_pip_does_what_needs_no_wheels(tmp_path, capsys, monkeypatch):
    wheel(tmp_path, "fitting")
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    assert wheels.install(tmp_path, tmp_path / "site") is None
    assert "has no pip" in capsys.readouterr().out


def test_the_time_for_wheels_counts(tmp_path, monkeypatch):
    clock, ends = [100.0], []
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(gpu.wheels, "install", lambda *_: clock.__setitem__(0, 250.0))
    monkeypatch.setattr(gpu, "work", lambda todo, every, progress, out, end, site: ends.append(end) or 0)
    assert gpu.main(["--size", "tiny", "--out", str(tmp_path), "--minutes", "5", "--wheels", str(tmp_path)]) == 0
    assert ends == [400.0]
