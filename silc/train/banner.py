"""What a run says before its first step."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import torch

import silc_kernels
from silc.config import Config
from silc.model.attention import report as attention_report

if TYPE_CHECKING:
    from silc.train.loop import Trainer


def device_line(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)} ({memory:.0f} GiB)"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads a rank"


def backend_lines(config: Config, device: torch.device, dtype: torch.dtype) -> list[str]:
    """One line an op: which backend runs it and why."""
    forced = {
        "contrastive_loss": config.kernels.contrastive,
        "distill_head_loss": config.kernels.distill,
        "patch_embed": config.kernels.patch_embed,
    }
    rows = [row for row in silc_kernels.report(device, forced) if row[0] in forced]
    rows.append(attention_report(config.model.attention, device, dtype))
    return [f"  {op:<18} {backend:<10} {why}" for op, backend, why in rows]


def banner(trainer: Trainer) -> str:
    """Device, ranks, precision, backends and sizes of a run."""
    config, world = trainer.config, trainer.world
    micro = config.train.micro_batch or config.train.global_batch // world.size
    views = f"{trainer.plan.n_original} original + {trainer.plan.n_global} global {config.views.global_size} px"
    if trainer.plan.n_local:
        views += f" + {trainer.plan.n_local} local {config.views.local_size} px"
    lines = [
        f"SILC  preset {config.preset}  ->  {trainer.folder}",
        f"  device             {device_line(world.device)}, {world.size} rank(s)",
        f"  engine             DeepSpeed ZeRO-{config.engine.zero_stage}, "
        f"{str(trainer.dtype).removeprefix('torch.')}; {trainer.engine.optimizer_reason}",
        f"  batch              {config.train.global_batch} = {world.size} rank(s) x {trainer.engine.accumulation} x "
        f"{micro}; {config.train.steps} steps",
        f"  views              {views}; contrastive: {config.objective.contrastive} on "
        f"{config.objective.contrastive_views}",
    ]
    if trainer.teacher is not None:
        kind = "EMA of the head alone" if config.objective.head_only_ema else "EMA"
        lines.append(
            f"  teacher            fp32 {kind}, momentum {config.ema_momentum:.5f}, from step "
            f"{config.distill_start_step}"
        )
    return "\n".join([*lines, *backend_lines(config, world.device, trainer.dtype)])
