"""Zero-shot classification: pictures against the embeddings of their classes' names (CLIP, arXiv 2103.00020, section
3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data import EvalSet, Tokenizer
from silc.distributed import all_gather_objects

EncodeImage = Callable[[Tensor], Tensor]
EncodeText = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scored:
    """One picture's outcome: its class, the classes that scored highest (best first, five at most), its key."""

    label: int
    top: tuple[int, ...]
    key: str


@torch.no_grad()
def class_embeddings(
    encode_text: EncodeText, tokenizer: Tokenizer, names: Sequence[str], templates: Sequence[str], device: torch.device
) -> Tensor:
    """Unit-length embeddings [C, D] of the classes: the mean over templates of the prompts' unit-length embeddings."""
    total = None
    for template in templates:
        tokens = tokenizer([template.format(name) for name in names]).to(device)
        each = F.normalize(encode_text(tokens).float(), dim=-1)
        total = each if total is None else total + each
    return F.normalize(total, dim=-1)


@torch.no_grad()
def score(encode_image: EncodeImage, classes: Tensor, batches: EvalSet, rounds: int) -> list[Scored]:
    """Score this rank's pictures whose json holds a `class`; others are passed over.

    rounds: forward passes that every rank makes, so that a sharded model (ZeRO-3) stays in step when shares differ in
    length.
    """
    out: list[Scored] = []
    done = 0
    for batch in batches:
        images = batch.images.to(classes.device)
        similarity = F.normalize(encode_image(images).float(), dim=-1) @ classes.T
        top = similarity.topk(min(5, len(classes)), dim=-1).indices.tolist()
        done += 1
        rows = zip(batch.infos, top, batch.keys, strict=True)
        out += [
            Scored(int(info["class"]), tuple(best), key) for info, best, key in rows if info.get("class") is not None
        ]
    for _ in range(done, rounds):
        encode_image(torch.zeros(1, 3, batches.size, batches.size, dtype=torch.uint8, device=classes.device))
    return out


def accuracy(scored: Sequence[Scored], classes: int) -> dict[str, float]:
    """top-1, top-5 and mean per class (over classes with a picture) as fractions, chance, and the number of pictures.

    Raises ValueError when nothing was scored.
    """
    if not scored:
        raise ValueError(
            "no picture of the evaluation set has a `class` in its json; name shards that do in eval.shards"
        )
    hits: dict[int, list[bool]] = {}
    for row in scored:
        hits.setdefault(row.label, []).append(row.top[0] == row.label)
    return {
        "top1": sum(row.top[0] == row.label for row in scored) / len(scored),
        "top5": sum(row.label in row.top for row in scored) / len(scored),
        "mean_per_class": sum(sum(h) / len(h) for h in hits.values()) / len(hits),
        "chance": 1 / classes,
        "pictures": len(scored),
    }


def gather(scored: list[Scored]) -> list[Scored]:
    """Every rank's outcomes, in the order of ranks."""
    return [row for rows in all_gather_objects(scored) for row in rows]
