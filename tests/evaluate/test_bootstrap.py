"""Standard errors by bootstrap: against explicit resampling in NumPy, and against the formula for a share."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from silc.data.splits import TarSplit
from silc.evaluate import bootstrap
from silc.evaluate.bootstrap import RESAMPLES, Resamples, groups_of
from silc.evaluate.tasks.retrieval import recalls
from silc.evaluate.tasks.zeroshot_classification import accuracy

from .conftest import Memory, random_images


def drawn(groups, draws: Resamples) -> list[np.ndarray]:
    """Numbers of the images of each resample, as often as they are drawn; images of a group together."""
    weights = draws.weights(0, len(groups)).long().numpy()
    for row in weights:
        by_group = {group: {row[i] for i in range(len(groups)) if groups[i] == group} for group in groups}
        assert all(len(times) == 1 for times in by_group.values())
        assert sum(times.pop() for times in by_group.values()) == len(set(groups))
    return [np.repeat(np.arange(len(groups)), row) for row in weights]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_errors_of_means_are_deviations_over_resamples(groups, seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=(len(groups), 3)), rng.uniform(0.1, 1, (len(groups), 3))
    draws = Resamples(groups)
    rows = drawn(groups, draws)
    plain = draws.of_means(torch.from_numpy(values))
    weighted = draws.of_means(torch.from_numpy(values), torch.from_numpy(weights))
    if len(set(groups)) < 2:
        assert plain == weighted == [None] * 3
        return
    assert len(rows) == RESAMPLES
    assert plain == pytest.approx(np.std([values[row].mean(0) for row in rows], axis=0, ddof=1).tolist())
    means = [np.average(values[row], axis=0, weights=weights[row]) for row in rows]
    assert weighted == pytest.approx(np.std(means, axis=0, ddof=1).tolist())


def test_the_draws_are_always_the_same_and_as_random_as_they_should_be():
    draws = Resamples(range(50)).weights(0, 50)
    assert torch.equal(draws, Resamples([f"image {n}" for n in range(50)]).weights(0, 50))
    assert len({tuple(row) for row in draws.tolist()}) == RESAMPLES
    assert draws.sum(1).tolist() == [50] * RESAMPLES
    assert draws.mean().item() == 1
    # Variance of a count: 1 - 1/n, here of 10,000 counts; that of such a sample's variance is about 3 / 10,000.
    assert draws.var().item() == pytest.approx(1 - 1 / 50, abs=5 * (3e-4) ** 0.5)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_error_of_top1_is_that_of_a_share(share):
    """sqrt(p (1 - p) / n); a deviation of 200 values is known to 1 / sqrt(400), or 5 %."""
    count = 1000
    right = np.arange(count) < share * count
    truth = torch.arange(count) % 7
    best = torch.where(torch.from_numpy(right)[:, None], truth[:, None], (truth[:, None] + 1) % 7)
    top1, _, per_class = accuracy(truth, best, 7, Resamples(range(count)))
    assert top1.value == pytest.approx(share)
    assert top1.error == pytest.approx((share * (1 - share) / count) ** 0.5, rel=0.15)
    assert per_class.error == pytest.approx(top1.error, rel=0.05)  # classes of nearly one size


def test_images_of_one_drawing_count_as_one():
    """Four images of each of 250 drawings, all right or all wrong: as many independent facts as drawings."""
    count = 1000
    group = torch.arange(count) // 4
    truth = torch.zeros(count, dtype=torch.int64)
    best = (group % 2)[:, None]
    apart, together = (accuracy(truth, best, 2, Resamples(g))[0] for g in (range(count), group.tolist()))
    assert apart.value == together.value == 0.5
    assert together.error == pytest.approx(0.5 / 250**0.5, rel=0.15)
    assert together.error / apart.error == pytest.approx(2, rel=0.2)


def test_the_weight_of_an_image_in_the_mean_per_class_stays():
    truth = torch.tensor([0, 0, 0, 1, 1, 2])
    best = torch.tensor([0, 1, 0, 1, 0, 2])[:, None]
    draws = Resamples(range(6))
    metric = accuracy(truth, best, 4, draws)[2]
    right, size = (truth == best[:, 0]).double().numpy(), np.bincount(truth)[truth]
    assert metric.value == pytest.approx(np.average(right, weights=1 / size))
    means = [np.average(right[row], weights=1 / size[row]) for row in drawn(range(6), draws)]
    assert metric.error == pytest.approx(np.std(means, ddof=1))


def test_queries_are_drawn_by_the_group_of_their_image():
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(9, 4, generator=generator), dim=1) for _ in range(2))
    captions = [[f"{n}", f"{(n + 1) % 9}"][: 1 + n % 2] for n in range(9)]
    distinct = [f"{n}" for n in range(9)]
    groups = [0, 0, 1, 1, 1, 2, 3, 4, 5]
    found = {metric.name: metric for metric in recalls(images, texts, captions, distinct, groups)}
    similarity = (images @ texts.T).numpy()
    own = [[int(caption) for caption in row] for row in captions]
    asked = [(image, caption) for image, row in enumerate(own) for caption in row]

    def hit(image: int, caption: int, k: int) -> bool:
        """Text to image: the owners of the caption among all images."""
        owners = [n for n in range(9) if caption in own[n]]
        best = max(similarity[n, caption] for n in owners)
        return sum(similarity[n, caption] >= best for n in range(9) if n not in owners) < k

    for k in (1, 5):
        right = np.array([hit(image, caption, k) for image, caption in asked], dtype=float)
        queries = [groups[image] for image, _ in asked]
        means = [right[row].mean() for row in drawn(queries, Resamples(queries))]
        metric = found[f"text_to_image_r{k}"]
        assert metric.value == pytest.approx(right.mean())
        assert metric.error == pytest.approx(np.std(means, ddof=1))


def test_blocks_are_added_up(monkeypatch):
    values = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    whole = Resamples(range(50)).of_means(values)
    monkeypatch.setattr(bootstrap, "IMAGES", 7)
    assert Resamples(range(50)).of_means(values) == pytest.approx(whole)


def test_a_split_may_know_which_images_belong_together():
    split = Memory(random_images(5))
    assert Resamples(groups_of(split, [3, 1, 4])).groups.tolist() == [0, 1, 2]
    split.group = lambda index: ("a", None, "b", "a", None)[index]
    assert Resamples(groups_of(split, [0, 1, 2, 3, 4])).groups.tolist() == [0, 1, 2, 0, 3]
    assert Resamples(groups_of(split, [])).sums([torch.zeros(0, 2)]).shape == (RESAMPLES, 2)


def test_scenes_of_one_drawing_belong_together(tmp_path, config):
    """By the json of the sample set; several objects, other files and odd values stand for themselves."""
    one = {"objects": 1, "concept_ids": [3], "artists": ["Noto"]}
    infos = [
        one,
        one | {"class": 3, "visible": [0.5]},
        one | {"artists": ["Twemoji"]},
        {"objects": 2, "concept_ids": [3, 4], "artists": ["Noto", "Noto"]},
        one | {"artists": ["x" * 10_000]},
        one | {"concept_ids": "3"},
        {},
    ]
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number, info in enumerate(infos):
            encoded = io.BytesIO()
            Image.new("RGB", (8, 8)).save(encoded, "png")
            writer.write({"__key__": f"{number}", "png": encoded.getvalue(), "json": json.dumps(info).encode()})
    split = TarSplit(config.data, [str(tmp_path / "a.tar")], title="x")
    assert [split.group(n) for n in range(len(infos))] == [(3, "Noto")] * 2 + [(3, "Twemoji")] + [None] * 4
    assert Resamples(groups_of(split, range(len(infos)))).groups.tolist() == [0, 0, 1, 2, 3, 4, 5]
