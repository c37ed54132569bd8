"""Every kernel that the benchmarks launch, compiled beforehand by all cores into Triton's cache; no GPU is needed.

    python -m benchmarks.kernels.precompile smoke             from the repository's root: what the smoke test launches
    python -m benchmarks.kernels.precompile cases trials      the benchmarks' cases; the alternatives that tune.py times
    python -m benchmarks.kernels.precompile --processes 2 --architecture 90

A process of its own takes one op at one shape at a time, runs it on CPU tensors whose contents do not exist, and lets
the JIT specialise and compile for the chip (silc_kernels.gate.dry). Triton names what it has compiled by its own
version, the kernel's source, types, alignments and options, and by the chip's compute capability, not by a device, so
that a launch on the GPU finds it. Without this the kernels are compiled one after another, seconds each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import islice
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import torch

from benchmarks.kernels.hollow import Hollow
from silc_kernels.common.triton_runtime import family

WHAT = ("smoke", "cases", "trials")
REFUSED = "cannot run this call"
FOR_A_CPU = 90  # where no GPU is visible


def tasks(what: str, size: str, architecture: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, call) of each op at each shape. size: of the benchmarks."""
    if what == "smoke":
        from benchmarks.kernels.smoke_checks import checks

        for check in checks(tiny=size == "tiny"):
            yield check.name, lambda check=check: check.solve("triton")
        return
    from benchmarks.kernels import tune

    if what == "cases":
        for case in tune.every(size):
            yield f"{case.op} {case.shape}", lambda case=case: next(iter(case.providers().values()))()
        return
    for module, case in tune.tables(size):
        op = next(iter(case.providers().values()))
        for key, trial in ((key, trial) for key, trials in module.TRIALS.items() for trial in trials):
            if key[-1] == family(architecture):
                yield f"{case.op} {key} {trial}", partial(tune.alternative, module, key, trial, op)


def compile_one(what: str, size: str, place: int, architecture: int) -> tuple[str, int, float, str]:
    """Run the task of this place: its name, launches, processor time in seconds, and why it failed."""
    from silc_kernels.gate.dry import dry

    start = processor_time()
    with contextlib.redirect_stdout(io.StringIO()), Hollow():
        name, call = next(islice(tasks(what, size, architecture), place, None))
        why = ""
        with dry(architecture) as seen, Hollow():
            try:
                call()
            except Exception as error:  # the others are to be compiled all the same
                # What the kernels do not take, plain torch does.
                why = "" if REFUSED in str(error) else f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    for compiled in {id(launch.compiled): launch.compiled for launch in seen.launches}.values():
        build_caller(compiled)
    return name, len(seen.launches), processor_time() - start, why


def build_caller(compiled: Any) -> None:
    """The C function that hands a kernel's arguments to the driver, which Triton 3.6 builds at the first launch."""
    with contextlib.suppress(Exception):  # needs the driver's library; without it, it is built at the first launch
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(compiled.src, compiled.metadata)


def processor_time() -> float:
    """Seconds of this process and of the assemblers that it started."""
    return sum(getrusage(who).ru_utime + getrusage(who).ru_stime for who in (RUSAGE_SELF, RUSAGE_CHILDREN))


def compile_all(what: Sequence[str], size: str, architecture: int, processes: int) -> list[str]:
    """Compile everything; prints a line each. What could not be compiled, in words."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the processes work without
    failed, work = [], 0.0
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting = {
            pool.submit(compile_one, each, size, place, architecture): each
            for each in what
            for place in range(count(each, size, architecture))
        }
        for future in as_completed(waiting):
            name, launches, seconds, why = future.result()
            work += seconds
            print(f"  {seconds:6.1f} s {launches:4d} launches  {name}  {why}", flush=True)
            if why:
                failed.append(f"{name}: {why}")
    seconds = time.perf_counter() - start
    print(f"{len(waiting)} ops compiled for sm_{architecture} in {seconds:.0f} s, {work:.0f} s of processor time")
    return failed


def count(what: str, size: str, architecture: int) -> int:
    with contextlib.redirect_stdout(io.StringIO()), Hollow():
        return sum(1 for _ in tasks(what, size, architecture))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=WHAT)
    parser.add_argument("--size", choices=("tiny", "cuda"), default="cuda")
    parser.add_argument("--architecture", type=int, help="such as 90; default: this machine's GPU")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(argv)
    architecture = args.architecture
    if architecture is None:
        major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (FOR_A_CPU // 10, 0)
        architecture = 10 * major + minor
    failed = compile_all(args.what, args.size, architecture, args.processes)
    for problem in failed:
        print(f"not compiled: {problem}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
