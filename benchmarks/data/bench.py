"""The stream of training pairs against webdataset's and mosaicml-streaming's.

    python benchmarks/data_bench.py --startup --quick                    seconds; all of it: hours, mostly of peers
    python benchmarks/data_bench.py --startup --samples 1e5,1e7 --nodes 1x4
    python benchmarks/data_bench.py --peers peers/bin/python --save      with mosaicml-streaming, and write CSVs

    --startup      time to the first batch and memory against the number of samples (startup.py)
    --flatness     memory over 10,000 batches
    --throughput   samples/s, and bytes read over bytes used (throughput.py)
    --crops        from a JPEG to ten views, with torchvision's, Pillow's and lightly's ways (crops.py); minutes
    --remote       from an S3 server of this machine; only when asked for, as it needs node and npm (remote.py)

webdataset is one of this project's requirements. mosaicml-streaming 0.13 asks for numpy below 2.2, transformers below 5
and with it huggingface_hub below 1; the lock of this project has later ones. It needs an environment of its own,

    python3.11 -m venv peers
    peers/bin/pip install -r requirements.txt
    peers/bin/pip install "mosaicml-streaming>=0.13,<0.14"

whose Python `--peers` names; without it that peer is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import RESULTS
from benchmarks.data import crops, fake, remote, report, startup, throughput

T = TypeVar("T")
SAMPLES = "1e5,1e6,1e7,1e8,1.4e9"
NODES = "1x4,8x4"
OURS = ("silc", "webdataset")
PEERS = ("streaming", "streaming-py1s")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Mistakes end with a message and status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("startup", "flatness", "throughput", "crops", "remote"):
        parser.add_argument(f"--{part}", action="store_true", help="this part (default: all but remote)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--peers", metavar="PYTHON", help="Python of an environment with mosaicml-streaming")
    parser.add_argument("--providers", help=f"of {','.join(OURS + PEERS)} (default: all that are there)")
    parser.add_argument("--samples", default=SAMPLES, help=f"start-up: sizes of the sets ({SAMPLES})")
    parser.add_argument("--nodes", default=NODES, help=f"start-up: ranks x workers a rank ({NODES})")
    parser.add_argument("--batches", type=int, default=10_000, help="flatness: batches of 64 (10000)")
    parser.add_argument("--timeout", type=float, default=900, help="start-up: seconds for the first batch (900)")
    parser.add_argument("--memory", type=float, default=8, help="GiB that a cell may hold, all processes (8)")
    parser.add_argument(
        "--folder", type=Path, help="where the sets are made, on a disk with 3 GB free (a temporary one)"
    )
    parser.add_argument(
        "--save", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help="write CSVs (benchmarks/results)"
    )
    args = parser.parse_args(argv)
    if not (args.startup or args.flatness or args.throughput or args.crops or args.remote):
        args.startup = args.flatness = args.throughput = args.crops = True
    if args.quick:
        args.samples, args.nodes, args.batches = "4e3", "2x1", 1000
    try:
        args.pythons = _pythons(args)
        args.sizes = [int(float(size)) for size in args.samples.split(",")]
        args.shapes = [tuple(int(n) for n in node.split("x")) for node in args.nodes.split(",")]
    except ValueError as error:
        parser.error(str(error))
    return args


def _pythons(args: argparse.Namespace) -> dict[str, str]:
    """The interpreter of each provider."""
    known = dict.fromkeys(OURS, sys.executable)
    if args.peers:
        asked = subprocess.run([args.peers, "-c", "import streaming"], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise ValueError(f"--peers {args.peers}: {asked.stderr.strip()[-200:]}; see --help for its environment")
        known |= dict.fromkeys(PEERS, args.peers)
    names = args.providers.split(",") if args.providers else list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"--providers {name}: one of {', '.join(known)}" + _hint(name))
    return {name: known[name] for name in names}


def _hint(name: str) -> str:
    return "; it needs --peers PYTHON, see --help" if name in PEERS else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Raises ValueError when a stream does not give every sample once, unchanged."""
    args = arguments(argv)
    print(report.machine())
    for name in sorted(set(args.pythons.values())):
        print(report.versions(name))
    if not args.peers:
        print("without mosaicml-streaming: see --help for the environment that it needs")
    tails = report.where(args.pythons)
    plan = startup.Plan(
        args.sizes,
        args.shapes,
        args.pythons,
        args.peers,
        per_shard=1000 if args.quick else 10_000,
        timeout=args.timeout,
        memory_gib=args.memory,
        batches=args.batches,
    )
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="data_bench_") as name:
        folder = Path(name)
        if args.startup:
            _startup(plan, folder, tails, args.save)
        if args.flatness:
            _flatness(plan, folder, tails, args.save)
        if args.throughput:
            _throughput(args, folder, tails)
        if args.remote:
            _remote(args, folder, tails)
    if args.crops:
        _crops(args)


