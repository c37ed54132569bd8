#!/usr/bin/env python
"""Whether what SILC claims holds: train SILC and its baselines alike, measure them alike, tabulate.

python launch/claims.py                                            the sample preset: an hour or so on two CPU cores
python launch/claims.py --pairs 8000,32000 --seeds 0,1,2           more seeds: differences get an error
python launch/claims.py --preset silc_vit_b16 --pairs 16000000,64000000 --num_gpus 8 --out runs/claims-b16 \\
    'data.shards=[/data/pairs]' eval.classification=wds:/data/wds_imagenet1k eval.segmentation=voc20:/data/VOC2012
python launch/claims.py --dry-run                                  which runs, how many operations; then stop

The arms: plain CLIP, CLIP on SILC's views, CLIP for as many operations as SILC, and SILC, each at every number of pairs
with every seed. Writes claims.md, claims.html (with curves) and claims.csv into --out after every run. Started again
with the same words it goes on where it was; runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

from silc import config_io  # noqa: E402
from silc.claims import figures, page, plan  # noqa: E402
from silc.config import validate  # noqa: E402
from silc.errors import STOPPED_BY_SIGNAL  # noqa: E402

PRESETS = ROOT / "launch" / "presets"
# What may differ between a run that is done and the one asked for.
FREE = {"train": ("resume", "out"), "data": ("workers",)}


def whole_numbers(text: str) -> list[int]:
    return [int(word.replace("_", "")) for word in text.split(",")]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line; `runs` is the plan. Mistakes end with a message and status 2."""
    parser = argparse.ArgumentParser(
        prog="claims.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for every run, as launch/train.py's")
    parser.add_argument("--preset", default="sample", help="of SILC, name or YAML file (default: sample)")
    parser.add_argument(
        "--pairs", type=whole_numbers, default=[8000, 16000, 32000], metavar="N,N", help="pairs that SILC sees"
    )
    parser.add_argument("--seeds", type=whole_numbers, default=[0], metavar="N,N", help="default: 0")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="default: runs/claims")
    parser.add_argument(
        "--num_gpus", type=int, metavar="N", help="for the deepspeed launcher (default: all, or one CPU)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    args = parser.parse_intermixed_args(list(argv))
    args.given = list(args.overrides)
    args.overrides += plan.measured(args.overrides)
    try:
        args.runs = plan.runs(args.preset, PRESETS, args.overrides, args.pairs, args.seeds, args.out)
        for run in args.runs:
            validate(run.config, args.num_gpus or 1)
            check_same(run)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_same(run: plan.Run) -> None:
    """Raises ValueError where the run's folder holds one with other settings: figures of two must not be mixed."""
    path = run.folder / "config.yaml"
    if not path.is_file():
        return
    saved, wanted = (config_io.to_dict(config) for config in (config_io.load_config(path, presets=PRESETS), run.config))
    for section, names in FREE.items():
        for name in names:
            saved[section][name] = wanted[section][name]
    for section, values in wanted.items():
        if section not in ("preset", "unverified") and values != saved[section]:
            raise ValueError(
                f"{run.folder} holds a run with another section {section}; take another --out or remove it"
            )


def command(run: plan.Run, args: argparse.Namespace) -> list[str]:
    """The launch of one run, on a port that no one holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", str(port), "--log_level", "warning"]
    if args.num_gpus is not None:
        launcher += ["--num_gpus", str(args.num_gpus)]
    return [*launcher, str(ROOT / "launch" / "train.py"), "--preset", args.preset, *args.overrides, *run.words]


def launch(words: Sequence[str]) -> int:
    """Exit status of a run. Ctrl-C reaches its processes too, which then save: they are waited for."""
    process = subprocess.Popen(words)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        return STOPPED_BY_SIGNAL


def tell(args: argparse.Namespace) -> None:
    """Print the plan."""
    print(f"{'arm':14s} {'pairs':>12s} {'seed':>5s} {'steps':>8s} {'TFLOP':>12s}")
    for run in args.runs:
        print(f"{run.arm:14s} {run.pairs:12,} {run.seed:5d} {run.config.train.steps:8d} {run.flops / 1e12:12,.1f}")
    print(f"{len(args.runs)} runs, {sum(run.flops for run in args.runs) / 1e12:,.1f} TFLOP of training, in {args.out}")


def collect(args: argparse.Namespace) -> list[figures.Figure]:
    """Figures of all runs that are done, and the pages that show them."""
    import torch

    found = [figure for run in args.runs for figure in figures.read(run)]
    if found:
        machine = (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
        )
        words = [f"--preset {args.preset}", f"--pairs {','.join(map(str, args.pairs))}"]
        words += [f"--seeds {','.join(map(str, args.seeds))}", *args.given]
        about = [
            f"{datetime.now(UTC).date().isoformat()}, {machine}, torch {torch.__version__}.",
            f"Made by `python launch/claims.py {' '.join(words)}`.",
            "All arms share the preset's learning rate and schedule, which were chosen for SILC.",
            "± is the standard error over seeds. A difference holds, or does not, where Student's t gives it 95 %: one "
            "seed decides nothing.",
        ]
        page.write(found, "SILC's claims, measured", about, args.out)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all measured, 1 a run failed (the others went on), 2 a mistake, 75 stopped by a signal."""
    args = parse(sys.argv[1:] if argv is None else argv)
    tell(args)
    if args.dry_run:
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for number, run in enumerate(args.runs, 1):
        if figures.read(run):
            continue
        print(f"== {number} of {len(args.runs)}: {run.folder}", flush=True)
        started = time.perf_counter()
        status = launch(command(run, args))
        print(f"== status {status} after {(time.perf_counter() - started) / 60:.1f} min", flush=True)
        if status == STOPPED_BY_SIGNAL:
            print("stopped; the same command goes on from here")
            return status
        if not figures.read(run):
            failed.append(run.folder)
        collect(args)
    if not collect(args):
        failed = failed or [args.out]
    else:
        print((args.out / "claims.md").read_text(encoding="utf-8"))
        print(
            f"tables: {args.out / 'claims.md'}; curves: {args.out / 'claims.html'}; figures: {args.out / 'claims.csv'}"
        )
    if failed:
        print(f"claims.py: without figures: {', '.join(map(str, failed))}; the messages are above", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
