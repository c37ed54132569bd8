"""Where the images of a run come from: the user's shards, or the embedded sample set when none are named."""

from __future__ import annotations

from pathlib import Path

from silc.config import Config
from silc.config_rules import own_data
from silc.distributed import World
from silc.evaluate.datasets import EvalData, find_data, sample_set


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
