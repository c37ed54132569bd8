"""The jobs of a machine with a GPU, in the order of their worth.

Right or wrong comes first, of every op, in a minute: nothing else counts if that fails. Then what can be measured
nowhere else, the losses before the rest, as they are most of what the kernels are for; the host's time beside it. Then
the tests, which say more of the same as the smoke test, and the views, whose peers take minutes. The tuner and the
sanitizer only help to improve what is known by then; a training and the claims need packages that such a machine may
not have, and show the least of the kernels. Each kind of kernel is compiled by all cores just before its first launch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import ROOT
from benchmarks.common.measure import device
from benchmarks.gpu_run.probes import LOOPBACK

SANITIZED = ("memcheck", "racecheck")
TESTS = ("tests/kernels",)
TRAINING = ("silc", "launch")
TRAINER = (LOOPBACK, "deepspeed", "open_clip", "webdataset", "torchvision")


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        least: seconds without which it is not begun: it would be stopped before it has anything to show.
        most: seconds after which it is stopped.
        needs: packages (or programs, which have a "-" in their names, or the loopback interface) without which it is
            left out, and said so.
        resumes: takes --resume: what an earlier, stopped run of it has written is not done again.
        reads: files and folders, of the repository, that its outcome hangs on beside the kernels, its own script and
            what that imports of benchmarks.
        runs: the folder of its training runs, which are removed when it begins anew; else they go on.
    """

    name: str
    command: list[str]
    least: int
    most: int
    needs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    resumes: bool = False
    reads: tuple[str, ...] = ()
    runs: Path | None = None


def jobs(size: str, out: Path) -> Iterator[Job]:
    """All jobs, the most worth first. size: "cuda", or "tiny" to try the script. out: where results go."""
    yield from of_the_kernels(size, out)
    yield from of_the_trainer(size, out)


def of_the_kernels(size: str, out: Path) -> Iterator[Job]:
    """They need torch and triton, the tests pytest; peers are left out by name where they are missing."""
    save = ["--save", str(out)]
    sized = ["--size", size, *save]
    interpreted = {"TRITON_INTERPRET": "1"} if device().type == "cpu" else {}
    tests = module("benchmarks.gpu_run.device_tests", *save, *(["--only", "needs"] if size == "tiny" else []))
    environment = interpreted | {"OMP_NUM_THREADS": "1"}
    yield Job("compile_smoke", precompile("smoke", size), 30, 120)
    yield Job("smoke", module("benchmarks.kernels.smoke", *save), 30, 180, environment=interpreted, resumes=True)
    yield Job("compile", precompile("cases", size), 30, 240)
    yield Job("roofline", module("benchmarks.kernels.roofline", *save), 15, 60)
    yield Job("loss", script("loss_bench.py", *sized), 60, 300, resumes=True)
    yield Job("patch_embed", script("patch_embed_bench.py", *sized), 40, 180, resumes=True)
    if (ROOT / "benchmarks" / "host_bench.py").is_file():
        yield Job("host", script("host_bench.py", *save), 20, 120)
    yield Job("tests", tests, 60, 420, ("pytest",), environment, resumes=True, reads=TESTS)
    yield Job("views", script("views_bench.py", *sized), 40, 240, resumes=True)
    if size == "cuda":
        yield Job("compile_trials", precompile("trials", size), 30, 240)
        yield Job("tune", script("tune.py", *save), 60, 420, resumes=True)
    for tool in SANITIZED:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
        yield Job(
            tool, [*command, *module("benchmarks.kernels.sanitize")], 60, 300, ("compute-sanitizer",), interpreted
        )


def of_the_trainer(size: str, out: Path) -> Iterator[Job]:
    tiny = size == "tiny"
    lean = ["train.tensorboard=false"]
    short = ["train.steps=2", "train.global_batch=4", "data.sample_scenes=64", "eval.after=[]"]
    train = module("deepspeed.launcher.runner", "--num_gpus", "1", str(ROOT / "launch" / "train.py"))
    preset = short if tiny else ["--preset", "sample_gpu", "train.steps=40"]
    place = [f"train.out={out / 'run'}", "train.resume=auto"]
    yield Job("train", [*train, *preset, *lean, *place], 60, 300, TRAINER, reads=TRAINING, runs=out / "run")
    full = ["--preset", "silc_vit_b16", "--batch", "256", f"data.shards=[{ROOT}/data/sample]", "--data-steps", "0"]
    small = ["--steps", "1", "--data-steps", "0", "--batch", "4"]
    bench = script("train_bench.py", "--save", str(out), *(small if tiny else full))
    yield Job("train_bench", bench, 120, 420, (*TRAINER, "lightly"), reads=TRAINING)
    few = ["--pairs", "8", "optim.warmup_steps=1", "eval.after=[fewshot]", "eval.limit=16", *short[1:3]]
    # Three at a time: one process leaves the GPU idle while its host works. Stopped, the next call goes on.
    many = ["--preset", "sample_gpu", "--pairs", "65536", "--seeds", "0,1,2", "--jobs", "3"]
    many += ["--variants", "clip,clip_views,silc"]
    claims = [sys.executable, str(ROOT / "launch" / "claims.py"), "--num_gpus", "1", "--out", str(out / "claims")]
    claims += [*(few if tiny else many), *lean]
    yield Job("claims", claims, 180, 1500, TRAINER, reads=TRAINING, runs=out / "claims")


def module(name: str, *args: str) -> list[str]:
    return [sys.executable, "-m", name, *args]


def script(name: str, *args: str) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / name), *args]


def precompile(what: str, size: str) -> list[str]:
    return module("benchmarks.kernels.precompile", what, "--size", size)
