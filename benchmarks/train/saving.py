"""What a checkpoint costs a training: written between two steps, or beside the steps that follow.

    python benchmarks/save_bench.py                                  a model of some 40 million weights, on a CPU
    python benchmarks/save_bench.py --preset silc_vit_b16 --batch 64 --save    on a GPU

Both in turn, from one state: how long the loop stands still, how long the steps take while the files are written, and
how many of them that is. First a gate: both ways write the same tensors.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks import RESULTS
from silc import config_io, distributed
from silc.config import Config
from silc.config_rules import validate
from silc.data.batch import Batch
from silc.objective import plan_views
from silc.train.saving import Saver
from silc.train.state import build_state
from silc.train.step import SilcStep

SIZES = [
    "model.vision={width: 384, depth: 6, heads: 6}",
    "model.text={width: 256, heads: 4}",
    "model.head.prototypes=8192",
    "train.micro_batch=null",
]
BETWEEN = 4  # steps without a save, timed before each


@dataclass(frozen=True)
class Row:
    """Of one way to save; seconds, medians over the rounds.

    Attributes:
        stands_still: the loop waits for the copy of the state, or for all.
        step: of a step without a save.
        step_beside: of a step while files are written; None where none is.
        steps_beside: how many such steps there are.
        whole: from the call until the checkpoint is in place.
        gigabytes: of the checkpoint.
    """

    way: str
    stands_still: float
    step: float
    step_beside: float | None
    steps_beside: float
    whole: float
    gigabytes: float


def random_batch(config: Config, device: torch.device) -> Batch:
    """Random bytes and tokens."""
    views, size = config.views, config.train.global_batch
    shape = (size, config.n_original + views.n_global, 3, views.global_size, views.global_size)
    large = torch.randint(0, 256, shape, dtype=torch.uint8)
    small = torch.randint(0, 256, (size, views.n_local, 3, views.local_size, views.local_size), dtype=torch.uint8)
    tokens = torch.randint(0, config.model.text.vocab_size, (size, config.model.text.context_length))
    batch = Batch(large, small, tokens, [str(number) for number in range(size)], config.n_original, size, [])
    return batch.to(device)


class Run:
    """A training on one random batch."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = build_state(config, distributed.init(config.engine.timeout_minutes))
        self._step = SilcStep(config, plan_views(config), self.state)
        self._batch = random_batch(config, self.state.world.device)

    def step(self) -> float:
        """Seconds of a step."""
        started = time.perf_counter()
        self._step(self._batch, lr=1e-5, distill=self.config.objective.distill)
        if self.state.world.device.type == "cuda":
            torch.cuda.synchronize()
        self.state.counters.step += 1
        return time.perf_counter() - started


def measure(run: Run, folder: Path, rounds: int) -> list[Row]:
    """Both ways, in turn."""
    saver = Saver(folder, run.config, run.state)
    found: dict[bool, list[tuple[float, list[float], list[float], float]]] = {False: [], True: []}
    size = 0
    for _ in range(rounds):
        for background, kept in found.items():
            alone = [run.step() for _ in range(BETWEEN)]
            started = time.perf_counter()
            path = saver.save(background=background)
            still, beside = time.perf_counter() - started, []
            while saver.busy():
                beside.append(run.step())
            whole = time.perf_counter() - started
            saver.settle()
            kept.append((still, alone, beside, whole))
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return [_row(background, kept, size) for background, kept in found.items()]


def _row(background: bool, kept: list[tuple[float, list[float], list[float], float]], size: int) -> Row:
    steps = [step for _, alone, _, _ in kept for step in alone]
    beside = [step for _, _, some, _ in kept for step in some]
    return Row(
        "beside the steps" if background else "between two steps",
        statistics.median(still for still, *_ in kept),
        statistics.median(steps),
        statistics.median(beside) if beside else None,
        statistics.median(len(some) for _, _, some, _ in kept),
        statistics.median(whole for *_, whole in kept),
        size / 1e9,
    )


def gate(run: Run, folder: Path) -> None:
    """Both ways write the same tensors. Raises AssertionError."""
    paths = []
    for background in (False, True):
        saver = Saver(folder / str(background), run.config, run.state)
        paths.append(saver.save(background=background))
        if background:
            run.step()  # what is written beside it must not see this
        saver.settle()
    names = sorted(str(file.relative_to(paths[0])) for file in paths[0].rglob("*.safetensors"))
    assert names, "nothing was written"
    for name in names:
        one, other = (load_file(path / name) for path in paths)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), f"{name} differs"


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="a preset as it is, in place of the model of some 40 million weights")
    parser.add_argument("--batch", type=int, default=8, help="pairs a step (8)")
    parser.add_argument("--rounds", type=int, default=5, help="saves of each kind (5)")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written (a temporary folder)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/saving_DEVICE.csv")
    args = parser.parse_args(argv)
    words = [f"train.global_batch={args.batch}", "train.keep_checkpoints=1", *([] if args.preset else SIZES)]
    config = config_io.load_config(args.preset or "sample", words)
    validate(config, 1)
    run = Run(config)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        gate(run, Path(name, "gate"))
        rows = measure(run, Path(name, "run"), args.rounds)
    print(f"{'way':20s}{'stands still':>14s}{'step':>9s}{'step beside':>13s}{'steps beside':>14s}{'whole':>9s}")
    for row in rows:
        beside = "-" if row.step_beside is None else f"{row.step_beside:.2f} s"
        print(
            f"{row.way:20s}{row.stands_still:12.2f} s{row.step:7.2f} s{beside:>13s}{row.steps_beside:14.0f}"
            f"{row.whole:7.2f} s   ({row.gigabytes:.2f} GB)"
        )
    if args.save:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        path = RESULTS / f"saving_{device.lower().replace(' ', '_')}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        print(f"saved to {path}")


if __name__ == "__main__":
    main()