def _startup(plan: startup.Plan, folder: Path, tails: dict[str, dict[str, str]], save: Path | None) -> None:
    print("\nfirst batch, and memory of all ranks and workers in MiB", report.start_header(), sep="\n", flush=True)
    _show(startup.starts(plan, folder), report.start_line, tails, "data_startup", save)


def _flatness(plan: startup.Plan, folder: Path, tails: dict[str, dict[str, str]], save: Path | None) -> None:
    print("\nmemory over many batches", flush=True)
    samples = min(10_000_000, max(plan.samples))
    _show(startup.flatness(plan, folder, samples, workers=2), report.flat_lines, tails, "data_flatness", save)


def _throughput(args: argparse.Namespace, folder: Path, tails: dict[str, dict[str, str]]) -> None:
    shards, per_shard = (4, 64) if args.quick else (64, 1000)
    made = fake.real_set(folder / "throughput", shards, per_shard, (341, 256), args.peers)
    source = throughput.source_of(made)
    plan = throughput.Plan(args.pythons)
    if args.quick:
        plan = replace(plan, workers=(1,), batch=8, warm=2, batches=4, turns=2, cold_batches=4)
    print(f"\nthroughput: {made.samples:,} pairs of {source.mean / 1e3:.1f} kB in {shards} shards, batch {plan.batch}")
    for provider, python in args.pythons.items():
        print(throughput.gate(provider, python, made, source, plan), flush=True)
    print(report.rate_header(), flush=True)
    _show(throughput.rates(plan, made, source), report.rate_line, tails, "data_throughput", args.save)


def _remote(args: argparse.Namespace, folder: Path, tails: dict[str, dict[str, str]]) -> None:
    shards, per_shard = (4, 64) if args.quick else (32, 500)
    made = fake.real_set(folder / "remote", shards, per_shard, (341, 256), args.peers)
    source = throughput.source_of(made)
    plan = remote.Plan(args.pythons)
    if args.quick:
        plan = replace(plan, batch=8, warm=2, batches=4, ranks=16)
    described = f"{made.samples:,} pairs of {source.mean / 1e3:.1f} kB in {shards} shards, batch {plan.batch}"
    print(f"\nfrom an S3 server: {described}")
    print(report.remote_header(), flush=True)
    _show(remote.remotes(plan, made, source), report.remote_line, tails, "data_remote", args.save)


def _crops(args: argparse.Namespace) -> None:
    plan = crops.Plan(sizes=((160, 120),), pictures=2, rounds=1) if args.quick else crops.Plan()
    print(f"\nfrom a JPEG to ten views, one core, {plan.pictures} pictures", report.cut_header(), sep="\n", flush=True)
    found: list[crops.Cut] = []
    for row in crops.measure(plan):
        print(row if isinstance(row, str) else report.cut_line(row), flush=True)
        if isinstance(row, crops.Cut):
            found.append(row)
    tails = report.where(dict.fromkeys((row.provider for row in found), sys.executable), report.IMAGE_PACKAGES)
    _save(found, tails, "data_crops", args.save)


def _show(
    rows: Iterable[T], line: Callable[[T], str], tails: dict[str, dict[str, str]], name: str, save: Path | None
) -> None:
    """Print rows as they are measured, and write all so far after each: the next may take an hour."""
    found: list[Any] = []
    for row in rows:
        print(line(row), flush=True)
        found.append(row)
        _save(found, tails, name, save)


def _save(found: list[Any], tails: dict[str, dict[str, str]], name: str, folder: Path | None) -> None:
    if folder is not None:
        report.save(report.rows(found, tails), name, folder)
