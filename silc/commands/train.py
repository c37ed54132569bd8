"""`silc train`: train SILC.

silc train                                             the sample preset on the embedded drawings
silc train --dry-run --preset silc_vit_l16             resolved configuration, sizes and memory; then stop
silc train --num_gpus 8 --preset silc_vit_b16 \\
    'data.shards=["/data/pairs/{00000..09999}.tar"]' train.out=runs/b16

Options of DeepSpeed's launcher (--num_gpus, --hostfile, --include, --master_port, ...) go to the launcher. In a
checkout, `deepspeed --num_gpus 8 launch/train.py ...` does the same.

Any key of the configuration can follow as section.key=value (YAML values); --keys lists them all.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from silc import config_io, presets
from silc.commands import launcher
from silc.commands.common import Parser, add_local_rank, passive_threads, with_new_names
from silc.config import Config, validate

PROG = "silc train"


def parse(argv: Sequence[str], ranks: int | None = None) -> argparse.Namespace:
    """Command line; `config` is the resolved configuration. Mistakes end with a message and status 2.

    ranks: of the job, if known; by default as the launcher's environment says.
    """
    parser = Parser(PROG, __doc__)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides, applied last")
    parser.add_argument(
        "--preset",
        default="sample",
        help=f"name or YAML file; presets: {', '.join(presets.names())} (default: sample)",
    )
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
    add_local_rank(parser)
    args = parser.parse_intermixed_args(list(argv))  # overrides may follow an option
    if args.ranks is not None and not args.dry_run:
        parser.error("--ranks goes with --dry-run; a job's ranks are the launcher's to choose (--num_gpus N)")
    if args.ranks is not None and args.ranks < 1:
        parser.error(f"--ranks {args.ranks}: give at least 1")
    args.ranks = args.ranks or ranks or int(os.environ.get("WORLD_SIZE", "1"))
    args.overrides = with_new_names(PROG, args.overrides)
    try:
        args.config = config_io.load_config(args.preset, args.overrides, file=args.config)
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


def answer(args: argparse.Namespace) -> int | None:
    """Print what --keys or --dry-run ask for. The exit status, or None if there is a run to train."""
    if args.keys:
        print_keys()
        return 0
    if args.dry_run:
        dry_run(args.config, args.ranks)
        return 0
    return None


def print_keys() -> None:
    """Print every key of the configuration."""
    for dotted, kind, default, doc in config_io.describe():
        print(f"{dotted} ({kind}, default {default}): {doc}" if default != "required" else f"{dotted} ({kind}): {doc}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train in this process: one rank of the launcher's job, or alone.

    Returns the exit status: 0 trained, 1 ended early, 2 a user's mistake, 75 stopped by a signal after a checkpoint.
    """
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    status = answer(args)
    if status is not None:
        return status
    from silc.train.run import train

    return train(args.config)


def launch(argv: Sequence[str]) -> int:
    """`silc train`: train in the processes of DeepSpeed's launcher. Mistakes are found before it starts if possible."""
    if "RANK" in os.environ:  # started by a launcher
        return main(argv)
    passive_threads()
    options, words = launcher.split(PROG, argv)
    args = parse(words, launcher.ranks(options))
    status = answer(args)
    if status is not None:
        return status
    return launcher.run(PROG, "silc.commands.train", options, [config_io.with_new_name(word) for word in words])


if __name__ == "__main__":
    sys.exit(main())
