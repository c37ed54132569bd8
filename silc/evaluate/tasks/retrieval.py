"""Retrieval: the captions of an image among all captions, and the image of a caption among all images; R@1, 5 and 10.

A query is a hit at k when one of its right candidates is among the k most similar. Equal captions are one candidate and
belong to all their images, so that finding the equal caption of another image is a hit. A wrong candidate that is as
similar as the best right one ranks before it: a model that gives every pair the same similarity scores zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from silc.data.splits import CAPTIONS, DataSet
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import Job
from silc.evaluate.tasks.task import Task, image_features, text_features
from silc.evaluate.towers import Towers
from silc.text import plural

AT = (1, 5, 10)
ROWS = 1024  # queries compared with all candidates at a time


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """R@1, R@5 and R@10, image to text and text to image."""
    wanted = {index: data.test.captions(index) for index in job.chosen(data.test)}
    indices = [index for index, captions in wanted.items() if captions]
    kept, images = image_features(model, data.test, indices, job)
    captions = [wanted[index] for index in kept]
    distinct = list(dict.fromkeys(caption for row in captions for caption in row))
    texts = text_features(model, distinct, job)
    job.notes.append(
        f"{plural(len(kept), 'image')} of {data.test.title}, whole, at {model.size} px; "
        f"{plural(sum(map(len, captions)), 'caption')}, {len(distinct):,} distinct; equal captions are one candidate"
    )
    groups = job.resamples(data.test, kept).groups.tolist()
    yield from recalls(images.to(model.device), texts.to(model.device), captions, distinct, groups)


def recalls(
    images: Tensor,
    texts: Tensor,
    captions: Sequence[Sequence[str]],
    distinct: Sequence[str],
    groups: Sequence[int] | None = None,
) -> list[Metric]:
    """Recalls of unit-length features.

    Args:
        images: [n, D].
        texts: [m, D], of the distinct captions.
        captions: of each image.
        distinct: the distinct captions, in the order of `texts`.
        groups: of the images, for the errors: queries are drawn by the group of their image, candidates stay; None:
            each image by itself.
    """
    place = {caption: i for i, caption in enumerate(distinct)}
    of_image = [sorted({place[caption] for caption in row}) for row in captions]
    of_text: list[list[int]] = [[] for _ in distinct]
    for image, row in enumerate(of_image):
        for text in row:
            of_text[text].append(image)
    asked = [place[caption] for row in captions for caption in row]  # a caption is a query as often as it occurs
    image_ranks, text_ranks = ranks(images, texts, of_image), ranks(texts, images, of_text)[asked]
    out = []
    groups = range(len(images)) if groups is None else groups
    asking = [group for group, row in zip(groups, captions, strict=True) for _ in row]
    for name, found, owners, candidates, queries in (
        ("image_to_text", image_ranks, of_image, len(distinct), groups),
        ("text_to_image", text_ranks, [of_text[text] for text in asked], len(images), asking),
    ):
        hits = (found[:, None] < torch.tensor(AT)).double()
        errors = Resamples(queries).of_means(hits)
        for k, share, error in zip(AT, hits.mean(0).tolist(), errors, strict=True):
            guess = sum(chance(len(own), candidates, k) for own in owners) / len(owners)
            out.append(Metric(f"{name}_r{k}", share, guess, error))
    return out


def ranks(queries: Tensor, candidates: Tensor, own: Sequence[Sequence[int]]) -> Tensor:
    """How many wrong candidates rank before the best right one: int64 [len(queries)] on the CPU.

    own: indices of each query's right candidates, at least one.
    """
    found = []
    for first in range(0, len(queries), ROWS):
        similarity = queries[first : first + ROWS] @ candidates.T
        right = torch.zeros_like(similarity, dtype=torch.bool)
        for row, indices in enumerate(own[first : first + ROWS]):
            right[row, list(indices)] = True
        best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        found.append((~right & (similarity >= best)).sum(1).cpu())
    return torch.cat(found)


def chance(own: int, candidates: int, k: int) -> float:
    """Probability that k candidates drawn at random include one of the `own` right ones."""
    missed = 1.0
    for drawn in range(min(k, candidates)):
        missed *= max(0, candidates - own - drawn) / (candidates - drawn)
    return 1 - missed


TASK = Task("retrieval", "retrieval", frozenset({CAPTIONS}), run)
