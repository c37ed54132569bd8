"""Where a run's pictures come from: the user's shards, or the embedded sample set when none are named."""

from __future__ import annotations

import json
from pathlib import Path

from silc.config import Config
from silc.data.sample import SampleSet, ensure_sample
from silc.data.sample_concepts import with_article
from silc.data.shards import ShardIndex, Unreadable
from silc.distributed import World, barrier
from silc.evaluate.final import Suite, read_classes


def resolve(config: Config, world: World, data_root: Path) -> tuple[list[str], Suite | None]:
    """Training shards and what to evaluate on (None: nothing). Renders the sample set on first use, on one rank.

    Raises ValueError for what evaluation would trip over when training is done: shards without class names or the other
    way round, missing shards, class numbers without a name, prompts without a place for the name.
    """
    _check_templates(config.eval.templates)
    shards, suite = list(config.data.shards), None
    if config.eval.shards or config.eval.classes:
        if not (config.eval.shards and config.eval.classes):
            raise ValueError(
                "eval.shards and eval.classes go together: pictures with a `class` number, and the names of the classes"
            )
        suite = Suite("eval.shards", config.eval.shards, read_classes(config.eval.classes))
        _check_classes(config, suite)
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


def _check_templates(templates: list[str]) -> None:
    for template in templates:
        if template.count("{}") != 1 or "{" in template.replace("{}", "") or "}" in template.replace("{}", ""):
            raise ValueError(
                f"eval.templates: {template!r} must hold {{}} once, where the class name goes, and no other brace"
            )
    if not templates:
        raise ValueError("eval.templates is empty; give at least one prompt, as in ['a {}']")


def _check_classes(config: Config, suite: Suite) -> None:
    index = ShardIndex(suite.shards, {"picture": config.data.image_keys, "json": ["json"]}, ("picture", "json"))
    known = 0
    for shard, count in enumerate(index.counts):
        for sample in range(count):
            number = _class_number(index, shard, sample)
            if number is None:
                continue
            known += 1
            if not 0 <= number < len(suite.classes):
                raise ValueError(
                    f"eval.shards: {index.key(shard, sample)} has class {number}, eval.classes={config.eval.classes} "
                    f"names 0 to {len(suite.classes) - 1}; add the missing names"
                )
    index.close()
    if not known:
        raise ValueError(f"eval.shards={suite.shards}: no picture has a `class` number in its json")


def _class_number(index: ShardIndex, shard: int, sample: int) -> int | None:
    """A picture's class, None where it has none or its json cannot be read (evaluation skips and counts it)."""
    try:
        number = json.loads(index.read(shard, sample, "json") or b"{}").get("class")
        return None if number is None else int(number)
    except (Unreadable, ValueError):
        return None


def _sample(config: Config, root: Path) -> SampleSet:
    return ensure_sample(root, concepts=config.data.sample_concepts, scenes_train=config.data.sample_scenes)
