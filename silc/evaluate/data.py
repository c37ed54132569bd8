"""What a run is evaluated on: the data sets that the configuration names, or the embedded sample set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from silc.config import Config
from silc.data.layouts import check_labels, open_data_set, read_names
from silc.data.sample import SampleSet, ensure_sample
from silc.data.sample_concepts import with_article
from silc.data.shards import Unreadable
from silc.data.splits import LABELS, MASKS, DataSet, Split, TarSplit
from silc.distributed import World, barrier
from silc.evaluate.task import TaskKind


@dataclass(frozen=True)
class EvalData:
    """A data set for each kind of task; None where there is none."""

    classification: DataSet | None
    retrieval: DataSet | None
    segmentation: DataSet | None

    @property
    def empty(self) -> bool:
        """Nothing at all."""
        return self.classification is None and self.retrieval is None and self.segmentation is None

    def of(self, task: TaskKind) -> DataSet | None:
        """The one a task is measured on."""
        return getattr(self, task.data)

    def why_not(self, task: TaskKind) -> str | None:
        """What the data lacks for a task, in words; None where it can be measured."""
        data = self.of(task)
        if data is None:
            return f"no data set (eval.{task.data})"
        lacking = task.missing(data)
        return f"{data.name} has no {' and no '.join(lacking)}" if lacking else None


def resolve_data(config: Config, sample: SampleSet | None) -> EvalData:
    """The data sets of a run. sample: taken where the configuration names nothing; None: nothing is.

    Raises ValueError for what an evaluation would trip over: a missing file, an empty split, labels or masks without a
    name in the class list.
    """
    evaluation = config.eval
    classes = None if evaluation.classes is None else read_names(Path(evaluation.classes), "eval.classes")
    default = None
    if evaluation.shards:
        default = _own(config, classes)
    elif sample is not None:
        default = _of_sample(config, sample)
    named = (evaluation.classification, evaluation.retrieval, evaluation.segmentation)
    if classes is not None and not evaluation.shards and not any(named):
        raise ValueError("eval.shards and eval.classes go together: pictures with a `class` number, and their names")
    sets = [default if spec is None else open_data_set(spec, config.data, classes) for spec in named]
    for split in {id(one.test): one.test for one in sets if one is not None}.values():
        _check_readable(split)
    if sets[2] is not None and MASKS in sets[2].test.has:
        sets[2].test.mask(0)  # a class list that does not fit shows on the first mask as a rule
    return EvalData(*sets)


def _check_readable(split: Split) -> None:
    """Raises ValueError for a split without a single picture that can be read."""
    for number in range(len(split)):
        try:
            split.picture(number)
            return
        except Unreadable as error:
            last = f"{split.key(number)}: {error}"
    raise ValueError(f"{split.title}: none of its {len(split)} pictures can be read; the last one, {last}")


def _own(config: Config, classes: tuple[str, ...] | None) -> DataSet:
    evaluation = config.eval
    if classes is None:
        raise ValueError(
            "eval.shards and eval.classes go together: pictures with a `class` number, and the names of the classes"
        )
    test = TarSplit(config.data, evaluation.shards, title="eval.shards", classes=len(classes))
    if LABELS not in test.has and evaluation.classification is None:
        raise ValueError(f"eval.shards={evaluation.shards}: no picture has a `class` number in its json")
    try:
        check_labels(test, len(classes))
    except ValueError as error:
        raise ValueError(f"eval.shards: {error} to eval.classes={evaluation.classes}") from None
    return DataSet("eval.shards", classes, test)


def _of_sample(config: Config, sample: SampleSet) -> DataSet:
    """Concepts of training drawn by an artist that training never saw; the training scenes to fit to."""
    names = tuple(with_article(name) for name in sample.class_names("unseen_artist"))
    count = len(names)
    test = TarSplit(config.data, sample.shards("unseen_artist"), title="the unseen artist", classes=count)
    train = TarSplit(
        config.data, sample.shards("train"), title="the training scenes", classes=count, single_objects=True
    )
    background = "pixels outside the objects are not counted"
    return DataSet("the unseen artist", names, test, train, ("{}", "a drawing of {}"), background)


def sample_set(config: Config, world: World, root: Path) -> SampleSet:
    """The sample set, rendered by rank 0 on first use (collective)."""

    def ensure() -> SampleSet:
        return ensure_sample(root, concepts=config.data.sample_concepts, scenes_train=config.data.sample_scenes)

    if world.main:
        ensure()
    barrier()
    return ensure()
