"""One of several processes that evaluate together: `worker.py FOLDER RANK SIZE PORT` writes FOLDER/RANK.json.

The tests compare these files. The ranks meet through torch's own store, so that no launcher is needed.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from silc.config import Config, DataConfig, EvalConfig, HeadConfig, ModelConfig, TextConfig, ViewsConfig, VisionConfig
from silc.data.splits import DataSet
from silc.distributed import World, barrier
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.metric import Metric
from silc.evaluate.report import examples
from silc.evaluate.sharding import Job, TaskFailed, TimedOut
from silc.evaluate.tasks import TASKS
from silc.evaluate.towers import Scale, build_towers
from silc.model import build
from tests.evaluate.conftest import NAMES, Memory, random_images


def configuration() -> Config:
    return Config(
        model=ModelConfig(
            vision=VisionConfig(image_size=16, patch_size=8, width=32, depth=2, heads=2),
            text=TextConfig(context_length=8, width=32, depth=2, heads=2),
            head=HeadConfig(prototypes=16, hidden=32, bottleneck=8),
        ),
        views=ViewsConfig(global_size=16, local_size=8),
        data=DataConfig(workers=0),
        eval=EvalConfig(
            batch=4, short_side=16, window=16, stride=8, train_images=9, probe_steps=20, decoder_steps=5, shots=[1, 2]
        ),
    )


def data() -> EvalData:
    """Eleven test images (an odd number, one of them broken) and nine to fit to."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int, seed: int) -> Memory:
        images = random_images(count, 16, 24, seed)
        images[5] = None
        masks = [torch.randint(-1, 7, (16, 24), generator=generator) for _ in range(count)]
        captions = [[f"thing {n % 4}", f"thing {n} of {seed}"] for n in range(count)]
        return Memory(images, [n % 7 for n in range(count)], captions, masks)

    known = DataSet("noise", NAMES, split(11, 0), split(9, 1))
    return EvalData(known, known, known)


def measure(rank: int, size: int) -> dict:
    """What a rank measures, which images it skipped, and how a job ends that one rank cannot finish."""
    config, world = configuration(), World(rank, size, torch.device("cpu"))
    student, other = build(config), build(config)
    average = {name: value + 0.01 for name, value in other.state_dict().items()}
    models = build_towers(config, student.state_dict(), average, world.device, torch.float32, Scale(10.0, -5.0))
    results = runner.evaluate(config, models, data(), list(TASKS), world, strict=True)
    skipped = sorted({key for result in results for key, _ in result.skipped})
    errors = {f"{r.task}/{r.model}/{metric.name}": metric.error for r in results for metric in r.metrics}
    found = {"metrics": runner.scalars(results), "errors": errors, "skipped": skipped, "ended": []}
    found["broken"] = broken(config, models, world)
    mistakes = (0.0, None), (60.0, ValueError("a mistake on the last rank")), (60.0, MemoryError())
    for seconds, error in mistakes:
        config.eval.timeout_minutes = seconds / 60 + 1e-9 if rank == size - 1 else 1.0
        job = Job(config, world, "a task, student")

        def one(item: int, error: Exception | None = error) -> int:
            if error is not None and rank == size - 1:
                raise error
            return item

        try:
            job.each(range(6), one)
        except (TimedOut, TaskFailed, ValueError) as ended:
            found["ended"].append(f"{type(ended).__name__}: {ended}")
    if rank == 0:  # while the others wait: nothing on the way to a report may be collective
        examples.collect(config, models, data(), results)
    barrier()
    return found


class Unsendable(OSError):
    """One that cannot be pickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__("of two arguments")
        self.held = lambda: one + other


def broken(config: Config, models: list, world: World) -> list[list]:
    """Results of tasks that fail on one rank alone, before, between and after their exchanges; each is followed by
    one that is whole."""
    last, known, found = world.rank == world.size - 1, data(), []
    task = TASKS["retrieval"]
    for at, error in ((0, MemoryError()), (1, Unsendable(1, 2)), (2, RecursionError("deep")), (2, ValueError("odd"))):

        def run(model: object, data: DataSet, job: Job, at: int = at, error: Exception = error) -> list[Metric]:
            for exchange in range(3):
                if last and exchange == at:
                    raise error
                if exchange < 2:
                    job.each(range(5), lambda item: item)
            return [Metric("whole", 1.0)]

        TASKS["retrieval"] = replace(task, run=run)
        try:
            results = runner.evaluate(config, models[:1], known, ["retrieval", "fewshot"], world, strict=False)
        finally:
            TASKS["retrieval"] = task
        found.append([(result.task, result.error, result.broken, len(result.metrics)) for result in results])
    return found


def main() -> None:
    folder, rank, size, port = Path(sys.argv[1]), *map(int, sys.argv[2:])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    (folder / f"{rank}.json").write_text(json.dumps(measure(rank, size)))


if __name__ == "__main__":
    main()
