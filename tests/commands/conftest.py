"""Tiny shards with planted damage, and real trainings on them by each way in, each made once for all tests."""

from __future__ import annotations

import fcntl
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "launch" / "train.py"
STEPS, BATCH, CLASSES, EVAL_IMAGES = 8, 16, 5, 9
CORRUPT, EMPTY, CUT = "001/0005", "002/0007", "003/0012"  # what is wrong with the training shards
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH")
PRESET = """
model:
  vision: {image_size: 16, patch_size: 8, width: 32, depth: 2, heads: 2}
  text: {context_length: 8, width: 32, depth: 1, heads: 2}
  head: {prototypes: 64, hidden: 64, bottleneck: 16}
views: {n_global: 2, n_local: 2, global_size: 16, local_size: 8}
objective: {ema_momentum: 0.9}
data: {workers: 1, shuffle_block: 32}
optim: {warmup_steps: 2, cooldown_steps: 0, eps: 1.0e-5}  # eps above the noise in gradients that are zero in theory
"""


@dataclass(frozen=True)
class Run:
    """What a launch left: exit status, everything it printed, the run folder."""

    status: int
    output: str
    folder: str

    def path(self, *parts: str) -> Path:
        return Path(self.folder, *parts)

    def rows(self, key: str = "loss") -> list[dict[str, Any]]:
        """Rows of metrics.jsonl that hold `key`."""
        rows = [json.loads(line) for line in self.path("metrics.jsonl").read_text().splitlines()]
        return [row for row in rows if key in row]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment as a user's shell has it, on one thread."""
    plain = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    path = f"{Path(sys.executable).parent}{os.pathsep}{plain['PATH']}"
    return plain | {"PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | extra


def checkout() -> str:
    """PYTHONPATH of this checkout."""
    return os.pathsep.join([str(ROOT), str(ROOT / "kernels")])


def free_port() -> int:
    """A port that no one holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_train(*arguments: str, cwd: Path, ranks: int | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """launch/train.py as a user runs it: by the deepspeed launcher, or by plain python when `ranks` is None."""
    command = [sys.executable, str(TRAIN), *arguments]
    if ranks is not None:
        command = ["deepspeed", "--num_gpus", str(ranks), "--master_port", str(free_port()), str(TRAIN), *arguments]
    env = environment(**extra)
    return subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, timeout=500, check=False)


def _image(*seed: int) -> bytes:
    pixels = np.kron(np.random.default_rng(seed).integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "png")
    return encoded.getvalue()


def write_data(root: Path) -> None:
    """Four training shards of 16 with three damages, an evaluation shard, class names, the preset."""
    (root / "train").mkdir()
    for shard in range(4):
        with wds.TarWriter(str(root / "train" / f"{shard:03}.tar")) as writer:
            for number in range(16):
                key, name = f"{number:04}", f"{shard:03}/{number:04}"
                image = b"\x89PNG no more" if name == CORRUPT else _image(shard, number)
                caption = " \n" if name == EMPTY else f"thing {number % CLASSES} of {shard}"
                writer.write({"__key__": key, "png": image, "txt": caption})
    shard, key = CUT.split("/")
    path = root / "train" / f"{shard}.tar"
    with tarfile.open(path) as tar:
        cut = tar.getmember(f"{key}.txt").offset_data + 3
    os.truncate(path, cut)
    with wds.TarWriter(str(root / "eval.tar")) as writer:
        for number in range(EVAL_IMAGES):
            info = json.dumps({"class": number % CLASSES}).encode()
            writer.write({"__key__": f"{number:04}", "png": _image(9, number), "json": info, "txt": f"held {number}"})
    (root / "classes.txt").write_text("".join(f"thing {number}\n" for number in range(CLASSES)))
    (root / "tiny.yaml").write_text(
        f"{PRESET}\n"
        f"train: {{steps: {STEPS}, global_batch: {BATCH}, log_every: 2, save_every: 4}}\n"
        f"eval: {{shards: [eval.tar], classes: classes.txt, templates: ['{{}}', 'a {{}}'], batch: 4}}\n"
    )


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """once(name, make): make(folder)'s JSON value, computed by the first process that asks, whatever the workers."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "launch"
    shared.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = shared / f"{name}.json"
            if not result.exists():
                folder = shared / name
                folder.mkdir()
                result.write_text(json.dumps(make(folder)))
            return json.loads(result.read_text())

    return get


@pytest.fixture(scope="session")
def data(once) -> Path:
    """A folder with train/, eval.tar, classes.txt and tiny.yaml."""

    def make(folder: Path) -> str:
        write_data(folder)
        return str(folder)

    return Path(once("data", make))


def _launch(once, data: Path, name: str, *arguments: str, ranks: int | None, **extra: str) -> Run:
    def make(folder: Path) -> dict[str, Any]:
        options = ["--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]", f"train.out={folder}/run"]
        done = run_train(*options, *arguments, cwd=data, ranks=ranks, **extra)
        return asdict(Run(done.returncode, done.stdout + done.stderr, f"{folder}/run"))

    return Run(**once(name, make))


@pytest.fixture(scope="session")
def two_ranks(once, data) -> Run:
    """Two processes by the launcher, ZeRO-1."""
    return _launch(once, data, "two_ranks", ranks=2)


@pytest.fixture(scope="session")
def one_rank(once, data) -> Run:
    """One process without the launcher; a package named apex that is not NVIDIA's is installed."""
    stranger = data / "site" / "apex"
    stranger.mkdir(parents=True, exist_ok=True)
    (stranger / "__init__.py").write_text('"""A web toolkit."""\n')
    return _launch(once, data, "one_rank", ranks=None, PYTHONPATH=str(stranger.parent))


@pytest.fixture(scope="session")
def stage_3(once, data) -> Run:
    """Two processes, ZeRO-3, accumulation by 2, an evaluation on the way."""
    options = ["engine.zero_stage=3", "train.micro_batch=4", "eval.every=4", "train.save_every=0"]
    return _launch(once, data, "stage_3", *options, ranks=2)
