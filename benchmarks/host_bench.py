"""What a call of each op costs the host, at shapes so small that a GPU would wait for it.

    python benchmarks/host_bench.py                    on a GPU natively; without one, launches are prepared and dropped
    python benchmarks/host_bench.py --save             and write benchmarks/results/host_<device>.csv
    python benchmarks/host_bench.py --only contrastive
    python benchmarks/host_bench.py --against ../before    this checkout and another one, in processes that take turns

Calls follow one another without a wait. Without a GPU the driver's own part of a launch is missing; calls of torch's
operators are counted too, which no load of the machine disturbs.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks import RESULTS
from benchmarks.common.measure import banner, commit, device_slug
from benchmarks.kernels.host_cases import host_cases
from benchmarks.kernels.host_time import COLUMNS, PAIRED, HostRow, against, checkout, line, measured, paired


def main(argv: Sequence[str] | None = None) -> None:
    args = _options(argv)
    print(banner())
    if args.against is not None:
        _compare(args)
        return
    print(COLUMNS)
    rows = []
    for row in measured((case for case in host_cases() if args.only in f"{case.op} {case.shape}"), args.calls):
        print(line(row), flush=True)
        rows.append(row)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows]))
    if args.save is not None:
        print(f"written to {_save(rows, args.save)}")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose op and shape contain this")
    parser.add_argument("--calls", type=_count, default=200, help="of each case, forward and with backward")
    parser.add_argument("--save", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help="write a CSV")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--against", type=_checkout, metavar="CHECKOUT", help="the root of another commit's checkout")
    parser.add_argument("--rounds", type=_count, default=3, help="processes for each checkout, with --against")
    args = parser.parse_args(argv)
    if not any(args.only in f"{case.op} {case.shape}" for case in host_cases()):
        names = ", ".join(dict.fromkeys(case.op for case in host_cases()))
        parser.error(f"--only {args.only}: no case's op and shape contain it; there are {names}")
    if args.against is not None and (args.save or args.json):
        parser.error("--against prints alone: leave out --save and --json")
    return args


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def _checkout(text: str) -> Path:
    try:
        return checkout(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _compare(args: argparse.Namespace) -> None:
    rows = list(against(args.against, ["--only", args.only, "--calls", str(args.calls)], args.rounds))
    print(PAIRED)
    for before, after in rows:
        print(paired(before, after))


def _save(rows: Sequence[HostRow], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"host_{device_slug()}.csv"
    known = {"torch": torch.__version__, "commit": commit()}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*(field.name for field in fields(HostRow)), *known], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = {name: round(v, 1) if isinstance(v, float) else v for name, v in asdict(row).items()}
            writer.writerow(values | known)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
