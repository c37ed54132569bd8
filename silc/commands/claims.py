"""`silc claims`: test what SILC claims; train SILC and its baselines alike, measure them alike, tabulate.

silc claims                                            the sample preset: an hour or so on two CPU cores
silc claims --pairs 8000,32000 --seeds 0,1,2           from three seeds on a difference can be decided
silc claims --preset silc_vit_b16 --pairs 64000000,256000000 --num_gpus 8 --out runs/claims-b16 \\
    train.global_batch=4096 optim.warmup_steps=2000 optim.cooldown_steps=2000 'data.shards=[/data/pairs]' \\
    eval.classification=wds:/data/wds_imagenet1k eval.segmentation=voc20:/data/VOC2012
silc claims --dry-run                                  which runs, how many operations; then stop

The variants: plain CLIP, CLIP on SILC's views, CLIP for as many operations as SILC, and SILC, each at every number of
pairs with every seed. Writes claims.md, claims.html (with curves) and claims.csv into --out after every run: of all
runs of this preset that --out holds, those of earlier calls too. Started again with the same words it goes on where it
was; with other words of eval it measures again without training again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from silc import config_io
from silc.claims import metrics, page, plan
from silc.commands import launcher
from silc.commands.common import MISTAKE, Parser, passive_threads, with_new_names
from silc.config import Config
from silc.config_rules import validate
from silc.errors import STOPPED_BY_SIGNAL
from silc.ports import free_port
from silc.presets import PRESETS
from silc.train.ancestors import OWNER, owner

PROG = "silc claims"
# What may differ between a run that is there and the one asked for; with other words of eval it is measured again.
FREE = {
    "train": ("resume", "out"),
    "data": ("workers", "worker_start", "store_minutes", "cache", "cache_gb", "allow_changed"),
}
FREE_SECTIONS = ("preset", "unverified", "notes", "eval")
GRACE = 600  # seconds in which a run may save after it was asked to stop


def whole_numbers(text: str) -> list[int]:
    try:
        return [int(word.replace("_", "")) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give whole numbers separated by commas, as in 8000,32000"
        ) from None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line; `runs` is the plan. Mistakes end with a message and status 2."""
    parser = Parser(PROG, __doc__)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="for every run, as `silc train` takes them",
    )
    parser.add_argument("--preset", default="sample", help="of SILC, name or YAML file (default: sample)")
    parser.add_argument(
        "--pairs",
        type=whole_numbers,
        metavar="N,N",
        help="pairs that SILC sees (default: a quarter, half and all of what the preset is trained on)",
    )
    parser.add_argument("--seeds", type=whole_numbers, default=[0], metavar="N,N", help="default: 0")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="default: runs/claims")
    parser.add_argument(
        "--num_gpus", type=int, metavar="N", help="for the deepspeed launcher (default: all, or one CPU)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    args = parser.parse_intermixed_args(list(argv))
    args.overrides = with_new_names(PROG, args.overrides)
    args.overrides += plan.measured(args.overrides)
    if args.num_gpus is not None and args.num_gpus < 1:
        parser.error(f"--num_gpus {args.num_gpus}: give at least 1, or leave it out")
    try:
        args.runs = planned(args, args.pairs, args.seeds)
        for run in args.runs:
            check(run, args.num_gpus or 1)
        if not args.dry_run:
            args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out} cannot be made: {error.strerror}; take another")
    except ValueError as error:
        parser.error(str(error))
    return args


def planned(args: argparse.Namespace, pairs: Sequence[int] | None, seeds: Sequence[int]) -> list[plan.Run]:
    return plan.runs(args.preset, PRESETS, args.overrides, pairs, seeds, args.out)


def check(run: plan.Run, ranks: int) -> None:
    """Raises ValueError for a run that cannot be trained, or whose folder holds another one or is in use."""
    try:
        validate(run.config, ranks)
    except ValueError as error:
        steps = run.config.train.steps
        raise ValueError(f"{run.pairs:,} pairs are {steps} steps of {run.variant}: {error}; or more --pairs") from None
    path = run.folder / "config.yaml"
    if path.is_file() and (others := differences(config_io.load_config(path), run.config)):
        raise ValueError(
            f"{run.folder} holds a run with another {', '.join(others)}; take another --out, or remove that folder"
        )
    if busy(run):
        raise ValueError(
            f"{run.folder} is being trained by process {busy(run)[0]}: wait for it, or stop it "
            f"(pkill -TERM -f train.out={run.folder})"
        )


def differences(saved: Config, wanted: Config) -> list[str]:
    """Keys in which two runs differ that should be the same."""
    one, other = config_io.to_dict(saved), config_io.to_dict(wanted)
    free = {f"{section}.{name}" for section, names in FREE.items() for name in names}
    return [
        key
        for key in config_io.valid_keys()
        if key not in free and key.split(".")[0] not in FREE_SECTIONS and _at(one, key) != _at(other, key)
    ]


