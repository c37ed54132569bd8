"""Zero-shot segmentation: patch features of the value path against the embeddings of the classes' names.

The protocol of MaskCLIP (arXiv 2112.01071) as SILC's and TIPS' evaluations use it: see
:meth:`silc.model.VisionTower.value_path`; cosine with the averaged prompts, bilinear upsampling, argmax.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from silc.data.splits import MASKS, DataSet
from silc.evaluate import iou, windows
from silc.evaluate.sharding import Job, Metric
from silc.evaluate.tasks.task import TaskKind, class_embeddings
from silc.evaluate.towers import Towers


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Mean IoU, pixel accuracy, mean accuracy."""
    classes = class_embeddings(model, data, job)
    numbers = job.chosen(data.test, job.config.eval.test_images or job.config.eval.limit)
    (matrix,) = iou.measure(
        job, data.test, numbers, len(classes), lambda picture: [segment(model, picture, classes, job)]
    )
    job.notes.append(f"{len(numbers)} pictures of {data.test.title}; value path, {job.geometry.words()}")
    job.notes.append(f"background: {data.background}")
    job.details["iou"] = iou.per_class(matrix)
    yield from iou.metrics(matrix)


def segment(model: Towers, picture: Tensor, classes: Tensor, job: Job) -> Tensor:
    """Class of each pixel: uint8 [H, W, 3] and unit-length [C, D] -> int64 [H, W]."""
    image = windows.resized(picture, job.geometry.short_side, model.patch).to(model.device)
    scores = windows.slide(image, job.geometry, lambda crops: cosines(model.values(crops), classes))
    return windows.best_class(scores, tuple(picture.shape[:2]))


def cosines(features: Tensor, classes: Tensor) -> Tensor:
    """Unit-length [n, h, w, D] and [C, D] -> [n, C, h, w]."""
    return (features @ classes.T).permute(0, 3, 1, 2)


TASK = TaskKind("zeroshot_segmentation", "segmentation", frozenset({MASKS}), run)
