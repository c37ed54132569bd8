"""Whether a checkpoint's run and this one are the same, as far as its state and its place in the data depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from silc.config import Config
from silc.config_io import to_dict

# Sections, or keys of them, that the saved tensors, the order of samples or what a position yields depend on.
_FIXED = (
    "model",
    "views",
    "objective.contrastive",
    "objective.contrastive_views",
    "objective.distill",
    "objective.head_only_ema",
    "data.sample_concepts",
    "data.sample_scenes",
    "data.image_keys",
    "data.caption_key",
    "data.tokenizer",
    "data.shuffle_block",
    "data.unique_captions",
    "optim.rules",
    "engine.zero_stage",
    "engine.precision",
    "train.global_batch",
    "train.seed",
)
_SAMPLE_SET = ("data.sample_concepts", "data.sample_scenes")  # without a meaning beside shards of one's own


def check_same_run(saved: Config, now: Config, path: Path) -> list[str]:
    """Compare the configuration of a checkpoint with this run's.

    path: of the checkpoint.

    Returns notes on what may differ and changes what follows: another number of steps, and other names of the shards
    (moved data have other names, and names do not show whether the data are the same).

    Raises ValueError with every key that differs, and both values.
    """
    before, after = dict(_leaves(to_dict(saved))), dict(_leaves(to_dict(now)))
    _check_kind_of_data(before["data.shards"], after["data.shards"], path)
    fixed = [key for key in before if any(key == name or key.startswith(f"{name}.") for name in _FIXED)]
    if before["data.shards"] and after["data.shards"]:
        fixed = [key for key in fixed if key not in _SAMPLE_SET]
    different = [key for key in fixed if before[key] != after[key]]
    if different:
        listed = "; ".join(f"{key} is {after[key]}, it was {before[key]}" for key in different)
        raise ValueError(
            f"cannot resume from {path}, which was written with other settings: {listed}. Set them as they were, or "
            "start a new run without train.resume"
        )
    notes = []
    if before["train.steps"] != after["train.steps"]:
        notes.append(
            f"note: train.steps is {after['train.steps']}, it was {before['train.steps']}: the schedule is recomputed "
            "for the new number of steps"
        )
    if before["data.shards"] != after["data.shards"]:
        notes.append(
            f"warning: data.shards is {after['data.shards']}, the checkpoint was written with {before['data.shards']}: "
            "unless they hold the same shards in the same order, the run will continue with different samples"
        )
    return notes


def _check_kind_of_data(before: list[str], after: list[str], path: Path) -> None:
    """Raises ValueError where one run trains on shards and the other on the embedded sample set."""
    if bool(before) == bool(after):
        return
    was, now = (f"data.shards={shards}" if shards else "the embedded sample set" for shards in (before, after))
    way = "give data.shards=... again" if before else "leave data.shards out"
    raise ValueError(
        f"cannot resume from {path}, which was trained on {was}, with {now}: {way} (a resumed run takes its "
        "configuration from the command), or start a new run without train.resume"
    )


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
