"""The evaluation of a run: zero-shot top-1 of student and teacher on held-out pictures, and a sheet of them with
captions.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from silc.config import Config
from silc.data import EvalSet, build_tokenizer
from silc.distributed import World, all_gather_objects, barrier
from silc.evaluate import zeroshot
from silc.evaluate.picture import draw
from silc.model.silc import SilcModel

SHEET_POOL = 1024  # pictures whose captions compete on the sheet


@dataclass(frozen=True)
class Suite:
    """What to measure on: shards with a `class` in the json of the pictures to classify, and the classes' names."""

    name: str
    shards: list[str]
    classes: list[str]


def run(
    config: Config, suite: Suite, world: World, student: SilcModel, teacher: nn.Module | None
) -> dict[str, dict[str, float]]:
    """Zero-shot classification by student and, with the student's text tower, by teacher (collective).

    Changes no state.
    """
    share = EvalSet(
        config.data,
        suite.shards,
        size=config.views.global_size,
        batch=config.eval.batch,
        rank=world.rank,
        world=world.size,
    )
    tokenizer = build_tokenizer(config.data.tokenizer, config.model.text.context_length)
    classes = zeroshot.class_embeddings(
        student.encode_text, tokenizer, suite.classes, config.eval.templates, world.device
    )
    rounds = max(all_gather_objects(-(-len(share) // config.eval.batch)))
    encoders = {"student": student.encode_image}
    if teacher is not None and teacher.visual is not None:
        encoders["teacher"] = lambda images: teacher.visual([images])[0]
    out = {}
    for name, encode in encoders.items():
        scored = zeroshot.gather(zeroshot.score(encode, classes, share, rounds))
        skipped = sum(all_gather_objects(len(share.skipped)))
        out[name] = zeroshot.accuracy(scored, len(suite.classes)) | {"skipped": skipped}
    return out


def result_lines(suite: Suite, results: dict[str, dict[str, float]]) -> str:
    """The results in words, chance beside them."""
    lines = []
    for who, values in results.items():
        times = values["top1"] / values["chance"]
        lines.append(
            f"zero-shot on {suite.name}, {who}: top-1 {values['top1']:.3f} ({times:.1f} x chance "
            f"{values['chance']:.4f}), top-5 {values['top5']:.3f}, "
            f"mean per class {values['mean_per_class']:.3f}; {len(suite.classes)} classes, {values['pictures']} "
            "pictures" + (f", {values['skipped']} unreadable ones skipped" if values["skipped"] else "")
        )
    return "\n".join(lines)


@torch.no_grad()
def sheet(config: Config, suite: Suite, world: World, student: SilcModel, path: Path, count: int = 24) -> None:
    """Draw held-out pictures with the captions closest to them among those of the first pictures read (collective)."""
    split = EvalSet(config.data, suite.shards, size=config.views.global_size, batch=config.eval.batch)
    batches = list(itertools.islice(split, -(-SHEET_POOL // config.eval.batch)))
    images = torch.cat([batch.images for batch in batches])
    captions = [_words(*pair, suite) for batch in batches for pair in zip(batch.captions, batch.infos, strict=True)]
    shown = torch.linspace(0, len(images) - 1, min(count, len(images))).long()
    candidates = sorted(set(captions))
    tokenizer = build_tokenizer(config.data.tokenizer, config.model.text.context_length)
    text = zeroshot.class_embeddings(student.encode_text, tokenizer, candidates, ["{}"], world.device)
    features = F.normalize(student.encode_image(images[shown].to(world.device)).float(), dim=-1)
    top = (features @ text.T).topk(min(3, len(candidates)), dim=-1)
    if world.main:
        rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        guesses = [[(candidates[i], value) for i, value in zip(row, values, strict=True)] for row, values in rows]
        title = f"{suite.name}: closest of {len(candidates)} captions (preset {config.preset})"
        draw(images[shown], [captions[i] for i in shown.tolist()], guesses, title, path)
    barrier()


def _words(caption: str, info: dict[str, Any], suite: Suite) -> str:
    """What a picture shows: its caption, or the name of its class where it has none."""
    return caption or (suite.classes[int(info["class"])] if info.get("class") is not None else "")


def write_json(results: dict[str, Any], path: Path) -> None:
    """Keep the results beside the run."""
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def read_classes(path: str) -> list[str]:
    """Class names, one a line. Raises ValueError when there is none."""
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"cannot read eval.classes={path}: {error.strerror}") from None
    if not names:
        raise ValueError(f"eval.classes={path} names no class")
    return names
