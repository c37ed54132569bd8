#!/usr/bin/env python
"""Evaluate a checkpoint: every task that the data can serve, in one table with chance beside each figure.

python launch/evaluate.py runs/sample                              the newest checkpoint of a run, on the sample set
python launch/evaluate.py runs/sample --tasks fewshot,retrieval    some of the tasks
python launch/evaluate.py runs/b16/checkpoints/step_00100000 \\
    eval.classification=wds:/data/wds_imagenet1k eval.segmentation=voc20:/data/VOCdevkit/VOC2012
python launch/evaluate.py exported eval.retrieval=wds:/data/wds_mscoco_captions     an open_clip export
deepspeed --num_gpus 8 launch/evaluate.py runs/b16                 the same figures, sooner

Layouts of data sets: silc/data/layouts.py. A checkpoint brings its own configuration; keys of eval, data, kernels and
engine can follow as section.key=value. Writes evaluation.json and report.html into the run folder, or --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

# Read when torch loads: waiting threads must not spin, or on shared cores work becomes up to ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from silc import config_io  # noqa: E402
from silc.config import TASKS, Config, validate_eval  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.evaluate.datasets import EvalData

PRESETS = ROOT / "silc" / "presets"
OPEN = ("eval.", "data.", "kernels.", "engine.")  # sections that a checkpoint does not fix

Weights = dict[str, "Tensor"]


def parse(argv: list[str]) -> argparse.Namespace:
    """Command line. Mistakes end with a message and status 2."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="run folder (its newest checkpoint), checkpoint, or open_clip export")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides, applied last")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"some of {', '.join(TASKS)} (default: all)")
    parser.add_argument("--preset", help="take sections eval and data from this preset; its model must be the model's")
    parser.add_argument("--out", type=Path, help="folder for evaluation.json and report.html (default: the run folder)")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(argv)  # overrides may follow an option
    args.tasks = args.tasks.split(",")
    for task in args.tasks:
        if task not in TASKS:
            parser.error(f"--tasks: {task!r} is no task; tasks: {', '.join(TASKS)}")
    for word in args.overrides:
        if "=" not in word or not word.startswith(OPEN):
            parser.error(
                f"{word!r}: only keys of {', '.join(section[:-1] for section in OPEN)} can be set, as in "
                "eval.limit=100; the rest is the checkpoint's"
            )
    return args


def load(args: argparse.Namespace) -> tuple[Config, Weights, Weights, int | None, Path]:
    """Configuration, the student's and the teacher's weights, the step they are of, and where results go.

    Raises ValueError for a path that holds no model, and for a preset of another one.
    """
    from silc.model.load_export import is_export, load_export
    from silc.train import checkpoint

    if is_export(args.model):
        config, student = load_export(args.model)
        return _configure(config, args), student, {}, None, args.model
    if not args.model.exists():
        raise ValueError(f"{args.model} does not exist; give a run folder, a checkpoint or an open_clip export")
    path = checkpoint.find(args.model)
    saved = config_io.load_config(path / "config.yaml", presets=PRESETS)
    teacher = checkpoint.load_weights(path, "teacher") if saved.objective.distill else {}
    folder = args.model if path != args.model else path.parent.parent
    step = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["step"]
    return _configure(saved, args), checkpoint.load_weights(path, "student"), teacher, step, folder


def _configure(saved: Config, args: argparse.Namespace) -> Config:
    """The model's configuration with the preset's evaluation and the overrides."""
    tree = config_io.to_dict(saved)
    if args.preset is not None:
        preset = config_io.to_dict(config_io.load_config(args.preset, presets=PRESETS))
        _check_same_model(tree, preset, args)
        tokenizer = tree["data"]["tokenizer"]
        tree |= {"eval": preset["eval"], "data": preset["data"] | {"tokenizer": tokenizer}}
    config = config_io.override(config_io.build(tree), args.overrides)
    validate_eval(config)
    return config


def _check_same_model(saved: dict, preset: dict, args: argparse.Namespace) -> None:
    for tower in ("vision", "text"):
        for name, value in saved["model"][tower].items():
            other = preset["model"][tower][name]
            if value != other and not (name == "mlp_ratio" and abs(value - other) < 0.01):
                raise ValueError(
                    f"{args.model} is not of preset {args.preset}: its model.{tower}.{name} is {value}, the preset's "
                    f"{other}; leave --preset out, or name the preset that it was trained with"
                )


def join(config: Config) -> World:
    """The job of the launcher's environment, or this process alone."""
    import torch

    from silc import distributed

    if "RANK" in os.environ:
        return distributed.init(config.engine.timeout_minutes)
    return distributed.World(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def check_writable(folder: Path) -> None:
    """Make the folder for the results. Raises ValueError where nothing can be written: before hours of measuring."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write the results to {folder}: {error.strerror}; give another --out") from None


def find_data(config: Config, args: argparse.Namespace, world: World) -> EvalData:
    """What the tasks asked for are measured on (collective). Raises ValueError where that is nothing.

    The sample set is the data of a run on the sample set; an export does not tell what it was trained on.
    """
    from silc.data.sample_set.cache import default_root
    from silc.evaluate.datasets import needs_default, resolve_data, sample_set
    from silc.model.load_export import is_export

    on_sample = not config.data.shards and (args.preset is not None or not is_export(args.model))
    take_sample = on_sample and not config.eval.shards and needs_default(config, args.tasks)
    sample = sample_set(config, world, default_root()) if take_sample else None
    data = resolve_data(config, sample, args.tasks)
    if data.empty:
        way = "--preset sample" if is_export(args.model) else "data.shards=[]"
        raise ValueError(
            "nothing to evaluate on: give eval.classification, eval.retrieval or eval.segmentation=LAYOUT:FOLDER, or "
            f"{way} for the sample set"
        )
    return data


def evaluate(args: argparse.Namespace) -> int:
    """Exit status: 0 measured, 1 a task gave up. Raises ValueError for a user's mistake."""
    from silc import distributed
    from silc.evaluate import runner as suite
    from silc.evaluate.report import output
    from silc.evaluate.towers import build_towers
    from silc.train.engine import precision

    config, student, teacher, step, folder = load(args)
    target = args.out or folder
    check_writable(target)
    world = join(config)
    models = build_towers(config, student, teacher, world.device, precision(config, world.device))
    if not models:
        raise ValueError(f"{args.model} has no image tower of a teacher; take eval.models=[student]")
    data = find_data(config, args, world)
    results = suite.evaluate(config, models, data, args.tasks, world, strict=True)
    if not results:
        raise ValueError("nothing was measured: " + "; ".join(suite.left_out(data, args.tasks)))
    if world.main:
        print(suite.table(results, data, args.tasks), flush=True)
        if any(result.metrics for result in results):
            suite.write_json(results, step, config, target / "evaluation.json")
            title = f"SILC: {args.model}" + ("" if step is None else f", step {step}")
            print(f"report: {output.report(config, models, data, results, title, run=folder, folder=target)}")
        else:
            print(f"no task came to a figure: {target / 'evaluation.json'} is not written")
    distributed.barrier()
    return int(any(result.error is not None for result in results))


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 2 for a user's mistake, 1 when a task ran out of time."""
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return evaluate(args)
    except ValueError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
