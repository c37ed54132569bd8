"""A training step of this project against one glued from public parts, and against plain CLIP.

    python benchmarks/train_bench.py                                     the sample preset, four minutes on two cores
    python benchmarks/train_bench.py --preset silc_vit_b16 --batch 256   on a GPU
    python benchmarks/train_bench.py --steps 30 --save model.vision.depth=6

Three variants, each in a process of its own, taking turns:

    silc    the trainer as it trains: its DeepSpeed engine (ZeRO-1, one process), byte crops
    glued   the same objective from open_clip, timm, lightly, torchvision and webdataset (baseline.py),
            float crops
    clip    the trainer again, as plain CLIP by configuration: one view, no distillation

First the two objectives are compared over several steps from the same weights: losses that differ end the benchmark.
"step" has its batches in memory (bytes or floats; on a GPU the copy to it counts); "data" reads the shards with the
preset's number of workers, each variant by its own pipeline. Both leave out pairs of equal index, as lightly does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import silc
from benchmarks import RESULTS
from benchmarks.train import report as train_report
from benchmarks.train import worker as train_worker
from benchmarks.train.report import Measured, Row
from benchmarks.train.worker import StepTime
from silc import config_io
from silc.config import Config
from silc.config_rules import own_data, validate
from silc.data import build_loader
from silc.data.sample_set.cache import default_root, ensure_sample
from silc.train.engine import precision
from silc.train.estimate import step_flops

PRESETS = Path(silc.__file__).parent / "presets"
PLAIN_CLIP = {
    "views": {"n_global": 0, "n_local": 0},
    "objective": {"distill": False, "contrastive_views": "original"},
}
BATCHES = 2  # in memory, used in turn
GATE_STEPS = 3
GATE_BATCH = 32  # pairs, where the gate needs processes of its own
# Of the first losses, relative. Later steps have moved by an update that amplifies rounding.
BOUND, LATER_BOUND = 1e-4, 1e-3


@dataclass(frozen=True)
class Plan:
    """Steps of a variant: with batches in memory; in a turn with data, and before it, not counted; for the budget."""

    steps: int
    data_steps: int
    warm: int = 3
    budget: int = 3


class Worker:
    """A process that holds one variant."""

    def __init__(self, variant: str, config: Config, shards: list[str], folder: Path, batches: Path) -> None:
        spawn = multiprocessing.get_context("spawn")  # a process without this one's memory
        self._pool = ProcessPoolExecutor(1, mp_context=spawn)
        tree = config_io.to_dict(config)
        self.call(train_worker.start, variant, tree, shards, str(folder), str(batches))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one of the worker's functions in that process."""
        return self._pool.submit(function, *args).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def gate(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> str:
    """Correct first: contrastive and distillation losses of the same steps from the same weights.

    Raises:
        ValueError: they differ by more than BOUND at first, or LATER_BOUND afterwards; nothing is timed.
    """
    errors = [
        max(abs(a - b) / abs(b) for a, b in zip(one, two, strict=True)) for one, two in zip(ours, theirs, strict=True)
    ]
    for step, error in enumerate(errors):
        bound = LATER_BOUND if step else BOUND
        if not error <= bound:
            raise ValueError(
                f"step {step}: (contrastive, distillation) losses are {ours[step]} in silc, {theirs[step]} in glued; "
                f"relative difference {error:.1e} above {bound:.0e}; nothing is timed"
            )
    return f"correct: both losses agree to {errors[0]:.1e}, after {len(errors) - 1} steps to {errors[-1]:.1e}"


def open_workers(configs: dict[str, Config], shards: list[str], folder: Path) -> dict[str, Worker]:
    """A process for each configuration, named by its variant; those of equal views get equal batches."""
    folder.mkdir()
    workers = {}
    for variant, config in configs.items():
        batches = folder / f"{variant}.pt"
        alone = replace(config, data=replace(config.data, workers=0))
        torch.save(list(islice(build_loader(alone, rank=0, world=1, shards=shards), BATCHES)), batches)
        workers[variant] = Worker(variant, config, shards, folder, batches)
    return workers


def check(workers: dict[str, Worker]) -> str:
    """Pass `silc` and `glued` through the gate. Raises ValueError."""
    return gate(*(workers[variant].call(train_worker.losses, GATE_STEPS) for variant in ("silc", "glued")))


def check_in_fp32(configs: dict[str, Config], shards: list[str], folder: Path) -> str:
    """The gate for a run in lower precision: the same two in fp32, on a smaller batch, in processes of their own."""
    small = {
        variant: replace(
            configs[variant],
            engine=replace(configs[variant].engine, precision="fp32"),
            train=replace(configs[variant].train, global_batch=min(GATE_BATCH, configs[variant].train.global_batch)),
        )
        for variant in ("silc", "glued")
    }
    workers = open_workers(small, shards, folder)
    try:
        return check(workers)
    finally:
        for worker in workers.values():
            worker.close()


def in_turns(workers: dict[str, Worker], turns: int, *call: Any) -> dict[str, list[StepTime]]:
    """The times of each variant, taken in turns so that a slow moment of the machine falls on all of them."""
    times: dict[str, list[StepTime]] = {variant: [] for variant in workers}
    for _ in range(turns):
        for variant, worker in workers.items():
            times[variant] += worker.call(*call)
    return times


def measure(workers: dict[str, Worker], configs: dict[str, Config], plan: Plan) -> Measured:
    """Everything about every variant."""
    batch = configs["silc"].train.global_batch
    in_turns(workers, 1, train_worker.turn, 1)  # the first steps of a process are slower
    in_memory = in_turns(workers, plan.steps, train_worker.turn, 1)
    peaks = {variant: worker.call(train_worker.peak_mib) for variant, worker in workers.items()}
    rows = [_row(variant, "step", batch, times, peaks[variant]) for variant, times in in_memory.items()]
    budgets = {}
    for variant, worker in workers.items():
        seconds = worker.call(train_worker.budget, plan.budget)
        budgets[variant] = {"data": worker.call(train_worker.data_seconds, 2), **seconds}
    if plan.data_steps:
        reading = {variant: workers[variant] for variant in ("silc", "glued")}
        with_data = in_turns(reading, 2, train_worker.turn_with_data, plan.data_steps, plan.warm)
        rows += [_row(variant, "data", batch, times, None) for variant, times in with_data.items()]
    flops = step_flops(configs["silc"]) / step_flops(configs["clip"])
    return Measured(rows, budgets, flops)


def _row(variant: str, mode: str, batch: int, times: list[StepTime], peak_mib: float | None) -> Row:
    wall = sorted(1e3 * time.wall for time in times)
    middle = statistics.median(wall)
    # With data the pace counts, waits and all; a median would hide the steps that waited.
    per_second = batch / statistics.fmean(wall if mode == "data" else [middle]) * 1e3
    low, high = wall[len(wall) // 5], wall[-1 - len(wall) // 5]
    return Row(variant, mode, per_second, middle, low, high, statistics.median(time.user for time in times), peak_mib)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; `config` is SILC's, resolved. Mistakes end with a message and status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="overrides of the preset")
    parser.add_argument("--preset", default="sample", help="name or YAML file (default: sample)")
    parser.add_argument("--batch", type=int, metavar="N", help="pairs a step, in place of train.global_batch")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps timed in each variant (default: 10)")
    parser.add_argument(
        "--data-steps", type=int, default=4, metavar="N", help="and in each of two turns with data (4); 0: none"
    )
    parser.add_argument(
        "--save", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help="write a CSV (benchmarks/results)"
    )
    args = parser.parse_args(argv)
    short = [] if args.batch is None else [f"train.global_batch={args.batch}"]
    try:
        args.config = config_io.load_config(
            args.preset, ["train.tensorboard=false", *args.overrides, *short], presets=PRESETS
        )
        validate(args.config, 1)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: list[str] | None = None) -> None:
    """Entry point. Raises ValueError when the two objectives differ."""
    args = arguments(argv)
    config: Config = args.config
    tree = config_io.to_dict(config)
    clip = config_io.build(tree | {section: tree[section] | changes for section, changes in PLAIN_CLIP.items()})
    configs = {"silc": config, "glued": config, "clip": clip}
    data = config.data
    shards = own_data(config) or ensure_sample(
        default_root(), concepts=data.sample_concepts, scenes_train=data.sample_scenes
    ).shards("train")
    dtype = precision(config, train_worker.device())
    print(train_report.header(config, dtype), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if dtype != torch.float32:
            print(check_in_fp32(configs, shards, folder / "gate"), flush=True)
        workers = open_workers(configs, shards, folder / "run")
        try:
            if dtype == torch.float32:
                print(check(workers), flush=True)
            measured = measure(workers, configs, Plan(args.steps, args.data_steps))
        finally:
            for worker in workers.values():
                worker.close()
    print(train_report.tables(measured))
    if args.save is not None:
        print(f"written to {train_report.save(measured, config, args.save)}")
