"""Where the images of a run come from: the user's shards, or the embedded sample set when none are named."""

from __future__ import annotations

from pathlib import Path

from silc.config import Config
from silc.distributed import World
from silc.evaluate.datasets import EvalData, find_data, sample_set


def resolve(config: Config, world: World, data_root: Path) -> tuple[list[str], EvalData | None]:
    """Training shards and what to evaluate on (None: nothing). Renders the sample set on first use, on one rank.

    Raises ValueError for data on which the evaluation after training would fail, see
    :func:`silc.evaluate.datasets.resolve_data`.
    """
    shards, on_sample = list(config.data.shards), not config.data.shards
    if on_sample:
        shards = sample_set(config, world, data_root).shards("train")
    data = find_data(config, world, data_root, on_sample=on_sample)
    return shards, None if data.empty else data
