"""What tasks share: the same values, read once, within a bound."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from silc.data.splits import DataSet
from silc.distributed import World
from silc.evaluate import runner, sharding
from silc.evaluate.datasets import EvalData
from silc.evaluate.kept import Kept
from silc.evaluate.segmentation.measure import measure
from silc.evaluate.segmentation.windows import Geometry
from silc.evaluate.sharding import HELD, VALUES, Job, TimedOut
from silc.evaluate.tasks import TASKS as TASKS_BY_NAME
from silc.evaluate.towers import Scale, build_towers

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


def test_two_models_share_no_features(config, model, world):
    """Each measures what it measures alone, and the features of one are gone when the other's turn comes."""
    config.eval.shots, config.eval.draws = [1, 2], 2
    rng = torch.Generator().manual_seed(5)
    average = {
        name: value + 0.3 * torch.randn(value.shape, generator=rng) for name, value in model.state_dict().items()
    }
    args = config, model.state_dict(), average, torch.device("cpu"), torch.float32, Scale(14.0, None)
    models = build_towers(*args)
    found = runner.evaluate(config, models, made(11), TASKS, world, strict=True)
    assert [(r.task, r.model) for r in found] == [(task, name) for task in TASKS for name in ("student", "teacher")]
    for one in models:
        alone = runner.evaluate(config, [one], made(11), TASKS, world, strict=True)
        assert values(alone) == values([result for result in found if result.model == one.name])
    for task in TASKS:
        student, teacher = (result.metrics for result in found if result.task == task)
        assert student != teacher, task


def test_features_of_one_model_are_in_memory_at_a_time(config, model, world, monkeypatch):
    models = build_towers(config, model.state_dict(), model.state_dict(), torch.device("cpu"), torch.float32)
    held = []

    def spy(config, task, model, data, world, strict, kept):
        held.append([key for key in kept._small if key[0] == VALUES])
        return one(config, task, model, data, world, strict, kept)

    one = runner._one
    monkeypatch.setattr(runner, "_one", spy)
    runner.evaluate(config, models, made(6), ["zeroshot_classification", "retrieval"], world, strict=True)
    assert [bool(keys) for keys in held] == [False, True, False, True]


def test_what_a_failed_task_kept_is_forgotten(config, towers, world, monkeypatch):
    """Where one rank alone failed, the others had kept what it had not."""
    calls = []

    def run(model, data, job):
        job.kept.small(("together",), lambda: calls.append(1))
        raise MemoryError

    for name in ("retrieval", "fewshot"):
        monkeypatch.setitem(TASKS_BY_NAME, name, replace(TASKS_BY_NAME[name], run=run))
    found = runner.evaluate(config, [towers], made(6), ["retrieval", "fewshot"], world, strict=False)
    assert [result.broken for result in found] == [True, True]
    assert calls == [1, 1]


@pytest.mark.parametrize(("size", "expected"), [(1, [5, 3]), (HELD // 2, [2, 2, 1, 2, 1]), (2 * HELD, [1] * 8)])
def test_fewer_large_images_are_held_at_a_time(config, world, monkeypatch, size, expected):
    monkeypatch.setattr(sharding, "TOGETHER", 6)
    images = random_images(9)
    images[4] = None
    split, calls = Memory(images), []

    def function(read):
        calls.append(len(read))
        return [index for index, _ in read]

    found = Job(config, world, "x").several(split, range(9), split.image, function, lambda image: size)
    assert found == [0, 1, 2, 3, 5, 6, 7, 8]
    assert calls == expected


def test_what_images_show_is_read_by_all_ranks_together(config, monkeypatch):
    monkeypatch.setattr(sharding, "GROUPS", 2)
    split, read = Memory(random_images(6)), []
    split.group = lambda index: read.append(index)
    ranks = World(1, 2, torch.device("cpu"))
    monkeypatch.setattr(sharding, "all_gather_objects", lambda mine: [(None, [[0, 1], [4, 5]], set()), mine])
    assert Job(config, ranks, "x").resamples(split, range(6)).groups.tolist() == list(range(6))
    assert read == [2, 3]


def test_the_clock_is_looked_at_between_forward_passes(config, world, segmented):
    job = Job(config, world, "x", limited=False)
    job.geometry = Geometry(short_side=16, window=0, stride=16, batch=4)
    passes = []

    def scores(crops):
        passes.append(len(crops))
        job._ends = 0.0  # over by now
        return torch.zeros(len(crops), 4, 2, 2)

    with pytest.raises(TimedOut):
        measure(job, segmented.test, range(8), 4, 8, scores)
    assert passes == [4]


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
                method(("a",), fails)
            except ValueError:
                continue
    assert len(calls) == 4
    assert kept.small(("a",), lambda: 5) == 5
