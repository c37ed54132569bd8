"""The compile gate's command: every kernel with every shipped launch configuration, for each architecture.

    python -m silc_kernels.gate            compile, check and print the table
    python -m silc_kernels.gate --write    and write it to compile_gate.csv, beside this file
    python -m silc_kernels.gate --trials   the alternatives that benchmarks/tune.py times against what ships

No GPU is needed.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from ..contrastive import triton_launch as contrastive
from ..crops import triton_launch as crops
from ..distill import triton_head_launch, triton_logits_launch
from ..patch_embedding import triton_gate as patch_embedding
from ..photometry import triton_launch as photometry
from .gate import Candidate, Row, build, faults

TABLE = Path(__file__).with_name("compile_gate.csv")
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


def write(rows: Iterable[Row], path: Path = TABLE) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, Row.__dataclass_fields__, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m silc_kernels.gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    parser.add_argument("--trials", action="store_true", help="the alternatives, not what ships")
    parser.add_argument("--only", default="", help="candidates whose name contains this")
    options = parser.parse_args()
    rows, wrong = [], []
    numbers = f"{'sm':>4s} {'regs':>5s} {'spill':>6s} {'shared':>7s}"
    print(f"{'kernel':64s} {numbers}  wgmma serial bulk async overlap hazards")
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
            print(f"{row.name:64s} {numbers}   {marks} {row.hazards:9d}", flush=True)
    if options.write and not (options.only or options.trials):
        write(rows)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
