"""`silc train`: train SILC.

silc train                                             the sample preset on the embedded drawings
silc train --dry-run --preset silc_vit_l16 --gpu h100-80gb --ranks 64
                                                       what fits there and what it costs; then stop
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
from typing import NoReturn

from silc import config_io, presets
from silc.commands import keys, launcher, several_nodes, supervision
from silc.commands.common import (
    INTERRUPTED,
    MISTAKE,
    Parser,
    add_local_rank,
    in_job,
    passive_threads,
    with_new_names,
)
from silc.commands.output import steady_output
from silc.config import Config
from silc.config_rules import validate
from silc.errors import STOPPED_BY_SIGNAL, defer_to_first_rank
from silc.train.listener import listening
from silc.train.plan.gpus import Gpu, gpu_named
from silc.train.stop import StartInterrupted, StopRequest, ignore_signals, say

PROG = "silc train"


def parse(argv: Sequence[str], ranks: int | None = None) -> argparse.Namespace:
    """Command line; `config` is the resolved configuration. Mistakes end with a message and status 2.

    ranks: of the job, if known; by default as the launcher's environment says.
    """
    parser = Parser(PROG, __doc__, others=launcher.NAMES)
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="overrides, applied last")
    parser.add_argument(
        "--preset",
        default="sample",
        help=f"name or YAML file; presets: {', '.join(presets.names())} (default: sample)",
    )
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
    add_local_rank(parser)
    args = parser.parse_intermixed_args(list(argv))  # overrides may follow an option
    if args.ranks is not None and not args.dry_run:
        parser.error("--ranks goes with --dry-run; a job's ranks are the launcher's to choose (--num_gpus N)")
    if args.ranks is not None and args.ranks < 1:
        parser.error(f"--ranks {args.ranks}: give at least 1")
    for option, value in (("--gpu", args.gpu), ("--mfu", args.mfu)):
        if value is not None and not args.dry_run:
            parser.error(f"{option} goes with --dry-run; a run trains on the GPUs of its machine")
    if args.mfu is not None and not 0 < args.mfu <= 1:
        parser.error(f"--mfu {args.mfu:g}: give a fraction of the peak, above 0 and at most 1, as in --mfu 0.4")
    args.ranks = args.ranks or ranks or int(os.environ.get("WORLD_SIZE", "1"))
    args.overrides = with_new_names(PROG, args.overrides)
    try:
        args.gpu = None if args.gpu is None else gpu_named(args.gpu)
        args.config = config_io.load_config(args.preset, args.overrides, file=args.config)
        if not args.keys:
            validate(args.config, args.ranks)
    except ValueError as error:
        parser.error(str(error))
    return args


def _check_init_there(config: Config) -> None:
    """Raises ValueError for a path that is not there, before the ranks are started; a resumed run needs none."""
    init = config.train.init
    if init is not None and config.train.resume is None and not Path(init).exists():
        raise ValueError(
            f"train.init={init} does not exist; give a run folder, a checkpoint, an export, or a SigLIP model of "
            "another library (docs/models.md)"
        )


def dry_run(config: Config, ranks: int, gpu: Gpu | None, mfu: float | None) -> int:
    """Print what the run would be. Exit status: 1 if it does not fit the GPU that was asked about."""
    from silc.distributed import name_accelerator

    name_accelerator()
    from silc.train.plan.plan import MFU, make_plan, visible_gpu
    from silc.train.plan.text import dry_run_text

    _note_absent_shards(config)
    _check_initial(config)
    plan = make_plan(config, ranks, gpu or visible_gpu(), mfu or MFU)
    print(dry_run_text(config, config_io.to_yaml(config), plan))
    return 0 if gpu is None or plan.fits else 1


def _note_absent_shards(config: Config) -> None:
    """Shards that are not there, on stderr: a plan may be made on another machine than the run's."""
    from silc.data.shards.expand import expand_shards

    named = [("data.shards", config.data.shards)]
    named += [(f"data.sources.{number}.shards", each.shards) for number, each in enumerate(config.data.sources)]
    for what, patterns in named:
        try:
            expand_shards(patterns, what, manifests=True) if patterns else None
        except ValueError as error:
            print(f"{PROG}: note: {error} (on this machine); the run needs them", file=sys.stderr)


def _check_initial(config: Config) -> None:
    """Say what becomes of the weights that a run would begin with. Raises ValueError where they do not fit."""
    if config.train.init is None:
        return
    if not Path(config.train.init).exists():
        missing = f"train.init={config.train.init} does not exist (on this machine); the run needs it"
        print(f"{PROG}: note: {missing}", file=sys.stderr)
        return
    from silc.train.init import read_initial

    found = read_initial(config)
    print("\n".join([found.words, *(f"note: {note}" for note in found.notes)]))


def answer(args: argparse.Namespace) -> int | None:
    """Print what --keys or --dry-run ask for. The exit status, or None if there is a run to train."""
    if args.keys:
        return keys.main([])
    try:
        if args.dry_run:
            return dry_run(args.config, args.ranks, args.gpu, args.mfu)
        _check_init_there(args.config)
    except ValueError as error:
        defer_to_first_rank()
        print(f"{PROG}: {error}", file=sys.stderr)
        return MISTAKE
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Train in this process: one rank of the launcher's job, or alone.

    Returns the exit status: 0 trained, 1 ended early, 2 a user's mistake, 75 stopped by a signal after a checkpoint (or
    before the first step, when there is nothing to save), 130 interrupted by a second Ctrl-C.
    """
    passive_threads()
    in_job(PROG)
    args = parse(sys.argv[1:] if argv is None else argv)
    status = answer(args)
    if status is not None:
        return status
    try:
        with StopRequest(starting=True) as request, listening(request):
            from silc.distributed import name_accelerator

            name_accelerator()
            from silc.train.run import train

            return train(args.config)
    except StartInterrupted as stop:
        say(f"stopped by {stop} while starting: nothing was trained")
        return STOPPED_BY_SIGNAL
    except KeyboardInterrupt:
        say(f"{PROG}: interrupted, without a checkpoint; train.resume=auto goes on from the last one")
        return INTERRUPTED


def script() -> NoReturn:
    """The end of a program that is :func:`main` alone."""
    steady_output()
    status = main()
    ignore_signals()  # the launcher's, which has seen another rank leave
    supervision.tell(status)
    sys.exit(status)


def launch(argv: Sequence[str]) -> int:
    """`silc train`: train in the processes of DeepSpeed's launcher. Mistakes are found before it starts if possible."""
    if "RANK" in os.environ:  # started by a launcher
        return main(argv)
    passive_threads()
    options, words = launcher.split(PROG, argv)
    if several_nodes.is_rank(PROG, options):
        return main(words)
    args = parse(words, launcher.ranks(options))
    status = answer(args)
    if status is not None:
        return status
    renamed = [config_io.with_new_name(word) for word in words]
    return several_nodes.run(PROG, "silc.commands.train", options, renamed)


if __name__ == "__main__":
    script()
