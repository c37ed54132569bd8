"""Packages for a machine without a network: wheels of what the benchmarks compare with and the trainer needs.

They are those of this environment and of its versions, with all that they need in turn, but without torch, triton,
numpy and what belongs to them: the machine brings its own. torchvision goes by the machine's torch.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution, requires, version
from pathlib import Path

PYTHON = "3.12"
TORCHVISION = "0.26.0"  # of torch 2.11
WANTED = (
    *("deepspeed", "open_clip_torch", "timm", "lightly", "webdataset", "braceexpand", "simplejpeg", "pillow"),
    *("pydantic", "pyyaml", "safetensors", "tqdm", "psutil", "jinja2", "markdown-it-py", "hypothesis"),
)
THERE = re.compile(
    "torch|torchvision|triton|numpy|nvidia-.*|cuda-.*|setuptools|pytest|filelock|fsspec|networkx|sympy|mpmath"
)
# lightly trains with these; its losses, which are all that is used, do not.
NOT_USED = {"hydra-core", "omegaconf", "antlr4-python3-runtime", "pytorch-lightning", "torchmetrics", "aiohttp"}
NOT_USED |= {"hf-xet"}  # for downloads from a hub
FROM_SOURCE = {"deepspeed"}  # no wheel of it is published
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST = 64 << 20  # bytes
BARE = "jobs that need more than torch, triton and pytest are left out"


def closure(wanted: tuple[str, ...] = WANTED) -> dict[str, str]:
    """name -> version, of what is wanted and what that needs, as installed here; for PYTHON."""
    found: dict[str, str] = {}
    waiting = list(wanted)
    while waiting:
        name = canonical(waiting.pop())
        if name in found or THERE.fullmatch(name) or name in NOT_USED:
            continue
        found[name] = version(name)
        waiting += needed(name)
    return dict(sorted(found.items()))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str) -> Iterator[str]:
    """What a distribution requires without extras."""
    from packaging.requirements import Requirement

    environment = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "extra": ""}
    for text in requires(distribution(name).metadata["Name"]) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield requirement.name


def download(folder: Path) -> int:
    """Fetch all wheels into `folder`. Status 1 if they take more than MOST bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pins = closure()
    ready = [f"{name}=={number}" for name, number in pins.items() if name not in FROM_SOURCE]
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    of_cpython = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    fetch = [*pip, "download", "--no-deps", *of_cpython, "--dest", str(folder), *ready, f"torchvision=={TORCHVISION}"]
    subprocess.run(fetch, check=True)
    for name in FROM_SOURCE & pins.keys():
        build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), f"{name}=={pins[name]}"]
        subprocess.run([*pip, *build], check=True, env={**os.environ, "DS_BUILD_OPS": "0"})
    return said(folder)


def said(folder: Path) -> int:
    """Print the wheels and their sum; 1 if they are too many to carry."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"  {size / 2**20:6.1f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{len(sizes)} wheels, {total / 2**20:.1f} MiB of at most {MOST >> 20}, in {folder}")
    return int(total > MOST)


def install(folder: Path, site: Path) -> Path | None:
    """Install the wheels of `folder` into `site`, without a network; not again where it holds the same. None, and said
    so, where there are none that fit: jobs that need more are then left out.
    """
    found = sorted(folder.glob("*.whl"))
    if not found:
        print(f"no wheels in {folder}: {BARE}", flush=True)
        return None
    if importlib.util.find_spec("pip") is None:
        print(f"{sys.executable} has no pip to install the wheels of {folder} with: {BARE}", flush=True)
        return None
    made_of = site / "made_of.txt"
    these = "\n".join([sys.version, *(f"{path.name} {path.stat().st_size}" for path in found)])
    if made_of.is_file() and made_of.read_text(encoding="utf-8") == these:
        print(f"{site} holds the wheels of {folder} already", flush=True)
        return site
    if made_of.is_file():
        shutil.rmtree(site)
    trouble = pip_install(found, site)
    unfit = [path.name for path in found if pip_install([path], site)] if trouble else []
    if len(unfit) == len(found):
        print(f"no wheel of {folder} could be installed ({trouble}): {BARE}", flush=True)
        return None
    made_of.write_text(these, encoding="utf-8")
    print(f"{len(found) - len(unfit)} wheels installed in {site} for {sysconfig.get_python_version()}", flush=True)
    for name in unfit:
        print(f"  left out, as it does not fit: {name}", flush=True)
    return site


def pip_install(found: Sequence[Path], site: Path) -> str:
    """Empty, or the last line of what pip said."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    options = ["--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target", str(site)]
    done = subprocess.run([*pip, *options, *map(str, found)], capture_output=True, text=True)
    said = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
    return said[-1] if done.returncode else ""
