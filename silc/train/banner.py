"""What a run prints before its first step."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

import silc_kernels
from silc.config import Config
from silc.config_rules import has_evaluation_data
from silc.data.views.device import left_to
from silc.model.attention import report as attention_report
from silc.objective import plan_views
from silc.text import plural
from silc.train.state import TrainState


def device_line(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)} ({memory:.0f} GiB)"
    return f"CPU {platform.machine()}, {plural(torch.get_num_threads(), 'thread')} per rank"


def no_evaluation(config: Config) -> list[str]:
    """A line that says so where tasks are asked for and there is nothing to evaluate on; else none."""
    if not config.eval.after or has_evaluation_data(config):
        return []
    return ["no evaluation: no data set; give eval.classification, eval.retrieval or eval.segmentation=LAYOUT:FOLDER"]


def teacher_words(config: Config) -> str:
    """What the moving average is of, and what it is for."""
    if not config.objective.distill:
        return f"EMA of the image tower, momentum {config.ema_momentum:.5f}, to be evaluated; nothing is distilled"
    kind = "EMA of the head alone" if config.objective.head_only_ema else "EMA"
    return f"{kind}, momentum {config.ema_momentum:.5f}, from step {config.distill_start_step}"


def backend_lines(config: Config, device: torch.device, dtype: torch.dtype) -> list[str]:
    """One line an op: which backend runs it and why."""
    forced = {
        "contrastive_loss": config.kernels.contrastive,
        "distill_head_loss": config.kernels.distill,
        "patch_embed": config.kernels.patch_embed,
    }
    left = left_to(config.views, device)
    forced |= {op: "auto" for op, used in (("crop_resize", left.crops), ("photometric", left.photometric)) if used}
    ops = [row for row in silc_kernels.report(device, forced) if row.op in forced]
    rows = [*ops, attention_report(config.model.attention, device, dtype)]
    return [f"  {op:<18} {backend:<10} {why}" for op, backend, why in rows]


def banner(config: Config, state: TrainState, folder: Path) -> str:
    """Device, ranks, precision, backends and sizes of a run."""
    world, engine, plan = state.world, state.engine, plan_views(config)
    ranks = plural(world.size, "rank")
    views = f"{plan.n_original} original + {plan.n_global} global {config.views.global_size} px"
    if plan.n_local:
        views += f" + {plan.n_local} local {config.views.local_size} px"
    lines = [
        f"SILC  preset {config.preset}  ->  {folder}",
        f"  device             {device_line(world.device)}, {ranks}",
        f"  engine             DeepSpeed ZeRO-{config.engine.zero_stage}, "
        f"{str(engine.dtype).removeprefix('torch.')}; {engine.optimizer_reason}",
        f"  batch              {config.train.global_batch} = {ranks} x {engine.accumulation} x "
        f"{config.train.micro(world.size)}; {plural(config.train.steps, 'step')}",
        f"  views              {views}; contrastive: {config.objective.contrastive} on "
        f"{config.objective.contrastive_views}",
    ]
    if state.teacher is not None:
        lines.append(f"  teacher            fp32 {teacher_words(config)}")
    if state.engine.frozen is not None:
        lines.append(f"  optimiser          {state.engine.frozen}")
    notes = [f"  note               {note}" for note in [*config.notes, *no_evaluation(config)]]
    return "\n".join([*lines, *backend_lines(config, world.device, engine.dtype), *notes])
