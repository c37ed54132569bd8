"""Zero-shot segmentation: patch features of the value path against the embeddings of the classes' names.

The protocol of MaskCLIP (arXiv 2112.01071) as the evaluations of SILC and TIPS use it: features of
:meth:`silc.model.VisionTower.value_path`, cosine with the averaged prompts, bilinear upsampling, argmax.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from silc.data.splits import MASKS, DataSet
from silc.evaluate.metric import Metric
from silc.evaluate.segmentation import iou, windows
from silc.evaluate.segmentation.measure import measure
from silc.evaluate.sharding import Job
from silc.evaluate.tasks.task import Task, class_embeddings
from silc.evaluate.towers import Towers
from silc.text import plural


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Mean IoU, pixel accuracy, mean accuracy, and the measures among the classes present."""
    classes = class_embeddings(model, data, job)
    indices = job.chosen(data.test, job.config.eval.test_images or None)
    scores = lambda crops: cosines(model.values(crops), classes)  # noqa: E731
    measured = measure(job, data.test, indices, len(classes), model.patch, scores, among_present=True)
    job.notes.append(f"{plural(len(indices), 'image')} of {data.test.title}; value path, {job.geometry.words()}")
    job.notes.append(f"background: {data.background}")
    job.details["iou"] = iou.per_class(iou.total(measured.rows[0], len(classes)))
    yield from measured.metrics(job)


def segment(model: Towers, image: Tensor, classes: Tensor, job: Job) -> Tensor:
    """Class of each pixel: uint8 [H, W, 3] and unit-length [C, D] -> int64 [H, W]."""
    return windows.best_class(score_maps(model, image, classes, job), tuple(image.shape[:2]))


def score_maps(model: Towers, image: Tensor, classes: Tensor, job: Job) -> Tensor:
    """Score of each class at each pixel of the resized image: uint8 [H, W, 3] and unit-length [C, D] -> [C, h, w]."""
    pixels = windows.resized(image, job.geometry.short_side, model.patch).to(model.device)
    return windows.slide(pixels, job.geometry, lambda crops: cosines(model.values(crops), classes))


def cosines(features: Tensor, classes: Tensor) -> Tensor:
    """Unit-length [n, h, w, D] and [C, D] -> [n, C, h, w]."""
    return (features @ classes.T).permute(0, 3, 1, 2)


TASK = Task("zeroshot_segmentation", "segmentation", frozenset({MASKS}), run)
