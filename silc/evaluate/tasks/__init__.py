"""The tasks by name."""

from __future__ import annotations

from silc.evaluate.tasks import (
    fewshot,
    retrieval,
)
from silc.evaluate.tasks import (
    linear_segmentation as probe,
)
from silc.evaluate.tasks import (
    open_vocabulary_segmentation as open_vocabulary,
)
from silc.evaluate.tasks import (
    zeroshot_classification as classification,
)
from silc.evaluate.tasks import (
    zeroshot_segmentation as segmentation,
)
from silc.evaluate.tasks.task import TaskKind

TASKS: dict[str, TaskKind] = {
    module.TASK.name: module.TASK
    for module in (classification, fewshot, retrieval, segmentation, probe, open_vocabulary)
}
