"""`silc evaluate`: measure a checkpoint on every task that its data allow; one table, with chance beside each metric.

silc evaluate runs/sample                                      the newest checkpoint of a run, on the sample set
silc evaluate runs/sample --tasks fewshot,retrieval            some of the tasks
silc evaluate runs/b16/checkpoints/step_00100000 \\
    eval.classification=wds:/data/wds_imagenet1k eval.segmentation=voc20:/data/VOCdevkit/VOC2012
silc evaluate exported eval.retrieval=wds:/data/wds_mscoco_captions     an open_clip folder, or one of SiglipModel
silc evaluate b16.npz --out results --preset sample data.tokenizer=/models/siglip_tokenizer
                                                               a file of weights: .safetensors of open_clip, or .npz
silc evaluate --num_gpus 8 runs/b16                            the same metrics, sooner

Data sets are LAYOUT:FOLDER; the layouts are wds, imagefolder, imagenet, masks, ade20k, voc20, voc21, context59,
context60, coco_stuff and cityscapes (docs/evaluation.md). A checkpoint brings its own configuration, a model of
another library as much as its files say; keys of eval, data, kernels and engine can follow as section.key=value. Files
that do not say which tokenizer the model was trained with need data.tokenizer=..., see docs/models.md.

Writes evaluation.json and, unless eval.report=false, report.html into the folder of the model, or --out, which a file
needs. With options of DeepSpeed's launcher (--num_gpus, --hostfile, ...) the work is shared by its ranks.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from silc import config_io
from silc.commands import launcher, several_nodes, supervision
from silc.commands.common import MISTAKE, Parser, add_local_rank, did_you_mean, in_job, passive_threads, with_new_names
from silc.config import TASKS, Config
from silc.config_rules import own_data, validate_eval
from silc.errors import defer_to_first_rank

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.evaluate.datasets import EvalData
    from silc.evaluate.towers import Scale
    from silc.interchange.source import Source

PROG = "silc evaluate"
OPEN = ("eval.", "data.", "kernels.", "engine.")  # sections that a checkpoint does not fix

Weights = dict[str, "Tensor"]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line. Mistakes end with a message and status 2."""
    parser = Parser(PROG, __doc__, others=launcher.NAMES)
    parser.add_argument(
        "model", type=Path, help="run folder (its newest checkpoint), checkpoint, export, or a model of another library"
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="overrides, applied last")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"some of {', '.join(TASKS)} (default: all)")
    parser.add_argument("--preset", help="take eval and data from this preset, but tokenizer, mean, std")
    parser.add_argument("--out", type=Path, help="folder for evaluation.json and report.html (default: the model's)")
    add_local_rank(parser)
    args = parser.parse_intermixed_args(list(argv))  # overrides may follow an option
    args.argv = ["silc", "evaluate", *argv]
    args.tasks = [task.strip() for task in args.tasks.split(",")]
    for task in args.tasks:
        if task not in TASKS:
            parser.error(f"--tasks: {task!r} is not a task{did_you_mean(task, TASKS)}; tasks: {', '.join(TASKS)}")
    args.overrides = with_new_names(PROG, args.overrides)
    try:
        config_io.check_words(args.overrides)
    except ValueError as error:
        parser.error(str(error))
    for word in args.overrides:
        if not word.startswith(OPEN):
            parser.error(
                f"{word!r}: only keys of {', '.join(section[:-1] for section in OPEN)} can be set, as in "
                "eval.limit=100; the rest is the checkpoint's"
            )
    return args


