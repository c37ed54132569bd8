"""Whether a checkpoint's run and this one are the same, as far as its state and its place in the data depend on it; and
which other settings changed, and change what follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from silc.config import Config
from silc.config_io import to_dict
from silc.config_rules import own_data
from silc.train.own_tokenizer import is_own
from silc.train.schedule import learning_rate

Changes = dict[str, tuple[Any, Any]]
"""Key -> (value of the checkpoint, value of this run)."""

# Sections, or keys of them, that the saved tensors, the order of samples or what a position yields depend on.
_FIXED = (
    "model",
    "views",
    "objective.contrastive",
    "objective.contrastive_views",
    "objective.distill",
    "objective.ema",
    "objective.head_only_ema",
    "data.sample_concepts",
    "data.sample_scenes",
    "data.sample_captions",
    "data.sample_left_out",
    "data.sample_mismatched",
    "data.sample_objects",
    "data.sample_unseen",
    "data.image_keys",
    "data.caption_key",
    "data.caption_lines",
    "data.tokenizer",
    "data.tokenizer_clean",
    "data.shuffle_block",
    "data.unique_captions",
    "optim.rules",
    "optim.locked",
    "engine.precision",
    "train.global_batch",
    "train.seed",
)
# Of these, what changes the rounding of pixels alone: crops are the same to the last bit on either side, levels of the
# photometric list differ by one at most.
_ROUNDING = ("views.device", "views.crops_on")
# Of these, rates that no saved tensor depends on; they are named.
_RATES = ("model.vision.drop_path", "model.vision.patch_dropout")
_MAY_GROW = ("data.image_keys",)  # lists that may have more at their end: samples that had an image have the same one
# Without a meaning beside shards of one's own.
_SAMPLE_SET = tuple(key for key in _FIXED if key.startswith("data.sample_"))

# Sections, or keys of them, that are named when they differ: what is trained, or which samples, depends on them.
_NAMED = ("objective", "data", "optim", "train.steps", "train.max_bad_steps", "train.init", "train.init_model")
# Of these, what changes nothing but rounding, speed or patience; which shards are read has a check of its own.
_SILENT = (
    "objective.contrastive_plan",
    "objective.contrastive_chunk",
    "optim.optimizer",
    "data.shards",
    "data.sources",
    "data.workers",
    "data.worker_start",
    "data.prefetch",
    "data.store_minutes",
    "data.cache",
    "data.cache_gb",
    "data.allow_changed",
)
_EFFECTS = {
    "objective.init_scale": "without an effect, the scale is the checkpoint's",
    "objective.init_bias": "without an effect, the bias is the checkpoint's",
    "train.init": "without an effect, the weights are the checkpoint's",
    "train.init_model": "without an effect, the weights are the checkpoint's",
    "train.steps": "the schedule is recomputed for the new number of steps",
    "data.max_image_pixels": "samples that are skipped now, or no longer, are replaced by others",
    "data.image_keys": "samples that had no image may have one now; until then others replaced them",
    "data.mean": "the weights were trained on pixels normalised otherwise",
    "data.std": "the weights were trained on pixels normalised otherwise",
}
_LONGEST = 100  # characters of a value that is shown


def check_same_run(saved: Config, now: Config, path: Path) -> Changes:
    """Compare the configuration of a checkpoint with this run's.

    path: of the checkpoint.

    Whether the shards are the same does not show in their names, which change when they are moved: see
    :func:`silc.train.same_data.check_same_data`.

    Returns what may differ and changes what follows: rates, temperatures, the number of steps, limits.

    Raises ValueError with every key that must not differ and does, and both values.
    """
    before, after = (dict(_leaves(to_dict(config))) for config in (saved, now))
    _check_kind_of_data(saved, now, path)
    grown = [key for key in _MAY_GROW if after[key][: len(before[key])] == before[key]]
    fixed = [key for key in before if _within(key, _FIXED) and key not in (*_ROUNDING, *_RATES, *grown)]
    if own_data(now):
        fixed = [key for key in fixed if key not in _SAMPLE_SET]
    idle = without_effect(saved) & without_effect(now)
    different = [key for key in fixed if key not in idle and before[key] != after[key]]
    if "data.tokenizer" in different and is_own(now.data.tokenizer, path):  # in another folder than before
        different.remove("data.tokenizer")
    if different:
        listed = "; ".join(f"{key} is {_shown(after[key])}, it was {_shown(before[key])}" for key in different)
        raise ValueError(
            f"cannot resume from {path}, which was written with other settings: {listed}. Set them as they were, or "
            "start a new run without train.resume"
        )
    others = (*_FIXED, *_SILENT)
    named = [key for key in before if key in (*grown, *_RATES) or (_within(key, _NAMED) and not _within(key, others))]
    return {key: (before[key], after[key]) for key in named if before[key] != after[key]}


def without_effect(config: Config) -> set[str]:
    """Keys that mean nothing beside the others of a configuration."""
    web = {"data.sample_left_out", "data.sample_mismatched"} if config.data.sample_captions == "clean" else set()
    return web | ({"objective.ema"} if config.objective.distill else set())  # with a teacher there is an average


def notes(changes: Changes, saved: Config, now: Config, step: int) -> list[str]:
    """A line for each change, and what becomes of the learning rate and the start of distillation.

    step: of the checkpoint.
    """
    lines = [
        f"note: {key} is {_shown(after)}, it was {_shown(before)}" + (f": {_EFFECTS[key]}" if key in _EFFECTS else "")
        for key, (before, after) in changes.items()
    ]
    if step >= now.train.steps:
        return [f"{line} (no step is left that it could change)" for line in lines]
    rate, was = (learning_rate(step, config.train.steps, config.optim) for config in (now, saved))
    if rate != was and step < saved.train.steps:
        lines.append(f"note: the learning rate of step {step + 1} is {rate:.4g}, it would have been {was:.4g}")
    elif rate != was:
        last = learning_rate(step - 1, saved.train.steps, saved.optim)
        lines.append(f"note: the learning rate of step {step + 1} is {rate:.4g}, that of step {step} was {last:.4g}")
    starts, started = now.distill_start_step, saved.distill_start_step
    if starts != started and now.objective.distill:
        lines.append(f"note: distillation starts at step {starts}, it would have started at step {started}")
    return lines


def check_distillation(saved: Config, now: Config, step: int, path: Path) -> None:
    """Raises ValueError where distillation is on by now and was not in the checkpoint: its teacher is not the student
    that distillation was to start from.
    """
    starts, started = now.distill_start_step, saved.distill_start_step
    if now.objective.distill and starts < step <= started and step < now.train.steps:
        raise ValueError(
            f"cannot resume from {path}: at step {step} distillation has not started, with this run's "
            f"objective.distill_start={now.objective.distill_start} and train.steps={now.train.steps} it would have at "
            f"step {starts}; take objective.distill_start={step / now.train.steps} or later"
        )


def trained_config(saved: Config, now: Config) -> Config:
    """The configuration of a run with nothing left to train: what it was trained with, and how it is evaluated now."""
    return replace(saved, eval=now.eval, kernels=now.kernels)


def _check_kind_of_data(saved: Config, now: Config, path: Path) -> None:
    """Raises ValueError where one run trains on shards and the other on the embedded sample set."""
    if bool(own_data(saved)) == bool(own_data(now)):
        return
    was, is_now = (_of_data(config) for config in (saved, now))
    way = "give data.shards=... again" if own_data(saved) else "leave data.shards and data.sources out"
    raise ValueError(
        f"cannot resume from {path}, which was trained on {was}, with {is_now}: {way} (a resumed run takes its "
        "configuration from the command), or start a new run without train.resume"
    )


def _of_data(config: Config) -> str:
    names = own_data(config)
    if not names:
        return "the embedded sample set"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{'data.shards' if config.data.shards else 'data.sources'}={names[:8]}{more}"


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
