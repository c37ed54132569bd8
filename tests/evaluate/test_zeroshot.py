"""Zero-shot classification against NumPy and open_clip."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data import EvalBatch, build_tokenizer
from silc.evaluate import zeroshot
from silc.evaluate.zeroshot import Scored
from silc.model import LogitScale
from silc.model.export import export

from .conftest import NAMES


class Batches(list):
    """Stands for an EvalSet."""

    size = 16


def batches_of(features: np.ndarray, labels: list[int | None], batch: int) -> Batches:
    """The 'pictures' are their own features, for an encoder that passes them on."""
    out = Batches()
    for start in range(0, len(labels), batch):
        infos = [{} if label is None else {"class": label} for label in labels[start : start + batch]]
        images, keys = torch.from_numpy(features[start : start + batch]), [f"s/{start + i}" for i in range(len(infos))]
        out.append(EvalBatch(images, [""] * len(infos), infos, [None] * len(infos), keys))
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(2, 12), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_score_and_accuracy_equal_numpy(pictures, count, batch, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(pictures, 6)).astype(np.float32)
    classes = rng.normal(size=(count, 6)).astype(np.float32)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    labels = rng.integers(0, count, pictures)
    found = zeroshot.score(lambda x: x, torch.from_numpy(classes), batches_of(features, labels.tolist(), batch), 0)
    values = zeroshot.accuracy(found, count)

    order = np.argsort(-(features.astype(np.float64) @ classes.T.astype(np.float64)), axis=1)
    right = order[:, 0] == labels
    assert [row.top[0] for row in found] == order[:, 0].tolist()
    assert [row.key for row in found] == [f"s/{i}" for i in range(pictures)]
    assert values["top1"] == pytest.approx(right.mean())
    assert values["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(1).mean())
    assert values["mean_per_class"] == pytest.approx(np.mean([right[labels == c].mean() for c in np.unique(labels)]))
    assert values["chance"] == pytest.approx(1 / count)
    assert values["pictures"] == pictures


def test_a_collapsed_model_scores_no_more_than_one_class():
    """All similarities tie: one class takes every picture, and no tie counts as a hit for each."""
    labels = [c for c in range(10) for _ in range(3)]
    same = np.ones((30, 4), dtype=np.float32)
    found = zeroshot.score(lambda x: x, torch.ones(10, 4) / 2, batches_of(same, labels, 30), 0)
    assert all(len(set(row.top)) == 5 for row in found)
    assert zeroshot.accuracy(found, 10)["top1"] == pytest.approx(0.1)
    assert zeroshot.accuracy(found, 10)["top5"] == pytest.approx(0.5)


def test_a_class_without_pictures_has_no_mean():
    scored = [Scored(0, (0, 1), "a"), Scored(0, (1, 0), "b"), Scored(3, (3, 0), "c")]
    values = zeroshot.accuracy(scored, 5)
    assert values["mean_per_class"] == pytest.approx((0.5 + 1.0) / 2)
    assert values["top1"] == pytest.approx(2 / 3)
    assert values["top5"] == 1.0


def test_pictures_without_a_class_are_passed_over():
    features = np.eye(4, dtype=np.float32)
    found = zeroshot.score(lambda x: x, torch.eye(4), batches_of(features, [0, None, 2, None], 3), 0)
    assert [(row.label, row.key) for row in found] == [(0, "s/0"), (2, "s/2")]
    with pytest.raises(ValueError, match=r"eval\.shards"):
        zeroshot.accuracy([], 4)


def test_every_rank_makes_the_same_number_of_passes():
    """A sharded model gathers its weights in each pass, so a rank with fewer batches goes on with empty ones."""
    passes = []

    def encode(images):
        passes.append(tuple(images.shape))
        return images.flatten(1)[:, :3].float()

    batches = batches_of(np.ones((4, 3), dtype=np.float32), [0, 1, 2, 0], 2)
    assert len(zeroshot.score(encode, torch.eye(3), batches, rounds=5)) == 4
    assert passes == [(2, 3), (2, 3), (1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 16, 16)]


def test_class_embeddings_equal_open_clips(config, model, tmp_path):
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    twin = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=True).eval()
    tokenizer = build_tokenizer("open_clip_bpe", config.model.text.context_length)
    device, templates = torch.device("cpu"), config.eval.templates
    ours = zeroshot.class_embeddings(model.encode_text, tokenizer, NAMES, templates, device)
    theirs = open_clip.build_zero_shot_classifier(twin, tokenizer, NAMES, templates, None, device)
    torch.testing.assert_close(ours, theirs.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(len(NAMES)))