def load(args: argparse.Namespace) -> tuple[Config, Weights, Weights, Scale | None, int | None, Path]:
    """Configuration, the student's and the teacher's weights, the logits' scale, the step, and where results go.

    Raises ValueError for a path that holds no model, and for a preset that does not fit it.
    """
    from silc.evaluate.towers import Scale
    from silc.interchange.read import is_readable
    from silc.train import checkpoint, manifest

    if is_readable(args.model):
        config, source = _foreign(args)
        logits = Scale.from_logarithm(source.logit_scale, source.logit_bias)
        return config, dict(source.weights), {}, logits, None, args.out if args.model.is_file() else args.model
    path = checkpoint.find(args.model, or_export=True, only=checkpoint.WEIGHTS)
    saved, scale = checkpoint.load_config_and_scale(path)
    config = _configure(saved, args, trained=True)
    teacher = checkpoint.load_weights(path, "teacher") if saved.has_teacher else {}
    folder = args.model if path != args.model else path.parent.parent
    step = manifest.read(path).step
    return config, checkpoint.load_weights(path, "student"), teacher, Scale.of(scale), step, folder


def _foreign(args: argparse.Namespace) -> tuple[Config, Source]:
    """A model that is no run of this package. Raises ValueError for what does not say enough."""
    from silc.train.weights import needs_tokenizer, read_weights

    if args.model.is_file() and args.out is None:
        raise ValueError(f"{args.model} is a file, beside which no results are written; give --out FOLDER")
    sizes = None if args.preset is None else config_io.load_config(args.preset).model
    source = read_weights(args.model, sizes=sizes)
    if source.tokenizer is None and not any(word.startswith("data.tokenizer=") for word in args.overrides):
        raise ValueError(needs_tokenizer(source, "data.tokenizer"))
    if os.environ.get("RANK", "0") == "0":
        for key, reason in source.assumed.items():
            print(f"note: {key}: {reason}", file=sys.stderr)
    return _configure(source.config(), args, trained=False), source


def _configure(saved: Config, args: argparse.Namespace, *, trained: bool) -> Config:
    """The model's configuration with the preset's evaluation and the overrides, whatever the size of its model.

    trained: whether `saved` says what the model was trained on.

    Raises ValueError where the model cannot be evaluated so: windows that its patches do not divide, and artists that
    it was trained on as unseen ones.
    """
    tree = config_io.to_dict(saved)
    if args.preset is not None:
        preset = config_io.to_dict(config_io.load_config(args.preset))
        own = {
            name: tree["data"][name] for name in ("tokenizer", "tokenizer_clean", "mean", "std")
        }  # parts of the model
        tree |= {"eval": preset["eval"], "data": preset["data"] | own}
    config = config_io.override(config_io.build(tree), args.overrides)
    validate_eval(config)
    if trained and not (own_data(saved) or own_data(config)):
        _check_unseen(saved.data.sample_unseen, config.data.sample_unseen)
    return config


def _check_unseen(left_out: Sequence[str], given: Sequence[str]) -> None:
    """Raises ValueError for artists of the sample set that a run was trained on, and is to be tested on as unseen ones.

    left_out: data.sample_unseen of the training. given: of the evaluation.
    """
    from silc.data.sample_set.concepts import RESERVED, not_trained_on

    allowed = not_trained_on(left_out)
    seen = [name for name in given if name not in allowed]
    if seen:
        raise ValueError(
            f"data.sample_unseen=[{', '.join(given)}]: the run was trained on drawings by {', '.join(seen)}, which are "
            f"not unseen; it can be tested on {', '.join(allowed)}, as in data.sample_unseen=[{RESERVED}]"
        )