def _at(tree: dict, key: str) -> object:
    for name in key.split("."):
        tree = tree[name]
    return tree


def busy(run: plan.Run) -> list[int]:
    """Processes of this machine that train into the run's folder: a launcher that dies leaves its trainers behind."""
    word = f"train.out={run.config.train.out}"
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            same = word in words and (path / "cwd").resolve() == Path.cwd()
        except OSError:  # it ended meanwhile, or is someone else's
            continue
        if same and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def command(run: plan.Run, args: argparse.Namespace) -> list[str]:
    """The launch of one run, on a port that no one holds."""
    options = [f"--master_port={free_port()}"]
    if args.num_gpus is not None:
        options.append(f"--num_gpus={args.num_gpus}")
    words = ["--preset", args.preset, *args.overrides, *run.words]
    return launcher.command("silc.commands.train", options, words)


def launch(run: plan.Run, words: Sequence[str]) -> int:
    """Exit status of a run. A run that is asked to stop saves first: its processes outlive the launcher."""
    process = subprocess.Popen(words, env=launcher.environment() | {OWNER: owner()}, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(process.pid, signal.SIGTERM)
        print("stopping: the run saves first", flush=True)
        process.wait()
        end = time.monotonic() + GRACE
        while busy(run) and time.monotonic() < end:
            time.sleep(0.5)
        return STOPPED_BY_SIGNAL


def print_plan(args: argparse.Namespace) -> None:
    """Print the plan."""
    print(f"{'variant':14s} {'after pairs':>12s} {'seed':>5s} {'steps':>8s} {'pairs seen':>14s} {'TFLOP':>12s}")
    for run in args.runs:
        steps, operations = run.config.train.steps, run.flops / 1e12
        print(f"{run.variant:14s} {run.pairs:12,} {run.seed:5d} {steps:8d} {run.seen:14,} {operations:12,.1f}")
    print(f"{len(args.runs)} runs, {sum(run.flops for run in args.runs) / 1e12:,.1f} TFLOP of training, in {args.out}")


def collect(args: argparse.Namespace) -> list[metrics.Measurement]:
    """Metrics of all runs in the folder, those of earlier calls too, and the pages that show them."""
    import torch

    pairs, seeds = plan.pairs_and_seeds(args.out)
    found = []
    for run in planned(args, sorted(pairs), sorted(seeds)) if pairs else []:
        path = run.folder / "config.yaml"
        if path.is_file() and not differences(config_io.load_config(path), run.config):
            found += metrics.read(run)
    if found:
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        words = ["silc", "claims", *(sys.argv[1:] if args.words is None else args.words)]
        about = [
            f"{datetime.now(UTC).date().isoformat()}, {machine}, torch {torch.__version__}.",
            "± is the standard error over seeds. SILC is better, or worse, where Student's t gives a difference 95 %, "
            "which takes three seeds; one in twenty such verdicts is wrong by chance alone.",
            "All variants share the data, and the preset's learning rate and schedule, which were chosen for SILC; a "
            "variant that sees more pairs than there are repeats them.",
        ]
        page.write(found, "SILC's claims, measured", about, args.out, command=shlex.join(words))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all measured, 1 a run failed (the others went on), 2 a mistake, 75 stopped by a signal."""
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    args.words = argv
    print_plan(args)
    if args.dry_run:
        return 0
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped as by Ctrl-C
    try:
        return run_all(args)
    finally:
        signal.signal(signal.SIGTERM, before)


def run_all(args: argparse.Namespace) -> int:
    """Exit status, as of `main`."""
    failed = []
    for number, run in enumerate(args.runs, 1):
        if metrics.done(run):
            continue
        print(f"== {number} of {len(args.runs)}: {run.folder}", flush=True)
        started = time.perf_counter()
        status = launch(run, command(run, args))
        print(f"== status {status} after {(time.perf_counter() - started) / 60:.1f} min", flush=True)
        if status == STOPPED_BY_SIGNAL:
            print("stopped; the same command goes on from here")
            return status
        if status == MISTAKE:
            print(f"{PROG}: the message is above; every run would end so", file=sys.stderr)
            return status
        if not metrics.done(run):
            failed.append(run.folder)
        collect(args)
    if collect(args):
        print((args.out / "claims.md").read_text(encoding="utf-8"))
        print(
            f"tables: {args.out / 'claims.md'}; curves: {args.out / 'claims.html'}; metrics: {args.out / 'claims.csv'}"
        )
    if failed:
        print(
            f"{PROG}: not measured, or not on every task: {', '.join(map(str, failed))}; the messages are above",
            file=sys.stderr,
        )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
