"""Whether a checkpoint's run and this one are the same, as far as its state and its place in the data depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from silc.config import Config
from silc.config_io import to_dict
from silc.config_rules import own_data

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
    "engine.precision",
    "train.global_batch",
    "train.seed",
)
_SAMPLE_SET = ("data.sample_concepts", "data.sample_scenes")  # without a meaning beside shards of one's own


def check_same_run(saved: Config, now: Config, path: Path) -> list[str]:
    """Compare the configuration of a checkpoint with this run's.

    path: of the checkpoint.

    Whether the shards are the same does not show in their names, which change when they are moved: see
    :func:`silc.train.same_data.check_same_data`.

    Returns notes on what may differ and changes what follows: another number of steps, another limit on images.

    Raises ValueError with every key that differs, and both values.
    """
    before, after = dict(_leaves(to_dict(saved))), dict(_leaves(to_dict(now)))
    _check_kind_of_data(saved, now, path)
    fixed = [key for key in before if any(key == name or key.startswith(f"{name}.") for name in _FIXED)]
    if own_data(now):
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
    limit = "data.max_image_pixels"
    if before[limit] != after[limit]:
        notes.append(
            f"note: {limit} is {after[limit]}, it was {before[limit]}: samples that are skipped now, or no longer, are "
            "replaced by others"
        )
    return notes


def _check_kind_of_data(saved: Config, now: Config, path: Path) -> None:
    """Raises ValueError where one run trains on shards and the other on the embedded sample set."""
    if bool(own_data(saved)) == bool(own_data(now)):
        return
    was, is_now = (_named(config) for config in (saved, now))
    way = "give data.shards=... again" if own_data(saved) else "leave data.shards and data.sources out"
    raise ValueError(
        f"cannot resume from {path}, which was trained on {was}, with {is_now}: {way} (a resumed run takes its "
        "configuration from the command), or start a new run without train.resume"
    )


def _named(config: Config) -> str:
    names = own_data(config)
    if not names:
        return "the embedded sample set"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{'data.shards' if config.data.shards else 'data.sources'}={names[:8]}{more}"


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
