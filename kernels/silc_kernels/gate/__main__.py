"""The compile gate's command: every kernel with every shipped launch configuration, for each architecture.

    python -m silc_kernels.gate            compile, check and print the table
    python -m silc_kernels.gate --write    and write it to the table of this version of Triton, beside this file
    python -m silc_kernels.gate --trials   the alternatives that benchmarks/tune.py times against what ships
    python -m silc_kernels.gate --shapes   whole ops, specialised as the JIT does, at many shapes, on sm_90
    python -m silc_kernels.gate --shapes --write    and write that table

No GPU is needed.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import triton

from ..contrastive import triton_launch as contrastive
from ..crops import triton_launch as crops
from ..distill import triton_head_launch, triton_logits_launch
from ..patch_embedding import triton_gate as patch_embedding
from ..photometry import triton_launch as photometry
from . import shapes
from .gate import Candidate, Row, build, faults
from .shapes import ShapeRow

LOCKED = "3.6"  # of Triton: compile_gate.csv is of this version, those of others are named after theirs
# Each names the kernels it ships in `gate_candidates()`, and their alternatives in `trial_candidates()`.
MODULES = (triton_logits_launch, triton_head_launch, patch_embedding, contrastive, photometry, crops)


def candidates() -> Iterator[Candidate]:
    """All kernels as they ship."""
    for module in MODULES:
        yield from module.gate_candidates()


def trials() -> Iterator[Candidate]:
    """Alternatives to what ships, that benchmarks/tune.py times on a GPU; in bfloat16."""
    for module in MODULES:
        yield from module.trial_candidates()


def table(name: str = "compile_gate") -> Path:
    """Where the table of the version of Triton in use lies."""
    version = ".".join(triton.__version__.split(".")[:2])
    return Path(__file__).with_name(
        f"{name}.csv" if version == LOCKED else f"{name}_triton{version.replace('.', '')}.csv"
    )


def write(rows: Sequence[Row] | Sequence[ShapeRow], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a committed table; none where there is no table."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rewrite(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    """The committed table with these rows in the place of those of the same names, in the order of all `names`."""
    new: dict[str, list[dict[str, object]]] = {}
    old: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        new.setdefault(row.name, []).append(asdict(row))
    for line in read(path):
        old.setdefault(line["name"], []).append(dict(line))
    kept = [line for name in names for line in new.get(name, old.get(name, []))]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m silc_kernels.gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--write", action="store_true", help="write to the table; with --only, its lines of these alone"
    )
    parser.add_argument("--trials", action="store_true", help="the alternatives, not what ships")
    parser.add_argument("--shapes", action="store_true", help="whole ops at many shapes, not single kernels")
    parser.add_argument("--only", default="", help="candidates, or ops and shapes, whose name contains this")
    options = parser.parse_args()
    wrong = _shapes(options) if options.shapes else _kernels(options)
    if wrong:
        raise SystemExit("\n".join(wrong))


def _kernels(options: argparse.Namespace) -> list[str]:
    """Faults of the kernels that ship, or of the alternatives."""
    rows, wrong = [], []
    numbers = f"{'sm':>4s} {'regs':>5s} {'spill':>6s} {'shared':>7s} {'programs':>8s}"
    print(f"{'kernel':64s} {numbers}  wgmma serial bulk async overlap hazards between")
    for candidate in trials() if options.trials else candidates():
        if options.only not in candidate.name:
            continue
        for architecture in candidate.architectures:
            row = build(candidate, architecture)
            rows.append(row)
            wrong += faults(candidate, row)
            marks = "  ".join(
                "yes" if mark else " - "
                for mark in (row.wgmma, row.serialized, row.bulk_copies, row.async_copies, row.overlapped)
            )
            numbers = f"{row.architecture:4d} {row.registers:5d} {row.spill_bytes:6d} {row.shared_bytes:7d}"
            end = f"{row.hazards:9d} {row.between:7d}"
            print(f"{row.name:64s} {numbers} {row.programs:8d}   {marks} {end}", flush=True)
    if options.write and rows and not options.trials:
        rewrite(rows, [candidate.name for candidate in candidates()], table())
    return wrong


def _shapes(options: argparse.Namespace) -> list[str]:
    """Faults of whole ops at the shapes of the table."""
    rows, wrong = [], []
    for case in shapes.cases():
        if options.only not in f"{case.op} {case.label}":
            continue
        found, problems = shapes.compiled(case)
        wrong += problems
        for row in found:
            rows.append(row)
            wrong += shapes.faults(row)
            numbers = f"{row.registers:4d} {row.spill_bytes:5d} {row.shared_bytes:7d} {row.programs:3d}"
            print(f"{row.op:18s} {row.shape:52s} {row.kernel:18s} {numbers}  {row.reason}", flush=True)
    if options.write and rows and not options.only:
        write(rows, table("shapes"))
    return wrong


if __name__ == "__main__":
    main()
