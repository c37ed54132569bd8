"""How long, how large, where to; and what a run is warned of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from silc.config.fields import STRICT, Batch, Fraction, Minutes, NonNegative, Positive, PositiveFloat, Seed, key


@dataclass(config=STRICT, kw_only=True)
class TrainConfig:
    """How long, how large, where to."""

    steps: Positive = key(100_000, "optimiser steps")
    global_batch: Batch = key(16384, "pairs per step, over all ranks and accumulation steps")
    micro_batch: Batch | None = key(
        None, "pairs a rank holds at once; smaller than its share: exact gradient accumulation. null: its share"
    )
    seed: Seed = key(0, "seed of weights, data order and augmentation")
    max_bad_steps: Positive = key(10, "non-finite steps in a row that end the run")
    log_every: Positive = key(50, "steps between metrics (one device synchronisation each)")
    save_every: NonNegative = key(5000, "steps between checkpoints; 0: only at the end")
    save_minutes: Minutes | None = key(
        None, "minutes between checkpoints, beside save_every; looked at every log_every steps"
    )
    save_in_background: bool = key(
        False, "write periodic checkpoints beside the steps that follow; takes memory for a copy of the state"
    )
    keep_checkpoints: Positive = key(2, "newest checkpoints kept")
    keep_every: NonNegative = key(0, "checkpoints of every such step are kept for good; 0: none")
    keep_best: str | None = key(
        None,
        "keep the checkpoint where this metric of the evaluations on the way is best (a loss: lowest), as "
        "eval/zeroshot_classification/student/top1",
    )
    init: str | None = key(
        None,
        "weights to begin with where nothing is resumed: a run, checkpoint or export, an open_clip or Hugging Face "
        "SigLIP folder, a .safetensors of open_clip, or a .npz of big_vision; step 0, with a schedule of its own",
    )
    init_model: Literal["student", "teacher"] = key(
        "student", "of a run or checkpoint in train.init: which image tower"
    )
    resume: str | None = key(
        None, "run folder or checkpoint to resume from, at any number of ranks; auto: the newest in `out`, if any"
    )
    out: str | None = key(None, "run folder; null: runs/PRESET, or runs/PRESET-2, -3, ... when taken")
    tensorboard: bool = key(True, "write TensorBoard events")
    wandb_project: str | None = key(None, "log to this Weights & Biases project, if wandb is installed")
    peak_tflops: PositiveFloat | None = key(
        None, "dense bf16 peak of one device, for the MFU; null: looked up by the device's name"
    )

    def share(self, ranks: int) -> int:
        """Pairs of a step that each rank takes."""
        return self.global_batch // ranks

    def micro(self, ranks: int) -> int:
        """Pairs that a rank holds at once: `micro_batch`, or its share."""
        return self.micro_batch or self.share(ranks)


@dataclass(config=STRICT, kw_only=True)
class WatchConfig:
    """Warnings of a run that goes wrong, at each log interval, and the way back to an earlier checkpoint."""

    enabled: bool = key(True, "warn of spikes of losses and gradient norm, of a teacher that collapses, of slowness")
    window: Annotated[int, Field(ge=20, le=10_000)] = key(50, "log intervals that the present one is compared with")
    deviations: PositiveFloat = key(8.0, "a loss or gradient norm so many deviations above the median is a spike")
    grad_factor: PositiveFloat = key(10.0, "a gradient norm must also be so many times the median")
    entropy: Annotated[float, Field(ge=0, lt=0.5)] = key(
        0.02, "teacher entropy this near to 0 or log K, as a fraction of log K, is collapse"
    )
    grace_steps: NonNegative | None = key(
        None, "steps of distillation before its entropy is judged; null: a quarter of the warm-up, at least 100"
    )
    slow: Fraction = key(0.5, "samples a second below this fraction of the median are slow")
    lasting: Annotated[int, Field(ge=1, le=1000)] = key(
        3, "intervals in a row that make a spike, a collapse or slowness one that lasts"
    )
    rewinds: Annotated[int, Field(ge=0, le=1000)] = key(
        0,
        "times that a run may go back to its last checkpoint before a loss spike that lasts, or before "
        "train.max_bad_steps bad steps, and leave out the data from there to here; 0: never",
    )
