"""What a run is evaluated on: the data sets that the configuration names, or the embedded sample set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silc.config import IMAGENET, Config, DataConfig
from silc.data import imagenet
from silc.data.layouts import WITHOUT_A_LIST, check_labels, open_data_set, read_names
from silc.data.sample_set.cache import SampleSet, ensure_sample
from silc.data.sample_set.concepts import with_article
from silc.data.shards import Unreadable
from silc.data.splits import CAPTIONS, LABELS, MASKS, DataSet, Split, TarSplit, image_and_mask
from silc.distributed import World, barrier
from silc.evaluate.segmentation.windows import geometry
from silc.evaluate.tasks import TASKS
from silc.evaluate.tasks.task import Task
from silc.text import plural

SPLIT_TITLES = {
    "unseen_artist": "the unseen artist",
    "unseen_concept": "the unseen concepts",
    "both": "unseen concepts by the unseen artist",
    "new_scenes": "new scenes",
}
KINDS = ("classification", "retrieval", "segmentation")


@dataclass(frozen=True)
class EvalData:
    """The data set of each kind of task; None: tasks of that kind are left out."""

    classification: DataSet | None
    retrieval: DataSet | None
    segmentation: DataSet | None

    @property
    def empty(self) -> bool:
        """Whether there is no data set at all."""
        return self.classification is None and self.retrieval is None and self.segmentation is None

    def of(self, task: Task) -> DataSet | None:
        """The data set that a task is measured on."""
        return getattr(self, task.data)

    def why_not(self, task: Task) -> str | None:
        """What the data lacks for a task, in words; None where the task can be measured."""
        data = self.of(task)
        if data is None:
            return f"no data set (eval.{task.data})"
        lacking = task.missing(data)
        return f"{data.name} has no {' and no '.join(lacking)}" if lacking else None


def _specs(config: Config) -> dict[str, str | None]:
    """LAYOUT:FOLDER of each kind of data; None where the configuration names none."""
    evaluation = config.eval
    return dict(zip(KINDS, (evaluation.classification, evaluation.retrieval, evaluation.segmentation), strict=True))


def needs_default(config: Config, tasks: Sequence[str]) -> bool:
    """Whether one of the tasks is measured on data for which the configuration names no LAYOUT:FOLDER."""
    return any(_specs(config)[TASKS[name].data] is None for name in tasks)


def resolve_data(config: Config, sample: SampleSet | None, tasks: Sequence[str] = tuple(TASKS)) -> EvalData:
    """The data sets that a run is evaluated on.

    Args:
        config: of the run.
        sample: used where the configuration names neither LAYOUT:FOLDER nor eval.shards; None: no data set there.
        tasks: the tasks to measure; data of other tasks is not opened.

    Raises ValueError for data that an evaluation would fail on: a missing file, an empty split, labels or masks without
    a name in the class list, windows that leave pixels out.
    """
    evaluation = config.eval
    geometry(config)  # for its ValueError
    classes = _class_names(evaluation.classes)
    specs = _specs(config)
    nameless = [spec for spec in specs.values() if spec is not None and spec.partition(":")[0] in WITHOUT_A_LIST]
    if classes is not None and not evaluation.shards and not nameless:
        raise ValueError(
            f"eval.classes={evaluation.classes} has no effect: it goes together with eval.shards, or with an "
            "imagefolder, imagenet, masks or wds data set; other layouts have a class list of their own; give one of "
            "these, or eval.classes=null"
        )
    default = None
    if evaluation.shards and needs_default(config, tasks):
        default = _own(config, classes, alone=not nameless)
    elif sample is not None and needs_default(config, tasks):
        default = of_sample(config, sample)
    asked = {TASKS[name].data for name in tasks}
    sets: dict[str, DataSet | None] = dict.fromkeys(KINDS)
    for kind, spec in specs.items():
        if kind in asked:
            sets[kind] = default if spec is None else _open(config, spec, classes)
    for split in {id(one.test): one.test for one in sets.values() if one is not None}.values():
        _check_readable(split)
    segmented = sets["segmentation"]
    if segmented is not None and MASKS in segmented.test.has and segmented.classes:
        _check_first_mask(segmented.test)
    return EvalData(**sets)


def _class_names(path: str | None) -> tuple[str, ...] | None:
    """Those of eval.classes."""
    if path is None:
        return None
    return imagenet.class_names() if path == IMAGENET else read_names(Path(path), "eval.classes")


def _open(config: Config, spec: str, classes: tuple[str, ...] | None) -> DataSet:
    """The data set of a LAYOUT:FOLDER. With eval.shards, the names of eval.classes are theirs and not ImageNet's."""
    evaluation = config.eval
    theirs = bool(evaluation.shards) and spec.partition(":")[0] == "imagenet"
    return open_data_set(spec, config.data, None if theirs else classes, upright=evaluation.upright)


