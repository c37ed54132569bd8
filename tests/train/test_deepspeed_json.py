"""What DeepSpeed makes of the generated configuration. Its parser is the judge, and it takes unknown keys silently."""

from __future__ import annotations

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig

from silc.distributed import World
from silc.train.engine import deepspeed_json, precision
from tests.train import cases

WORLD = World(0, 1, torch.device("cpu"))


def parsed(**options) -> tuple[DeepSpeedConfig, dict]:
    run = cases.config(**options)
    json = deepspeed_json(run, WORLD)
    return DeepSpeedConfig(json), json


@pytest.mark.parametrize("stage", cases.STAGES)
def test_every_number_arrives(stage: int) -> None:
    config, _ = parsed(stage=stage, micro_batch=2)
    assert config.zero_optimization_stage == stage
    sizes = config.train_batch_size, config.train_micro_batch_size_per_gpu, config.gradient_accumulation_steps
    assert sizes == (8, 2, 4)
    assert config.gradient_clipping == 5.0
    zero = config.zero_config
    assert (zero.reduce_bucket_size, zero.allgather_bucket_size) == (20_000, 20_000)
    if stage == 3:
        assert zero.param_persistence_threshold == 2000
        assert zero.prefetch_bucket_size == 50_000_000
        assert zero.max_live_parameters == zero.max_reuse_distance == 1_000_000_000
    assert not zero.overlap_comm  # needs CUDA streams


def test_what_the_step_relies_on_is_on() -> None:
    config, json = parsed()
    assert config.managed_gradient_accumulation
    assert config.zero_allow_untested_optimizer
    assert config.zero_config.ignore_unused_parameters
    assert not config.zero_force_ds_cpu_optimizer
    assert not config.prescale_gradients
    assert config.gradient_predivide_factor == 1.0
    assert json["bf16"]["check_grad_overflow"] is True


@pytest.mark.parametrize(("asked", "enabled"), [("bf16", True), ("fp32", False), ("auto", False)])
def test_precision_on_a_cpu(asked: str, enabled: bool) -> None:
    config, _ = parsed(precision=asked)
    assert config.bfloat16_config.enabled is enabled
    assert not config.float16_config.enabled
    assert not config.torch_autocast_enabled
    expected = torch.bfloat16 if enabled else torch.float32
    assert precision(cases.config(precision=asked), WORLD.device) == expected


def test_auto_precision_is_bf16_on_a_gpu() -> None:
    assert precision(cases.config(precision="auto"), torch.device("cuda")) == torch.bfloat16


def test_ranks_share_the_batch() -> None:
    json = deepspeed_json(cases.config(), World(1, 4, torch.device("cpu")))
    assert (json["train_batch_size"], json["train_micro_batch_size_per_gpu"]) == (8, 2)
    assert json["gradient_accumulation_steps"] == 1


def test_overlap_only_on_cuda() -> None:
    json = deepspeed_json(cases.config(), World(0, 1, torch.device("cuda")))
    assert json["zero_optimization"]["overlap_comm"] is True


def test_every_key_is_one_that_deepspeed_reads() -> None:
    """A top-level key changes what the parser ends with, or it is a misspelling."""
    _, json = parsed()
    other = {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    other |= {"gradient_clipping": 0.25, "managed_gradient_accumulation": False, "steps_per_print": 7}
    other |= {"gradient_predivide_factor": 2.0, "bf16": {"enabled": True}}
    other |= {"fp16": {"enabled": True}, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    other |= {"zero_optimization": json["zero_optimization"] | {"stage": 2}}
    monitors = ("comms_logger", "flops_profiler", "tensorboard", "wandb", "csv_monitor")
    other |= {name: {"enabled": True} for name in monitors}
    switches = ("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "prescale_gradients")
    other |= {name: not json[name] for name in (*switches, "wall_clock_breakdown", "dump_state")}
    assert other.keys() == json.keys()
    assert _shown(DeepSpeedConfig(json | {"gradient_cliping": 0.25})) == _shown(DeepSpeedConfig(json))
    sizes = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
    for key in json.keys() - sizes:
        assert _shown(DeepSpeedConfig(json | {key: other[key]})) != _shown(DeepSpeedConfig(json)), key
    changed = DeepSpeedConfig(json | {name: other[name] for name in sizes} | {"train_batch_size": 8})
    assert (changed.train_micro_batch_size_per_gpu, changed.gradient_accumulation_steps) == (4, 2)


def _shown(config: DeepSpeedConfig) -> dict[str, str]:
    """What was parsed; the text that went in is left out."""
    return {
        name: str(getattr(value, "__dict__", value)) for name, value in vars(config).items() if name != "_param_dict"
    }
