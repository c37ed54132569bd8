"""Typed configuration: every key a run knows, its type, range and meaning.

The dataclasses are pydantic's, so that a wrong type, an unknown key or a value out of range is refused when the
configuration is built; :mod:`silc.config_io` turns presets and command-line overrides into a :class:`Config` and words
the errors. Rules across keys stand in :mod:`silc.config_rules`.
"""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from silc.config.data import DataConfig, SourceRule, ViewsConfig
from silc.config.evaluation import IMAGENET, PROMPT_SETS, TASKS, EvalConfig, Task
from silc.config.fields import STRICT, Rgb, key
from silc.config.model import HeadConfig, ModelConfig, TextConfig, VisionConfig
from silc.config.objective import ObjectiveConfig
from silc.config.optim import EngineConfig, KernelsConfig, OptimConfig, ParameterRule
from silc.config.run import TrainConfig, WatchConfig

__all__ = [
    "IMAGENET",
    "PROMPT_SETS",
    "TASKS",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvalConfig",
    "HeadConfig",
    "KernelsConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "ParameterRule",
    "Rgb",
    "SourceRule",
    "Task",
    "TextConfig",
    "TrainConfig",
    "ViewsConfig",
    "VisionConfig",
    "WatchConfig",
    "key",
]


@dataclass(config=STRICT, kw_only=True)
class Config:
    """A run."""

    preset: str = key("custom", "name of the preset this came from (set by the loader)")
    unverified: list[str] = key([], "keys whose value in this preset no public source confirms")
    notes: list[str] = key([], "what the loader changed to make values fit each other (set by the loader)")
    model: ModelConfig = Field(default_factory=ModelConfig, description="the student")
    views: ViewsConfig = Field(default_factory=ViewsConfig, description="crops")
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig, description="losses and teacher")
    data: DataConfig = Field(default_factory=DataConfig, description="training pairs")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="optimiser and schedule")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="DeepSpeed")
    kernels: KernelsConfig = Field(default_factory=KernelsConfig, description="op backends")
    train: TrainConfig = Field(default_factory=TrainConfig, description="the run")
    watch: WatchConfig = Field(default_factory=WatchConfig, description="warnings")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="evaluation")

    @property
    def n_original(self) -> int:
        """Unaugmented views a sample carries (0 or 1)."""
        return int(self.objective.contrastive_views != "each_global")

    @property
    def ema_momentum(self) -> float:
        """The teacher's momentum; null: 0.966 at batch 16k, scaled so that a sample weighs the same at any batch."""
        given = self.objective.ema_momentum
        return 0.966 ** (self.train.global_batch / 16384) if given is None else given

    @property
    def has_teacher(self) -> bool:
        """Whether an EMA of the weights is kept: for distillation, or to be evaluated beside the student."""
        return self.objective.distill or self.objective.ema

    @property
    def distill_start_step(self) -> int:
        """First step (from 0) with a distillation loss; `steps` when there is none."""
        return round(self.objective.distill_start * self.train.steps) if self.objective.distill else self.train.steps

    @property
    def watch_grace(self) -> int:
        """Steps of distillation before the teacher's entropy is judged."""
        given = self.watch.grace_steps
        return max(100, self.optim.warmup_steps // 4) if given is None else given
