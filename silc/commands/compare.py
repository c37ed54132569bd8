"""`silc compare`: what `silc evaluate` measured on several runs, side by side, and a picture of their dense maps.

silc compare runs/sample_clip runs/sample                what the second run adds to the first
silc compare runs/a runs/b runs/c --out look             each against the first
silc compare runs/a runs/b --tasks fewshot,retrieval     some of the tasks

Nothing is trained or measured: the figures are those of evaluation.json in each folder, which must have been measured
on the same data with the same options. Differences are given with their standard error over test images. Into the last
run's folder, or --out, goes dense_maps.png: for a few test images of two objects and more the classes that each student
assigns and where it finds them, by the value path of zero-shot segmentation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from silc import config_io
from silc.commands import evaluate
from silc.commands.common import MISTAKE, Parser, did_you_mean, passive_threads
from silc.config import TASKS, Config
from silc.config_rules import own_data

if TYPE_CHECKING:
    from silc.evaluate.report.differences import Measured
    from silc.evaluate.towers import Towers

PROG = "silc compare"
PICTURE = "dense_maps.png"
MAPPED = "zeroshot_segmentation"  # whose data the picture shows


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line. Mistakes end with a message and status 2."""
    parser = Parser(PROG, __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder with an evaluation.json, two or more")
    parser.add_argument("--out", type=Path, help=f"folder for {PICTURE} (default: the last run's)")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"some of {', '.join(TASKS)} (default: all)")
    parser.add_argument(
        "--brief", action="store_true", help="the main metrics of each task alone, as silc claims has them"
    )
    args = parser.parse_args(list(argv))
    args.tasks = [task.strip() for task in args.tasks.split(",")]
    for task in args.tasks:
        if task not in TASKS:
            parser.error(f"--tasks: {task!r} is not a task{did_you_mean(task, TASKS)}; tasks: {', '.join(TASKS)}")
    if len(args.runs) < 2:
        parser.error(f"give two runs or more to compare, as in: {PROG} {args.runs[0]} OTHER")
    twice = next(
        (run for n, run in enumerate(args.runs) if run.resolve() in [r.resolve() for r in args.runs[:n]]), None
    )
    if twice is not None:
        parser.error(f"{twice} is given twice")
    return args


def names(runs: Sequence[Path]) -> list[str]:
    """Titles of the runs: the names of their folders, or where two have the same, their paths."""
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def read(run: Path, name: str) -> Measured:
    """What was measured on a run. Raises ValueError where there is no evaluation.json, or a damaged one."""
    from silc.evaluate import results
    from silc.evaluate.report.differences import Measured

    if not run.is_dir():
        raise ValueError(f"{run} is not a folder: give the folder of a run, or the one that silc evaluate wrote to")
    kept = results.read_results(run)
    if kept is None:
        if (run / results.NAME).exists():
            raise ValueError(f"{run / results.NAME} is damaged; measure the run again: silc evaluate {run}")
        raise ValueError(f"{run} has no {results.NAME}; measure it first: silc evaluate {run}")
    config = config_io.read_config(run / "config.yaml") if (run / "config.yaml").is_file() else None
    data = kept.data or (None if config is None else config_io.to_dict(config)["data"])
    pairs = None if config is None or kept.step is None else kept.step * config.train.global_batch
    return Measured(name, kept, data, pairs, None if config is None else _left_out(config))


def _left_out(config: Config) -> frozenset[str]:
    """Artists of the sample set that a run was not trained on."""
    from silc.data.sample_set.concepts import ARTISTS, not_trained_on

    return frozenset(ARTISTS if own_data(config) else not_trained_on(config.data.sample_unseen))


def holds_model(run: Path) -> bool:
    """Whether a folder holds more than what was measured: a run's checkpoints, or a model of any library."""
    from silc.interchange.read import is_readable
    from silc.train import manifest

    return (run / "checkpoints").exists() or (run / manifest.NAME).exists() or is_readable(run)


def open_model(run: Path, measured: Measured) -> tuple[Towers, Config]:
    """The student of a run, and its configuration with the options that it was measured with.

    Raises ValueError where the folder holds no model, or one that does not fit its configuration.
    """
    import torch

    from silc.evaluate.towers import build_towers
    from silc.train.engine import precision

    words = argparse.Namespace(model=run, out=run, overrides=[], preset=None)
    saved, student, _, scale, step, _ = evaluate.load(words)
    if step != measured.kept.step:
        print(f"note: {measured.name}: the figures are of step {measured.kept.step}, its maps of step {step}")
    tree, kept = config_io.to_dict(saved), measured.kept
    options = tree["eval"] | kept.options | {"models": ["student"]}
    config = config_io.build(tree | {"eval": options, "data": tree["data"] | dict(kept.data)})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    (towers,) = build_towers(config, student, {}, device, precision(config, device), scale)
    return towers, config


def picture(runs: Sequence[Path], measured: Sequence[Measured], path: Path) -> None:
    """Draw the dense maps of the runs. Raises ValueError where there is nothing to draw."""
    from silc.data.sample_set.cache import default_root
    from silc.data.splits import MASKS
    from silc.distributed import World
    from silc.evaluate import datasets
    from silc.evaluate.report import dense_maps
    from silc.evaluate.report.differences import on_sample_set
    from silc.evaluate.runner import unchanged
    from silc.evaluate.sharding import Job

    if len(runs) > dense_maps.MODELS:
        print(f"note: {path.name} shows the first {dense_maps.MODELS} runs")
    shown = list(zip(runs, measured, strict=True))[: dense_maps.MODELS]
    opened = [open_model(run, one) for run, one in shown]
    config = opened[0][1]
    world = World(0, 1, opened[0][0].device)
    on_sample = not own_data(config) and on_sample_set(measured[0].kept, TASKS)
    found = datasets.find_data(config, world, default_root(), [MAPPED], on_sample=on_sample)
    data = found.segmentation
    if data is None or MASKS not in data.test.has:
        raise ValueError("the runs were measured on data without masks")
    with unchanged():
        jobs = [(towers, Job(own, world, PROG, limited=False)) for towers, own in opened]
        rows = dense_maps.rows(jobs, data)
    title = f"Where a student finds the classes of an image ({data.test.title})"
    dense_maps.draw([one.name for _, one in shown], data.classes, rows, title, path)


def compare(args: argparse.Namespace) -> None:
    """Print the table and draw the picture. Raises ValueError for a user's mistake."""
    from silc import distributed

    distributed.name_accelerator()
    from silc.claims.metrics import CLAIMS, WHERE
    from silc.evaluate.report import differences

    measured = [read(run, name) for run, name in zip(args.runs, names(args.runs), strict=True)]
    differences.check_alike(measured, args.tasks)
    table = differences.table(measured, args.tasks, list(CLAIMS | WHERE) if args.brief else None)
    if args.out is not None and MAPPED in args.tasks:
        evaluate.check_writable(args.out)
    print(table, flush=True)
    if MAPPED not in args.tasks:
        return
    if bare := [str(run) for run in args.runs if not holds_model(run)]:
        hold = "holds" if len(bare) == 1 else "hold"
        print(f"{PICTURE} is drawn of models: {' and '.join(bare)} {hold} figures alone, as silc evaluate --out writes")
        return
    target = args.out or args.runs[-1]
    evaluate.check_writable(target)
    try:
        picture(args.runs, measured, target / PICTURE)
    except ValueError as error:
        print(f"no {PICTURE}: {error}")
    else:
        print(f"dense maps: {target / PICTURE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0 compared, 2 a user's mistake."""
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        compare(args)
    except ValueError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return MISTAKE
    return 0
