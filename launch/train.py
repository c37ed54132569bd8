#!/usr/bin/env python
"""Train SILC.

deepspeed launch/train.py                                      the sample preset on the embedded drawings
deepspeed launch/train.py --dry-run --preset silc_vit_l16 --gpu h100-80gb --ranks 64
                                                               what fits there and what it costs; then stop
deepspeed --num_gpus 8 launch/train.py --preset silc_vit_b16 \\
    'data.shards=["/data/pairs/{00000..09999}.tar"]' train.out=runs/b16

Any key of the configuration can follow as section.key=value (YAML values); --keys lists them all.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path
]  # a checkout runs without installation

# Read when torch loads: waiting threads must not spin, or on shared cores a step becomes up to ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from silc import config_io  # noqa: E402
from silc.config import Config, validate  # noqa: E402
from silc.errors import speaks  # noqa: E402
from silc.train.plan.gpus import Gpu, gpu_named  # noqa: E402

PRESETS = ROOT / "silc" / "presets"


class Parser(argparse.ArgumentParser):
    """Tells of a mistake once a machine, not once a rank."""

    def error(self, message: str) -> NoReturn:
        if not speaks():
            self.exit(2)
        super().error(message)


def parse(argv: list[str]) -> argparse.Namespace:
    """Command line; `config` is the resolved configuration. Mistakes end with a message and status 2."""
    names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
    parser = Parser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides, applied last")
    parser.add_argument("--preset", default="sample", help=f"name or YAML file; presets: {names} (default: sample)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file laid over the preset")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration and the plan: operations, memory, what fits; then stop",
    )
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="with --dry-run: number of ranks to plan for (default: this job's)"
    )
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="with --dry-run: the GPU to plan for, as h100-80gb (default: this machine's); status 1 if it does not fit",
    )
    parser.add_argument(
        "--mfu", type=float, metavar="FRACTION", help="with --dry-run: MFU to assume for GPU-hours (default: 0.4)"
    )
    parser.add_argument(
        "--keys", action="store_true", help="list every configuration key with type, default and meaning, and stop"
    )
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS
    )  # the DeepSpeed launcher adds it
    args = parser.parse_intermixed_args(argv)  # overrides may follow an option
    if args.ranks is not None and not args.dry_run:
        parser.error("--ranks goes with --dry-run; a job's ranks are the launcher's to choose (deepspeed --num_gpus N)")
    if args.ranks is not None and args.ranks < 1:
        parser.error(f"--ranks {args.ranks}: give at least 1")
    for option, value in (("--gpu", args.gpu), ("--mfu", args.mfu)):
        if value is not None and not args.dry_run:
            parser.error(f"{option} goes with --dry-run; a run trains on the GPUs of its machine")
    if args.mfu is not None and not 0 < args.mfu <= 1:
        parser.error(f"--mfu {args.mfu:g}: give a fraction of the peak, above 0 and at most 1, as in --mfu 0.4")
    args.ranks = args.ranks or int(os.environ.get("WORLD_SIZE", "1"))
    try:
        args.gpu = None if args.gpu is None else gpu_named(args.gpu)
        args.config = config_io.load_config(args.preset, args.overrides, presets=PRESETS, file=args.config)
        if not args.keys:
            validate(args.config, args.ranks)
    except ValueError as error:
        parser.error(str(error))
    return args


def dry_run(config: Config, ranks: int, gpu: Gpu | None, mfu: float | None) -> int:
    """Print what the run would be. Exit status: 1 if it does not fit the GPU that was asked about."""
    from silc.train.plan.plan import MFU, make_plan, visible_gpu
    from silc.train.plan.text import dry_run_text

    plan = make_plan(config, ranks, gpu or visible_gpu(), mfu or MFU)
    print(dry_run_text(config, config_io.to_yaml(config), plan))
    return 0 if gpu is None or plan.fits else 1


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 2 for a user's mistake, 1 for a run that ended early or does not fit."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if args.keys:
        for dotted, kind, default, doc in config_io.describe():
            print(f"{dotted} ({kind}, default {default}): {doc}")
        return 0
    if args.dry_run:
        return dry_run(args.config, args.ranks, args.gpu, args.mfu)
    from silc.train.run import train

    return train(args.config)


if __name__ == "__main__":
    sys.exit(main())
