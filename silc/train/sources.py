"""Where the images of a run come from: the user's shards, or the embedded sample set when none are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from silc.config import Config
from silc.config_rules import own_data
from silc.data.training_set import TrainingSet, open_training_set
from silc.distributed import World, all_gather_objects, first_of_machine
from silc.errors import RunStopped
from silc.evaluate.datasets import EvalData, find_data, sample_set

T = TypeVar("T")


def resolve(config: Config, world: World, data_root: Path) -> tuple[list[str] | None, EvalData | None]:
    """Training shards in place of those that the configuration names (None: those), and what to evaluate on (None:
    nothing). Renders the sample set on first use, on one rank.

    Raises ValueError for data on which the evaluation after training would fail, see
    :func:`silc.evaluate.datasets.resolve_data`.
    """
    on_sample = not own_data(config)
    shards = sample_set(config, world, data_root).shards("train") if on_sample else None
    data = find_data(config, world, data_root, on_sample=on_sample)
    return shards, None if data.empty else data


def open_everywhere(config: Config, shards: list[str] | None) -> TrainingSet:
    """The training data on every rank (collective). The first rank of each machine makes an index where one is missing,
    and the others read what it left.

    shards: see :func:`resolve`.

    Raises ValueError on every rank where any rank cannot open them.
    """
    first = together(lambda: open_training_set(config, shards) if first_of_machine() else None)
    return together(lambda: first or open_training_set(config, shards, prepared=True))


def together(make: Callable[[], T]) -> T:
    """What `make` returns, on every rank (collective). Raises ValueError on every rank where it fails on any: a rank
    that failed alone would leave the others waiting for it.
    """
    wrong = None
    try:
        made = make()
    except (ValueError, RunStopped, OSError) as error:
        wrong = str(error)
    for rank, text in enumerate(all_gather_objects(wrong)):
        if text is not None:
            raise ValueError(wrong or f"{text} (on rank {rank})")
    return made
