"""What is measured."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from silc.config.fields import STRICT, Batch, Minutes, NonNegative, Positive, PositiveFloat, Size, key

Task = Literal[
    "validation_loss",
    "zeroshot_classification",
    "fewshot",
    "retrieval",
    "zeroshot_segmentation",
    "linear_segmentation",
    "open_vocabulary_segmentation",
]
TASKS: tuple[str, ...] = get_args(Task)
# Names that eval.templates takes for a list of prompts, and whose list it is: see silc.data.prompts.
PROMPT_SETS = {
    "imagenet": "CLIP's 80 for ImageNet",
    "imagenet_simple": "CLIP's short list for ImageNet",
    "tcl": "the list of TCL, arXiv 2212.00785",
}
IMAGENET = "imagenet"  # in place of a file in eval.classes: ImageNet's 1,000 names


@dataclass(config=STRICT, kw_only=True)
class EvalConfig:
    """What is measured, at the end of a run, every `every` steps, and by `silc evaluate`."""

    every: NonNegative = key(0, "steps between evaluations; 0: only at the end")
    during: list[Task] = key(
        ["validation_loss", "zeroshot_classification", "retrieval", "zeroshot_segmentation"],
        "tasks of the evaluations on the way",
    )
    after: list[Task] = key(list(TASKS), "tasks at the end of the run; what the data cannot serve is left out")
    models: list[Literal["student", "teacher"]] = key(["student", "teacher"], "which image tower is evaluated")
    timeout_minutes: Minutes = key(30.0, "time limit of one task on one model; it is given up, training goes on")
    classification: str | None = key(
        None, "data set to classify, LAYOUT:FOLDER; null: eval.shards, or the sample set if that is trained on"
    )
    retrieval: str | None = key(None, "data set for retrieval, LAYOUT:FOLDER; null: as for classification")
    segmentation: str | None = key(None, "data set to segment, LAYOUT:FOLDER; null: as for classification")
    shards: list[str] = key(
        [],
        "WebDataset shards with captions, or with a `class` in their json, or both; empty: the sample set's unseen "
        "artist, or none with own data",
    )
    sample_split: Literal["unseen_artist", "unseen_concept", "both", "new_scenes"] = key(
        "unseen_artist", "split of the embedded sample set that is tested on"
    )
    classes: str | None = key(
        None,
        "text file with one class name per line, in the order of the class numbers; imagenet: ImageNet's 1,000 names",
    )
    templates: list[str] = key(
        [],
        "prompts, averaged; {} is the class name. The words imagenet (80 prompts), imagenet_simple (7) and tcl (9) "
        "stand for lists. Empty: those of the data set, or else ['a {}']",
    )
    upright: bool = key(
        False,
        "turn images as their EXIF orientation says; false: pixels as stored, as open_clip and torchvision read them",
    )
    batch: Batch = key(256, "images per forward pass")
    limit: NonNegative = key(0, "test images per task, a random choice that is always the same; 0: all")
    loss_pairs: Annotated[int, Field(ge=2, le=16384)] = key(
        1024, "validation loss: pairs that are compared with each other, whatever the number of ranks"
    )
    shots: list[Positive] = key([1, 5, 10], "few-shot: training images per class")
    draws: Positive = key(3, "few-shot: random choices of them, for mean and deviation")
    ridge: PositiveFloat = key(1024.0, "few-shot: weight of the ridge penalty")
    neighbours: Positive = key(20, "few-shot: neighbours that vote")
    short_side: Size | None = key(
        None, "segmentation: pixels of an image's shorter side; null: 7/4 of views.global_size (448 for 256)"
    )
    window: NonNegative | None = key(
        None, "segmentation: pixels per side of the sliding window; 0: the whole image at once; null: short_side"
    )
    stride: Size | None = key(None, "segmentation: pixels from window to window; null: 3/4 of the window")
    test_images: NonNegative = key(0, "segmentation: test images; 0: eval.limit")
    train_images: Positive = key(2048, "segmentation heads: training images")
    probe_steps: Positive = key(1000, "linear segmentation: optimiser steps")
    decoder_steps: Positive = key(500, "open-vocabulary segmentation: optimiser steps of the decoder")
    unseen_every: Annotated[int, Field(ge=2)] = key(
        4, "open-vocabulary segmentation: every N-th class is held out from the decoder's training"
    )
    contact_sheet: bool = key(True, "write a PNG of a few held-out images with their top captions")
    report: bool = key(True, "write report.html at the end of the run and by `silc evaluate`")
