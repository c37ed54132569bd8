"""Retrieval: the captions of a picture among all captions, and the picture of a caption among all pictures; R@1, 5, 10.

A query is a hit at k when one of its own stands among the k most similar. Equal captions are one candidate and belong
to all their pictures, so that finding another picture's equal caption is a hit. A wrong candidate that is as similar as
the best right one stands before it: a model that finds everything alike gets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from silc.data.splits import CAPTIONS, DataSet
from silc.evaluate.sharding import Job, Metric
from silc.evaluate.tasks.task import TaskKind
from silc.evaluate.towers import TEXTS, Towers

AT = (1, 5, 10)
ROWS = 1024  # queries compared at a time


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """R@1, R@5, R@10, both ways."""
    wanted = {number: data.test.captions(number) for number in job.chosen(data.test)}
    numbers = [number for number, captions in wanted.items() if captions]
    kept, images = job.over_pictures(data.test, numbers, model.size, model.images)
    captions = [wanted[number] for number in kept]
    distinct = list(dict.fromkeys(caption for row in captions for caption in row))
    chunks = [distinct[first : first + TEXTS] for first in range(0, len(distinct), TEXTS)]
    texts = torch.cat(job.each(chunks, lambda chunk: model.texts(chunk).cpu()))
    job.notes.append(
        f"{len(kept)} pictures of {data.test.title}, whole, at {model.size} px; {sum(map(len, captions))} captions, "
        f"{len(distinct)} distinct; equal captions are one candidate"
    )
    yield from recalls(images.to(model.device), texts.to(model.device), captions, distinct)


def recalls(images: Tensor, texts: Tensor, captions: Sequence[Sequence[str]], distinct: Sequence[str]) -> list[Metric]:
    """Recalls of unit-length features.

    Args:
        images: [n, D].
        texts: [m, D], of the distinct captions.
        captions: of each picture.
        distinct: the distinct captions, in the order of `texts`.
    """
    place = {caption: i for i, caption in enumerate(distinct)}
    of_image = [sorted({place[caption] for caption in row}) for row in captions]
    of_text: list[list[int]] = [[] for _ in distinct]
    for image, row in enumerate(of_image):
        for text in row:
            of_text[text].append(image)
    asked = [place[caption] for row in captions for caption in row]  # a caption asks as often as it stands there
    image_ranks, text_ranks = ranks(images, texts, of_image), ranks(texts, images, of_text)[asked]
    out = []
    for name, found, owners, candidates in (
        ("image_to_text", image_ranks, of_image, len(distinct)),
        ("text_to_image", text_ranks, [of_text[text] for text in asked], len(images)),
    ):
        for k in AT:
            share = (found < k).double().mean().item()
            guess = sum(chance(len(own), candidates, k) for own in owners) / len(owners)
            out.append(Metric(f"{name}_r{k}", share, guess))
    return out


def ranks(queries: Tensor, candidates: Tensor, own: Sequence[Sequence[int]]) -> Tensor:
    """How many wrong candidates stand before the best right one: int64 [len(queries)] on the CPU.

    own: numbers of each query's right candidates, at least one.
    """
    found = []
    for first in range(0, len(queries), ROWS):
        similarity = queries[first : first + ROWS] @ candidates.T
        right = torch.zeros_like(similarity, dtype=torch.bool)
        for row, numbers in enumerate(own[first : first + ROWS]):
            right[row, list(numbers)] = True
        best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        found.append((~right & (similarity >= best)).sum(1).cpu())
    return torch.cat(found)


def chance(own: int, candidates: int, k: int) -> float:
    """Probability that k of `candidates` drawn at random hold one of `own`."""
    missed = 1.0
    for drawn in range(min(k, candidates)):
        missed *= max(0, candidates - own - drawn) / (candidates - drawn)
    return 1 - missed


TASK = TaskKind("retrieval", "retrieval", frozenset({CAPTIONS}), run)
