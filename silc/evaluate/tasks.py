"""The tasks by name."""

from __future__ import annotations

from silc.evaluate import classification, fewshot, open_vocabulary, probe, retrieval, segmentation
from silc.evaluate.task import TaskKind

TASKS: dict[str, TaskKind] = {
    module.TASK.name: module.TASK
    for module in (classification, fewshot, retrieval, segmentation, probe, open_vocabulary)
}
