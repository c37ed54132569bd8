"""The compile gate's command: every kernel with every shipped launch configuration, for each architecture.

    python -m silc_kernels.gate            compile, check and print the table
    python -m silc_kernels.gate --write    and write it to the table of this version of Triton, beside this file
    python -m silc_kernels.gate --trials   the alternatives that benchmarks/tune.py times against what ships
    python -m silc_kernels.gate --shapes   whole ops, specialised as the JIT does, at many shapes, on sm_90
    python -m silc_kernels.gate --shapes --write    and write that table; with --only, its lines of these cases alone

No GPU is needed.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import triton

from ..contrastive import triton_launch as contrastive
from ..crops import triton_launch as crops
from ..distill import triton_head_launch, triton_logits_launch
from ..patch_embedding import triton_gate as patch_embedding
from ..photometry import triton_launch as photometry
from . import shapes
from .cases import Case
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


def rewrite(rows: Sequence[Row], kept: Sequence[tuple[str, int]], path: Path) -> None:
    """The committed table with these rows in the place of its own, in the order of all that it keeps.

    kept: (name, architecture) of each line.
    """
    lines: dict[tuple[str, int], dict[str, object]] = {
        (line["name"], int(line["architecture"])): dict(line) for line in read(path)
    }
    lines |= {(row.name, row.architecture): asdict(row) for row in rows}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines[key] for key in kept if key in lines)


def rewrite_shapes(rows: Sequence[ShapeRow], kept: Sequence[tuple[str, str]], path: Path) -> None:
    """The committed table of shapes with these rows in the place of its own, in the order of all cases that it keeps.

    kept: (op, shape) of each case, which has a line for each kernel.
    """
    lines: dict[tuple[str, str], list[dict[str, object]]] = {}
    for line in read(path):
        lines.setdefault((line["op"], line["shape"]), []).append(dict(line))
    for new in dict.fromkeys((row.op, row.shape) for row in rows):
        lines[new] = [asdict(row) for row in rows if (row.op, row.shape) == new]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(line for key in kept for line in lines.get(key, ()))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m silc_kernels.gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--write", action="store_true", help="write to the table; with --only, its lines of these alone"
    )
    parser.add_argument("--trials", action="store_true", help="the alternatives, not what ships")
    parser.add_argument("--shapes", action="store_true", help="whole ops at many shapes, not single kernels")
    parser.add_argument("--only", default="", help="candidates, or ops and shapes, whose name contains this")
    options = parser.parse_args(argv)
    if options.trials and (options.write or options.shapes):
        parser.error("--trials goes with --only alone: tables and shapes are of what ships")
    if options.shapes:
        cases = [case for case in shapes.cases() if options.only in f"{case.op} {case.label}"]
        wrong = _shapes(cases, options.write) if cases else _none(parser, options.only, (c.op for c in shapes.cases()))
    else:
        known = list(trials() if options.trials else candidates())
        chosen = [candidate for candidate in known if options.only in candidate.name]
        names = (candidate.name.rsplit("/", 1)[0] for candidate in known)
        wrong = _kernels(chosen, options.write) if chosen else _none(parser, options.only, names)
    if wrong:
        raise SystemExit("\n".join(wrong))


def _none(parser: argparse.ArgumentParser, only: str, names: Iterable[str]) -> NoReturn:
    parser.error(f"--only {only}: no name contains it; there are {', '.join(dict.fromkeys(names))}")


def _kernels(chosen: Sequence[Candidate], to_write: bool) -> list[str]:
    """Faults of kernels that ship, or of alternatives."""
    rows, wrong = [], []
    numbers = f"{'sm':>4s} {'regs':>5s} {'spill':>6s} {'shared':>7s} {'programs':>8s}"
    print(f"{'kernel':64s} {numbers}  wgmma serial bulk async overlap hazards between")
    for candidate in chosen:
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
    if to_write:
        rewrite(rows, [(each.name, sm) for each in candidates() for sm in each.architectures], table())
    return wrong


def _shapes(cases: Sequence[Case], to_write: bool) -> list[str]:
    """Faults of whole ops at shapes of the table."""
    rows, wrong = [], []
    numbers = f"{'regs':>4s} {'spill':>5s} {'shared':>7s} {'programs':>8s}"
    print(f"{'op':18s} {'shape':64s} {'kernel':24s} {numbers}  reason")
    for case in cases:
        found, problems = shapes.compiled(case)
        wrong += problems
        for row in found:
            rows.append(row)
            wrong += shapes.faults(row)
            numbers = f"{row.registers:4d} {row.spill_bytes:5d} {row.shared_bytes:7d} {row.programs:8d}"
            print(f"{row.op:18s} {row.shape:64s} {row.kernel:24s} {numbers}  {row.reason}".rstrip(), flush=True)
    if to_write:
        rewrite_shapes(rows, [(each.op, each.label) for each in shapes.cases()], table("shapes"))
    return wrong


if __name__ == "__main__":
    main()