def _check_readable(split: Split) -> None:
    """Raises ValueError for a split without a single image that can be read."""
    last = "the split is empty"
    for index in range(len(split)):
        try:
            split.image(index)
            return
        except Unreadable as error:
            last = f"the last one is {split.key(index)}: {error}"
    raise ValueError(f"{split.title}: none of its {plural(len(split), 'image')} can be read; {last}")


def _check_first_mask(split: Split) -> None:
    """Raises ValueError where the first mask does not fit the class list or its image; mostly it shows what all are."""
    try:
        image_and_mask(split, 0)
    except Unreadable:
        return  # left out and counted in the measurement


def _own(config: Config, classes: tuple[str, ...] | None, *, alone: bool) -> DataSet:
    """Of eval.shards: without class names, for pairs alone. alone: whether eval.classes can name their classes only."""
    evaluation, count = config.eval, len(classes or ())
    test = TarSplit(config.data, evaluation.shards, title="eval.shards", classes=count, upright=evaluation.upright)
    named = f"eval.shards={evaluation.shards}"
    if classes is None and CAPTIONS not in test.has:
        if test.has & {LABELS, MASKS}:
            raise ValueError(
                "eval.shards and eval.classes go together where images have classes: give eval.classes=FILE, one name "
                "per line, or eval.classes=imagenet for ImageNet's 1,000"
            )
        raise ValueError(
            f"{named}: no image has a caption ({config.data.caption_key}), a `class` number in its json or a mask; add "
            "them, or set data.caption_key"
        )
    if classes is not None:
        _check_own_classes(config, test, count, named if alone else None)
    return imagenet.with_prompts(DataSet("eval.shards", classes or (), test))


def _check_own_classes(config: Config, test: TarSplit, count: int, named: str | None) -> None:
    """Raises ValueError where eval.classes names too few classes, or those that no image has.

    named: the shards, in words; None: the names may be another data set's.
    """
    if named is not None and not test.has & {LABELS, MASKS} and config.eval.classification is None:
        raise ValueError(
            f"{named}: no image has a `class` number in its json; add them, or give eval.classification=LAYOUT:FOLDER, "
            "or leave out eval.classes to measure on image-caption pairs alone"
        )
    try:
        check_labels(test, count)
    except ValueError as error:
        raise ValueError(f"{error} to eval.classes={config.eval.classes}") from None


def of_sample(config: Config, sample: SampleSet) -> DataSet:
    """Test: the split of eval.sample_split. Train: the training scenes, where they show the concepts of that split."""
    split = config.eval.sample_split
    title = SPLIT_TITLES[split]
    names = tuple(with_article(name) for name in sample.class_names(split))
    count = len(names)
    test = TarSplit(config.data, sample.shards(split), title=title, classes=count)
    train = TarSplit(
        config.data, sample.shards("train"), title="the training scenes", classes=count, single_objects=True
    )
    seen = sample.class_names(split) == sample.class_names("train")
    background = "pixels outside the objects are not counted"
    return DataSet(title, names, test, train if seen else None, ("{}", "a drawing of {}"), background)


def find_data(
    config: Config, world: World, root: Path, tasks: Sequence[str] = tuple(TASKS), *, on_sample: bool
) -> EvalData:
    """The data sets of `tasks`; the sample set where the configuration names none and the model was trained on it.

    Args:
        config: the run's.
        world: its ranks, which must all call this; the first one renders the sample set on first use.
        root: of the sample set.
        tasks: what is to be measured.
        on_sample: whether the model was trained on the sample set.

    Raises ValueError as :func:`resolve_data` does.
    """
    wanted = on_sample and not config.eval.shards and needs_default(config, tasks)
    return resolve_data(config, sample_set(config, world, root) if wanted else None, tasks)


def sample_settings(data: DataConfig) -> dict[str, Any]:
    """A configuration's arguments of :func:`ensure_sample`."""
    return {
        "concepts": data.sample_concepts,
        "scenes_train": data.sample_scenes,
        "scenes_eval": data.sample_test_scenes,
        "captions": data.sample_captions,
        "left_out": data.sample_left_out,
        "mismatched": data.sample_mismatched,
        "objects": data.sample_objects,
        "unseen": data.sample_unseen,
    }


def sample_in_words(data: DataConfig) -> str:
    """How many training scenes of the sample set there are, and their captions where these are web-like."""
    scenes = plural(data.sample_scenes, "scene")
    if data.sample_captions == "clean":
        return scenes
    left_out, mismatched = (f"{100 * share:.3g}%" for share in (data.sample_left_out, data.sample_mismatched))
    return (
        f"{scenes} with web-like captions (of the objects {left_out} are not named, of the captions {mismatched} are "
        "another image's)"
    )


def sample_set(config: Config, world: World, root: Path) -> SampleSet:
    """The sample set under `root`, rendered by rank 0 on first use (collective)."""

    def ensure() -> SampleSet:
        return ensure_sample(root, **sample_settings(config.data))

    if world.main:
        ensure()
    barrier()
    return ensure()
