"""What tasks share: the same values, read once, within a bound."""

from __future__ import annotations

import torch

from silc.data.splits import DataSet
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.kept import Kept
from silc.evaluate.sharding import Job

from .conftest import Memory, random_images

TASKS = ["validation_loss", "zeroshot_classification", "fewshot", "retrieval", "zeroshot_segmentation"]


class Counting(Memory):
    """Counts how often each image is read."""

    def image(self, number, upright=None):
        self.read = [*getattr(self, "read", []), number]
        return super().image(number, upright)


def made(count: int) -> EvalData:
    def split(seed: int) -> Counting:
        rng = torch.Generator().manual_seed(seed)
        masks = [torch.randint(-1, 4, (16, 16), generator=rng) for _ in range(count)]
        images = random_images(count, seed=seed)
        images[4] = None
        labels = [n % 4 for n in range(count)]
        return Counting(images, labels, [[f"thing {n}"] for n in range(count)], masks)

    known = DataSet("noise", tuple("abcd"), split(0), split(1))
    return EvalData(known, known, known)


def values(results) -> list[tuple]:
    return [(r.task, r.model, r.metrics, r.skipped) for r in results]


def test_tasks_together_measure_what_each_measures_alone(config, towers, world):
    config.eval.shots, config.eval.draws = [1, 2], 2
    together = made(11)
    found = runner.evaluate(config, [towers], together, TASKS, world, strict=True)
    alone = []
    for task in TASKS:
        alone += runner.evaluate(config, [towers], made(11), [task], world, strict=True)
    assert values(found) == values(alone)
    assert all(result.skipped == (("memory/4", "undecodable image"),) for result in found)
    read = [number for number in together.classification.test.read if number != 4]
    assert sorted(read) == sorted([n for n in range(11) if n != 4] * 2)  # as a square, and to be segmented


def test_nothing_is_kept_beyond_the_bound(config, towers, world):
    data = made(6)
    split = data.classification.test
    job = Job(config, world, "x", kept=Kept(most=2 * 16 * 16 * 3))
    for _ in range(2):
        job.over_images(split, range(4), 16, lambda images: images.float().mean((1, 2, 3)))
    assert split.read == [0, 1, 2, 3, 2, 3]


def test_a_kept_value_is_of_its_name_size_and_images(config, towers, world):
    split = made(6).classification.test
    job = Job(config, world, "x")
    calls = []

    def mean(images):
        calls.append(len(images))
        return images.float().mean((1, 2, 3))

    first = job.over_images(split, [0, 1, 4], 16, mean, "mean")
    again = Job(config, world, "y", kept=job.kept)
    second = again.over_images(split, [0, 1, 4], 16, mean, "mean")
    assert calls == [2]
    assert second[0] == first[0] == [0, 1]
    assert torch.equal(second[1], first[1])
    assert again.skipped == {("memory/4", "undecodable image")}
    for indices, size, name in (([0, 1], 16, "mean"), ([0, 1, 4], 8, "mean"), ([0, 1, 4], 16, "other")):
        again.over_images(split, indices, size, mean, name)
    assert calls == [2] * 4


def test_what_fails_is_not_kept():
    kept, calls = Kept(), []

    def fails():
        calls.append(1)
        raise ValueError

    for method in (kept.small, lambda key, make: kept.large(key, make, lambda value: 1)):
        for _ in range(2):
            try:
                method("a", fails)
            except ValueError:
                continue
    assert len(calls) == 4
    assert kept.small("a", lambda: 5) == 5
