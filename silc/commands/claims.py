"""`silc claims`: test what SILC claims; train SILC and its baselines alike, measure them alike, tabulate.

silc claims                                            the sample preset
silc claims --pairs 8000,32000 --seeds 0,1,2           from three seeds on a difference can be decided
silc claims --seeds 3 --variants clip,silc             in pieces: what --out holds already stays in the tables
silc claims --for clip optim.lr=0.002 --for clip_views optim.lr=0.002
                                                       a learning rate, or other key of optim and objective, of its own
silc claims --also new_scenes eval.sample_split=new_scenes
                                                       measured on a second test set too, without training again
silc claims --preset silc_vit_b16 --pairs 64000000,256000000 --num_gpus 8 --out runs/claims-b16 \\
    train.global_batch=4096 optim.warmup_steps=2000 optim.cooldown_steps=2000 'data.shards=[/data/pairs]' \\
    eval.classification=wds:/data/wds_imagenet1k eval.segmentation=voc20:/data/VOC2012
silc claims --dry-run                                  which runs, how many operations; then stop
silc claims --collect                                  the pages from the folders that are there; nothing is trained

The runs: plain CLIP, CLIP on SILC's views, CLIP for as many operations as SILC, SILC without local crops, and SILC,
each at every number of pairs with every seed. Writes claims.md, claims.html and claims.svg (curves) and claims.csv into
--out after every run: of all runs of this preset that --out holds, those of earlier calls and other machines too.
Started again with the same words it goes on where it was; with other words of eval, or another --also, it measures
again without training again. Words for all runs stand before --for and --also, which take those that follow them.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from silc import config_io
from silc.claims import eval_sets, folders, gaps, metrics, origin, page, plan
from silc.commands import claims_runs
from silc.commands.common import MISTAKE, Parser, did_you_mean, passive_threads, with_new_names
from silc.config_rules import validate
from silc.presets import PRESETS
from silc.text import plural

PROG = "silc claims"


def whole_numbers(text: str) -> list[int]:
    try:
        return [int(word.replace("_", "")) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give whole numbers separated by commas, as in 8000,32000"
        ) from None


def variants(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in plan.VARIANTS:
            known = ", ".join(plan.VARIANTS)
            raise argparse.ArgumentTypeError(
                f"{word!r} is not a variant{did_you_mean(word, plan.VARIANTS)}; give some of {known}"
            )
    return words


def parser() -> Parser:
    """Of the command line."""
    found = Parser(PROG, __doc__)
    add = found.add_argument
    add(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="for every run, as `silc train` takes them",
    )
    add("--preset", default="sample", help="of SILC, name or YAML file (default: sample)")
    add(
        "--pairs",
        type=whole_numbers,
        metavar="N,N",
        help="pairs that SILC sees (default: a quarter, half and all of what the preset is trained on)",
    )
    add("--seeds", type=whole_numbers, default=[0], metavar="N,N", help="default: 0")
    add("--variants", type=variants, metavar="NAME,NAME", help=f"some of {', '.join(plan.VARIANTS)} (default: all)")
    add(
        "--for",
        dest="chosen",
        nargs="+",
        action="append",
        default=[],
        metavar=("VARIANT", "section.key=value"),
        help="keys of optim and objective for one variant; may be repeated",
    )
    add(
        "--also",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "eval.key=value"),
        help="a further test set for every run; may be repeated",
    )
    add("--out", type=Path, default=Path("runs/claims"), help="default: runs/claims")
    add("--num_gpus", type=int, metavar="N", help="for the deepspeed launcher (default: all, or one CPU)")
    add(
        "--jobs",
        type=int,
        metavar="N",
        help=f"runs at a time (default: 1; without a GPU one a core, at most {claims_runs.MOST_JOBS})",
    )
    add("--keep-checkpoints", action="store_true", help="keep all of each run; default: the weights alone, fp32")
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--collect", action="store_true", help="write the pages from what --out holds, and stop")
    return found


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line; `recipe`, `runs` and `sets` are the plan. Mistakes end with a message and status 2."""
    words = parser()
    args = words.parse_intermixed_args(list(argv))
    if args.collect and args.dry_run:
        words.error("--dry-run prints what would be trained, and with --collect nothing is: leave one out")
    args.overrides = with_new_names(PROG, args.overrides)
    args.overrides += plan.measured(args.overrides)
    for option in ("num_gpus", "jobs"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            words.error(f"--{option} {getattr(args, option)}: give at least 1, or leave it out")
    try:
        args.recipe = plan.Recipe(args.preset, PRESETS, args.overrides, args.out, _chosen(args.chosen))
        args.runs = plan.runs(args.recipe, args.pairs, args.seeds, args.variants)
        args.sets = eval_sets.parse([name, *with_new_names(PROG, more)] for name, *more in args.also)
        for run in args.runs:
            check(run, args.num_gpus or 1)
            for one in args.sets:
                eval_sets.check(one, run)
            if not args.collect:
                folders.check(run, args.sets)
        if not (args.dry_run or args.collect):
            args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words.error(f"--out {args.out} cannot be made: {error.strerror}; take another")
    except ValueError as error:
        words.error(str(error))
    return args


def _chosen(given: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Variant -> its words, from those of each --for. Raises ValueError."""
    found: dict[str, list[str]] = {}
    for variant, *words in given:
        if variant not in plan.VARIANTS:
            known = ", ".join(plan.VARIANTS)
            raise ValueError(f"--for {variant!r}: there is no such variant; begin with one of {known}")
        if not words:
            raise ValueError(
                f"--for {variant} sets nothing; add section.key=value, as in --for {variant} optim.lr=0.002"
            )
        config_io.check_words(words)
        found.setdefault(variant, []).extend(with_new_names(PROG, words))
    return found


def check(run: plan.Run, ranks: int) -> None:
    """Raises ValueError for a run that cannot be trained."""
    try:
        validate(run.config, ranks)
    except ValueError as error:
        steps = run.config.train.steps
        raise ValueError(f"{run.pairs:,} pairs are {steps} steps of {run.variant}: {error}; or more --pairs") from None


def print_plan(args: argparse.Namespace) -> None:
    """Print the plan."""
    print(f"{'variant':14s} {'after pairs':>12s} {'seed':>5s} {'steps':>8s} {'pairs seen':>14s} {'TFLOP':>12s}  to do")
    left = []
    for run in args.runs:
        steps, operations = run.config.train.steps, run.flops / 1e12
        todo = claims_runs.todo(run, args.sets)
        left += [operations] if todo == claims_runs.TRAIN else []
        print(f"{run.variant:14s} {run.pairs:12,} {run.seed:5d} {steps:8d} {run.seen:14,} {operations:12,.1f}  {todo}")
    whole = sum(run.flops for run in args.runs) / 1e12
    rest = f" (to do: {plural(len(left), 'run')}, {sum(left):,.1f} TFLOP)" if len(left) < len(args.runs) else ""
    print(f"{plural(len(args.runs), 'run')}, {whole:,.1f} TFLOP of training{rest}, in {args.out}")
    rounded = sorted(set(args.pairs or []) - {run.pairs for run in args.runs})
    if rounded:
        batch = args.runs[0].config.train.global_batch
        asked = ", ".join(f"{count:,}" for count in rounded)
        print(f"--pairs {asked}: taken as whole batches of train.global_batch={batch}, as above")


def collect(args: argparse.Namespace, *, loudly: bool = False) -> list[metrics.Measurement]:
    """Metrics of all runs in the folder, those of earlier calls too, and the pages that show them.

    loudly: name what is missing on the terminal too, and not on the pages alone.
    """
    found: list[metrics.Measurement] = []
    origins, missing = [], gaps.Gaps()
    for run in plan.runs_in(args.recipe):
        rows = _rows(run, args.sets, missing)
        origins += [origin.read(run)] if rows else []
        found += rows
    for line in missing.lines(args.out) if loudly else ():
        print(f"{PROG}: {line}", file=sys.stderr)
    if found:
        words = ["silc", "claims", *(sys.argv[1:] if args.words is None else args.words)]
        made = origin.sentence(origins, [one.seed for one in found])
        shown = {one.variant for one in found}
        about = page.how_made(made, args.recipe.chosen, args.recipe.words, missing.left_out, missing.without, shown)
        page.write(found, "SILC's claims, measured", about, args.out, command=shlex.join(words))
    return found


def _rows(run: plan.Run, sets: Sequence[eval_sets.EvalSet], missing: gaps.Gaps) -> list[metrics.Measurement]:
    """The metrics of a run's folder; `missing` is told which are not there, and why."""
    try:
        others = folders.others(run)
    except (OSError, ValueError) as error:  # of a folder that was copied in part
        missing.leave_out(run, str(error))
        return []
    if others:
        missing.leave_out(run, f"{gaps.OTHER_KEYS}{', '.join(others)}")
        return []
    if run.pairs % run.config.train.global_batch:
        missing.leave_out(run, f"no run is named so: {run.pairs:,} pairs are not whole batches")
        return []
    by_set = {one.name: metrics.read(run, one) for one in sets}
    rows = [row for each in by_set.values() for row in each]
    if not rows:
        damaged = next((why for one in sets if (why := one.damaged(run))), "")
        missing.leave_out(run, damaged or sets[0].missing(run) or "without any metric")
        return []
    for one in sets:
        if by_set[one.name]:
            if failed := one.failed(run):
                missing.lacks(run, one.name, f"of {', '.join(failed)}, which failed")
        else:
            missing.lacks(run, one.name, one.damaged(run))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all measured, 1 a run failed (the others went on), 2 a mistake, 75 stopped by a signal."""
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    args.words = argv
    if args.collect:
        return collect_alone(args)
    print_plan(args)
    if args.dry_run:
        return 0
    try:
        for one in args.sets[1:]:
            eval_sets.check_there(one, args.runs[0])
    except ValueError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return MISTAKE
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped as by Ctrl-C
    try:
        return run_all(args)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def pages(args: argparse.Namespace) -> list[metrics.Measurement] | None:
    """What :func:`collect` finds, said loudly; None where the pages cannot be written, which is said too."""
    try:
        return collect(args, loudly=True)
    except OSError as error:
        print(f"{PROG}: the pages are not written: {error}", file=sys.stderr)
        return None


def collect_alone(args: argparse.Namespace) -> int:
    """Exit status, as of `main`, of --collect."""
    found = pages(args)
    if found:
        show(args)
    elif found is not None:
        print(f"{PROG}: {args.out} holds no run that is measured as these words say", file=sys.stderr)
    return 0 if found else MISTAKE


def show(args: argparse.Namespace) -> None:
    print((args.out / "claims.md").read_text(encoding="utf-8"))
    print(f"tables: {args.out / 'claims.md'}; curves: {args.out / 'claims.html'}; metrics: {args.out / 'claims.csv'}")


def run_all(args: argparse.Namespace) -> int:
    """Exit status, as of `main`."""
    status, failed = claims_runs.perform(args, lambda: collect(args))
    if status == MISTAKE:
        print(f"{PROG}: the message is above; every run would end so", file=sys.stderr)
        return status
    if status:
        print("stopped; the same command goes on from here")
        return status
    found = pages(args)
    if found is None:
        return 1
    if found:
        show(args)
    if failed:
        names = ", ".join(str(run.folder) for run in failed)
        print(f"{PROG}: not measured, or not on every task: {names}; the messages are above", file=sys.stderr)
    elif not found:
        print(f"{PROG}: no pages: the runs ended well, but {args.out} holds no figures of them", file=sys.stderr)
    return int(bool(failed) or not found)


if __name__ == "__main__":
    sys.exit(main())
