"""The registry of kernel benchmarks: a case is an op at a shape with its providers; run it to gate, time and save."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.common.measure import Row, banner, commit, compare, device, device_name, gate
from benchmarks.kernels import graphs
from benchmarks.kernels.roofline import Roofline, measure_roofline
from benchmarks.kernels.table import earlier, save

VERSIONS = ("torch", "triton", "torchvision", "open_clip_torch", "timm", "lightly", "inf_cl")
Provider = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Case:
    """One op at one shape.

    Attributes:
        op, shape: what is timed, as printed.
        providers: makes the inputs and the functions to time; the first is ours.
        moved_bytes, flops: the least that must be moved and done in what is timed.
        repeats: of the timing.
        dtype: of the inputs.
        bound: relative error allowed between ours and the others before anything is timed; None: gated elsewhere, at
            a size that fits in memory several times over.
        timed: which passes.
    """

    op: str
    shape: str
    providers: Callable[[], dict[str, Provider]]
    moved_bytes: float
    flops: float
    repeats: int
    dtype: torch.dtype = torch.float32
    bound: float | None = None
    timed: str = "forward and backward"


def options(doc: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line that the kernel benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "cpu", "cuda"), default=device().type, help="default: by the device")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose op and shape contain this")
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="FOLDER",
        help="write a CSV (benchmarks/results)",
    )
    parser.add_argument("--resume", action="store_true", help="cases that the saved CSV has are not timed again")
    parser.add_argument("--graphs", action="store_true", help=argparse.SUPPRESS)  # of what is saved; see graphs.py
    args = parser.parse_args(argv)
    if args.resume and args.save is None:
        parser.error("--resume takes up what --save wrote; give both")
    return args


def run(name: str, cases: Iterable[Case], args: argparse.Namespace) -> list[dict[str, object]]:
    """Gate and time every case that is asked for, print a table each; with --save write <name>_<device>.csv, anew after
    every case: what is measured is kept if a later one fails, and with --resume taken up. Then, on a GPU, the calls as
    CUDA graphs are added to it (graphs.py).

    Raises:
        ValueError: a provider computes something else than ours.
    """
    torch.manual_seed(0)
    if args.graphs:
        asked = (case for case in cases if args.only in f"{case.op} {case.shape}")
        graphs.leave(graphs.measure(asked, earlier(name, args.save), lambda lines: save(name, lines, args.save)))
    print(banner())
    roofs: dict[torch.dtype, Roofline] = {}
    records = earlier(name, args.save) if args.resume else []
    done = {(line["op"], line["shape"]) for line in records}
    for case in cases:
        if args.only not in f"{case.op} {case.shape}" or (case.op, case.shape) in done:
            continue
        if case.dtype not in roofs:
            roofs[case.dtype] = measure_roofline(case.dtype)
            print(roofs[case.dtype], flush=True)
        providers = working(case.providers())
        if case.bound is not None:
            check(case, providers)
        rows = compare(providers, case.repeats)
        new = [record(case, row, rows[0], roofs[case.dtype]) for row in rows]
        show(case, new)
        records += new
        if args.save is not None:
            save(name, records, args.save)
    if records and args.save is not None:
        print(f"\nwritten to {save(name, records, args.save)}", flush=True)
        if device().type == "cuda":
            command = graphs.command(args.only, args.size, args.save)
            records = graphs.by_processes(command, lambda: earlier(name, args.save))
    return records


def working(providers: dict[str, Provider]) -> dict[str, Provider]:
    """Ours, and those of the others that run here: one that does not (memory, versions) is left out, and said so."""
    ours, *others = providers.items()
    found = dict([ours])
    for name, provider in others:
        try:
            provider()
            found[name] = provider
        except Exception as error:  # whatever another's code raises
            lines = str(error).splitlines()
            print(f"  left out: {name} ({type(error).__name__}: {lines[0] if lines else ''})", flush=True)
    return found


def check(case: Case, providers: dict[str, Provider]) -> None:
    """Ours against every other provider, value and gradients; those that return nothing are ceilings, not peers."""
    ours, *others = providers.items()
    mine = list(ours[1]())
    for name, provider in others:
        theirs = list(provider())
        if theirs:
            gate(f"{case.op} {case.shape} against {name}", mine, theirs, case.bound)


def record(case: Case, row: Row, ours: Row, roof: Roofline) -> dict[str, object]:
    """A line of the CSV."""
    middle, low, high = row.milliseconds
    return {
        "op": case.op,
        "shape": case.shape,
        "provider": row.provider,
        "dtype": str(case.dtype).removeprefix("torch."),
        "ms": middle,
        "ms_p20": low,
        "ms_p80": high,
        "cpu_ms": row.processor_ms,
        "gb_per_s": case.moved_bytes / middle / 1e6,
        "tflop_per_s": case.flops / middle / 1e9,
        "roofline_percent": 100 * roof.floor_ms(case.moved_bytes, case.flops) / middle,
        "peak_mib": row.peak_mib,
        "enqueue_ms": row.enqueue_ms,
        "host_ms": row.host_ms,
        "graph_ms": graphs.UNTRIED,
        "ratio": middle / ours.milliseconds[0],
        "device": device_name(),
        "versions": " ".join(f"{package}=={found}" for package in VERSIONS if (found := _version(package))),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def show(case: Case, records: Sequence[dict[str, object]]) -> None:
    """A table; the ratio says how many times as long as ours a provider takes."""
    columns = ("ms", "ms_p20", "ms_p80", "cpu_ms", "gb_per_s", "tflop_per_s", "roofline_percent")
    columns += ("peak_mib", "enqueue_ms", "host_ms", "ratio")
    titles = ("ms", "p20", "p80", "cpu ms", "GB/s", "TFLOP/s", "% roof", "peak MiB")
    titles += ("launch ms", "host ms", "ratio")
    print(f"\n{case.op}  {case.shape}  {str(case.dtype).removeprefix('torch.')}, {case.timed}")
    print(f"  {'provider':36s} " + " ".join(f"{title:>9s}" for title in titles))
    for line in records:
        numbers = (f"{line[column]:9.4g}" if line[column] == line[column] else 9 * " " for column in columns)
        print(f"  {line['provider']:36s} " + " ".join(numbers), flush=True)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
