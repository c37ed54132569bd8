"""The contrastive loss of the model on pairs that it is not trained on: CLIP's softmax or SigLIP's sigmoid loss.

Pairs are compared in blocks of eval.loss_pairs: the loss depends on how many there are, and neither the batch of the
training nor the number of ranks changes them. Scale and bias are the model's own. Sources: CLIP (arXiv 2103.00020,
figure 3), SigLIP (arXiv 2303.15343, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from silc.data.splits import CAPTIONS, DataSet
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import Job
from silc.evaluate.tasks.task import Task, image_features, text_features
from silc.evaluate.towers import Scale, Towers
from silc.text import plural
from silc_kernels.contrastive.naive import contrastive_loss


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """The mean over blocks; lower is better."""
    if model.scale is None:
        raise ValueError(f"{TASK.unfit(model)}; build the towers with it")
    split = data.test
    first = {index: captions[0] for index in job.chosen(split) if (captions := split.captions(index))}
    kept, images = image_features(model, split, list(first), job)
    if len(kept) < 2:
        raise ValueError(f"{split.title}: a contrastive loss needs two pairs or more, and there is {len(kept)}")
    distinct = {caption: row for row, caption in enumerate(dict.fromkeys(first[index] for index in kept))}
    texts = text_features(model, list(distinct), job)
    rows = torch.tensor([distinct[first[index]] for index in kept])
    size, blocks = blocks_of(len(kept), job.config.eval.loss_pairs)
    job.notes += _protocol(model, split.title, len(kept), size, len(blocks))
    scale = model.scale

    def loss(block: Tensor) -> float:
        return block_loss(images[block].to(model.device), texts[rows[block]].to(model.device), scale)

    yield Metric("loss", float(np.mean(job.each(blocks, loss))), chance(size, scale))


def blocks_of(pairs: int, wanted: int) -> tuple[int, list[Tensor]]:
    """The pairs of a block, and which they are: int64 [size] for each block.

    In an order that is random and always the same, since files are often sorted by what they show. The pairs beyond the
    last whole block are left out; where there are fewer than `wanted`, all of them are one block.
    """
    size = min(wanted, pairs)
    order = torch.from_numpy(np.random.default_rng(0).permutation(pairs))
    return size, list(order[: pairs // size * size].split(size))


def block_loss(images: Tensor, texts: Tensor, scale: Scale) -> float:
    """The loss of n pairs, from unit-length features fp32 [n, D]."""
    multiplier = torch.tensor(scale.multiplier, device=images.device)
    if scale.bias is None:
        return contrastive_loss(images, texts, multiplier, kind="softmax").item()
    bias = torch.tensor(scale.bias, device=images.device)
    return contrastive_loss(images, texts, multiplier, bias, kind="sigmoid").item()


def chance(pairs: int, scale: Scale) -> float:
    """The least loss of a model that tells no pair from another, that is, has one logit for all.

    softmax: log n. sigmoid: the logit is that of a share of 1 / n, log n + (n - 1) log(n / (n - 1)).
    """
    return math.log(pairs) + (0 if scale.bias is None else (pairs - 1) * math.log(pairs / (pairs - 1)))


def _protocol(model: Towers, title: str, pairs: int, size: int, blocks: int) -> list[str]:
    assert model.scale is not None
    multiplier, bias = model.scale
    kind = (
        f"softmax loss, scale {multiplier:.4g}"
        if bias is None
        else f"sigmoid loss, scale {multiplier:.4g}, bias {bias:.4g}"
    )
    over = pairs - size * blocks
    notes = [
        f"{plural(pairs, 'pair')} of {title}: whole images at {model.size} px, the first caption of each",
        f"{kind}; {plural(blocks, 'block')} of {size:,} pairs, drawn once and always the same",
        "an equal caption of another image counts as wrong, as in training",
    ]
    return notes + ([f"{plural(over, 'pair')} beyond the last whole block left out"] if over else [])


TASK = Task("validation_loss", "retrieval", frozenset({CAPTIONS}), run, scaled=True)