def join(config: Config) -> World:
    """The job of the launcher's environment, or this process alone."""
    import torch

    from silc import distributed
    from silc.train import peers

    if "RANK" in os.environ:
        world = distributed.init(config.engine.timeout_minutes)
        peers.watch(world, config.engine.silent_minutes, PROG)
        peers.note("evaluating", 0)
        return world
    return distributed.World(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _check_same(folder: Path, step: int | None) -> None:
    """Raises ValueError on every rank where another has read another checkpoint, of a run that goes on (collective)."""
    from silc.distributed import all_gather_objects

    steps = all_gather_objects(step)
    if len(set(steps)) > 1:
        raise ValueError(
            f"{folder} was written to while the ranks read it: they took steps {sorted(set(steps))[:8]}; name one of "
            "its checkpoints"
        )


def check_writable(folder: Path) -> None:
    """Make the folder for the results. Raises ValueError where nothing can be written: before hours of measuring."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write the results to {folder}: {error.strerror}; give another --out") from None


def find_data(config: Config, args: argparse.Namespace, world: World) -> EvalData:
    """What the tasks asked for are measured on (collective). Raises ValueError where that is nothing.

    The sample set is the data of a run on the sample set; other models do not say what they were trained on.
    """
    from silc.data.sample_set.cache import default_root
    from silc.evaluate import datasets
    from silc.interchange.read import is_readable

    foreign = is_readable(args.model)
    on_sample = not own_data(config) and (args.preset is not None or not foreign)
    data = datasets.find_data(config, world, default_root(), args.tasks, on_sample=on_sample)
    if data.empty:
        way = "--preset sample" if foreign else "data.shards=[]"
        raise ValueError(
            "nothing to evaluate on: give eval.classification, eval.retrieval or eval.segmentation=LAYOUT:FOLDER, or "
            f"{way} for the sample set"
        )
    return data


def evaluate(args: argparse.Namespace) -> int:
    """Exit status: 0 measured, 1 a task gave up, or there is no report. Raises ValueError for a user's mistake."""
    from silc import distributed

    distributed.name_accelerator()
    from silc.evaluate import runner
    from silc.evaluate.report import output
    from silc.evaluate.towers import build_towers
    from silc.train.engine import precision

    config, student, teacher, scale, step, folder = load(args)
    target = args.out or folder
    check_writable(target)
    world = join(config)
    _check_same(folder, step)
    models = build_towers(config, student, teacher, world.device, precision(config, world.device), scale)
    if not models:
        raise ValueError(f"{args.model} has no image tower of a teacher; take eval.models=[student]")
    data = find_data(config, args, world)
    results = runner.evaluate(config, models, data, args.tasks, world, strict=True)
    if not results:
        raise ValueError("nothing was measured: " + "; ".join(runner.left_out(data, args.tasks, models)))
    without_report = False
    if world.main:
        print(runner.table(results, data, args.tasks, models), flush=True)
        if any(result.metrics for result in results):
            runner.write_json(results, step, config, target / "evaluation.json", args.tasks)
            title = f"SILC: {args.model}" + ("" if step is None else f", step {step}")
            if config.eval.report:
                try:
                    page = output.report(
                        config, models, data, results, title, run=folder, folder=target, argv=args.argv
                    )
                    print(f"report: {page}")
                except Exception as error:  # the metrics are measured and saved: whatever this is, they stay
                    said = f"{type(error).__name__}: {error}"
                    print(f"{PROG}: evaluation.json is written, the report is not: {said}", file=sys.stderr, flush=True)
                    without_report = True
        else:
            print(f"no task came to a metric: {target / 'evaluation.json'} is not written")
    distributed.barrier()
    return int(without_report or any(result.error is not None for result in results))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure in this process: one rank of the launcher's job, or alone.

    Returns the exit status: 0 measured, 1 a task ran out of time, the report was not written or another rank is gone,
    2 a user's mistake.
    """
    passive_threads()
    in_job(PROG)
    args = parse(sys.argv[1:] if argv is None else argv)
    from silc.train import peers

    try:
        return peers.answered(PROG)(evaluate)(args)
    except ValueError as error:
        defer_to_first_rank()
        print(f"{PROG}: {error}", file=sys.stderr)
        return MISTAKE


def launch(argv: Sequence[str]) -> int:
    """`silc evaluate`: in this process, or in those of DeepSpeed's launcher if its options are given."""
    options, words = launcher.split(PROG, argv)
    if not options or "RANK" in os.environ or several_nodes.is_rank(PROG, options):
        return main(words)
    parse(words)
    renamed = [config_io.with_new_name(word) for word in words]
    return several_nodes.run(PROG, "silc.commands.evaluate", options, renamed)


if __name__ == "__main__":
    status = main()
    supervision.tell(status)
    sys.exit(status)
