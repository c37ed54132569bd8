"""Where a run's pictures come from: the user's shards, or the embedded sample set when none are named."""

from __future__ import annotations

from pathlib import Path

from silc.config import Config
from silc.data.sample import SampleSet, ensure_sample
from silc.data.sample_concepts import with_article
from silc.distributed import World, barrier
from silc.evaluate.final import Suite, read_classes


def resolve(config: Config, world: World, data_root: Path) -> tuple[list[str], Suite | None]:
    """Training shards and what to evaluate on (None: nothing). Renders the sample set on first use, on one rank.

    Raises ValueError when evaluation shards come without class names, or the other way round.
    """
    shards, suite = list(config.data.shards), None
    if config.eval.shards or config.eval.classes:
        if not (config.eval.shards and config.eval.classes):
            raise ValueError(
                "eval.shards and eval.classes go together: pictures with a `class` number, and the names of the classes"
            )
        suite = Suite("eval.shards", config.eval.shards, read_classes(config.eval.classes))
    if shards:
        return shards, suite
    if world.main:
        _sample(config, data_root)
    barrier()
    sample = _sample(config, data_root)
    if suite is None:
        split = "unseen_artist"
        suite = Suite(
            "the unseen artist", sample.shards(split), [with_article(name) for name in sample.class_names(split)]
        )
    return sample.shards("train"), suite


def _sample(config: Config, root: Path) -> SampleSet:
    return ensure_sample(root, concepts=config.data.sample_concepts, scenes_train=config.data.sample_scenes)
