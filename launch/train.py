#!/usr/bin/env python
"""Train SILC.

deepspeed launch/train.py                                      the sample preset on the embedded drawings
deepspeed launch/train.py --dry-run --preset silc_vit_l16      resolved configuration, sizes and memory; then stop
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
        "--dry-run", action="store_true", help="print configuration, parameters, tokens and memory per rank, and stop"
    )
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="with --dry-run: number of ranks to plan for (default: this job's)"
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
    args.ranks = args.ranks or int(os.environ.get("WORLD_SIZE", "1"))
    try:
        args.config = config_io.load_config(args.preset, args.overrides, presets=PRESETS, file=args.config)
        if not args.keys:
            validate(args.config, args.ranks)
    except ValueError as error:
        parser.error(str(error))
    return args


def dry_run(config: Config, ranks: int) -> None:
    """Print what the run would be."""
    import torch

    from silc.train.banner import dry_run_text
    from silc.train.engine import precision
    from silc.train.estimate import estimate

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(dry_run_text(config, estimate(config, ranks, precision(config, device)), ranks, config_io.to_yaml(config)))


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 2 for a user's mistake, 1 for a run that ended early."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if args.keys:
        for dotted, kind, default, doc in config_io.describe():
            print(f"{dotted} ({kind}, default {default}): {doc}")
        return 0
    if args.dry_run:
        dry_run(args.config, args.ranks)
        return 0
    from silc.train.run import train

    return train(args.config)


if __name__ == "__main__":
    sys.exit(main())
