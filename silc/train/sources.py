"""Where a run's pictures come from: the user's shards, or the embedded sample set when none are named."""

from __future__ import annotations

from pathlib import Path

from silc.config import Config
from silc.distributed import World
from silc.evaluate.datasets import EvalData, resolve_data, sample_set


def resolve(config: Config, world: World, data_root: Path) -> tuple[list[str], EvalData | None]:
    """Training shards and what to evaluate on (None: nothing). Renders the sample set on first use, on one rank.

    Raises ValueError for what evaluation would trip over when training is done, see
    :func:`silc.evaluate.datasets.resolve_data`.
    """
    shards = list(config.data.shards)
    sample = None if shards else sample_set(config, world, data_root)
    data = resolve_data(config, sample)
    return shards or sample.shards("train"), None if data.empty else data
