"""The DeepSpeed engine behind a small face: forward, backward, step, and access to the fp32 master weights.

DeepSpeed's JSON is generated here from the typed configuration with every key that matters written out, because unknown
top-level keys are accepted silently and defaults have moved between releases (gradient_clipping went from 0 to 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_local_fp32_param,
    safe_get_local_grad,
    safe_get_local_optimizer_state,
)
from torch import Tensor, nn

from silc.config import Config
from silc.distributed import World
from silc.teacher import Fragment
from silc.train.moments import Moments, Part, load_moments
from silc.train.optim import build_optimizer, frozen, parameter_groups, set_learning_rate


def precision(config: Config, device: torch.device) -> torch.dtype:
    """The dtype of the forward and backward passes."""
    asked = config.engine.precision
    if asked == "auto":
        asked = "bf16" if device.type == "cuda" else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[asked]


def deepspeed_json(config: Config, world: World) -> dict[str, Any]:
    """DeepSpeed's configuration for this run, every key written."""
    engine, micro = config.engine, config.train.micro(world.size)
    zero: dict[str, Any] = {
        "stage": engine.zero_stage,
        "overlap_comm": engine.overlap_comm and world.device.type == "cuda",
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": engine.reduce_bucket_size,
        "allgather_partitions": True,
        "allgather_bucket_size": engine.allgather_bucket_size,
        "round_robin_gradients": False,
        "ignore_unused_parameters": True,
    }
    if engine.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": engine.prefetch_bucket_size,
            "stage3_param_persistence_threshold": engine.persistence_threshold,
            "stage3_max_live_parameters": engine.max_live_parameters,
            "stage3_max_reuse_distance": engine.max_live_parameters,
            "stage3_gather_16bit_weights_on_model_save": False,
            "sub_group_size": 1_000_000_000,
        }
    return {
        "train_batch_size": config.train.global_batch,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": config.train.share(world.size) // micro,
        "managed_gradient_accumulation": True,
        "gradient_clipping": config.optim.clip,
        "bf16": {"enabled": precision(config, world.device) == torch.bfloat16, "check_grad_overflow": True},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        "dump_state": False,
        "comms_logger": {"enabled": False},
        "flops_profiler": {"enabled": False},
        "tensorboard": {"enabled": False},
        "wandb": {"enabled": False},
        "csv_monitor": {"enabled": False},
    }


class Engine:
    """The student in DeepSpeed's hands.

    Attributes:
        dtype: of the forward and backward passes.
        accumulation: micro-batches a step.
        json: DeepSpeed's configuration.
        optimizer_reason: which AdamW it is, and why.
        frozen: what optim.rules freeze, in words; None for nothing.
        not_finite: place in the model and name of each parameter of whose gradient this rank held a part that was not
            finite when the last step was discarded.
    """

    def __init__(self, config: Config, model: nn.Module, world: World) -> None:
        self.dtype = precision(config, world.device)
        groups = parameter_groups(model.named_parameters(), config.optim)
        self.frozen = frozen(model.named_parameters(), config.optim)
        self._names = [name for name, _ in model.named_parameters()]
        self.json = deepspeed_json(config, world)
        optimizer, self.optimizer_reason = build_optimizer(groups, config.optim, world.device)
        # Else DeepSpeed takes the GPU of LOCAL_RANK, which is another one where a task sees its own alone.
        place = None if world.device.index is None else SimpleNamespace(device_rank=world.device.index)
        self._engine, *_ = deepspeed.initialize(
            args=place, model=model.to(world.device), optimizer=optimizer, config=self.json, dist_init_required=False
        )
        self._rank = world.rank
        self._stage = config.engine.zero_stage
        self.accumulation = self.json["gradient_accumulation_steps"]
        self.not_finite: list[tuple[int, str]] = []
        self._note_before_dropping()

    @property
    def module(self) -> nn.Module:
        """The student; under ZeRO-3 call it, do not read its parameters."""
        return self._engine.module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The student's forward pass."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss` as it is (no division by the accumulation steps: the caller's loss is
        already exact).
        """
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float) -> bool:
        """After each micro-batch's backward.

        True when the weights moved: at the accumulation boundary, with finite gradients.
        """
        set_learning_rate(self._engine.optimizer.param_groups, lr)
        self._engine.step()
        return self._engine.was_step_applied()

    def grad_norm(self) -> float:
        """Global gradient norm of the last step, before clipping; inf when it was skipped."""
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def _note_before_dropping(self) -> None:
        """Fill `not_finite` before DeepSpeed drops gradients; right before, it calls this function with True."""
        zero = self._engine.optimizer
        update = zero._update_scale

        def noting(dropped: bool) -> None:
            if dropped:
                grads = ((place, name, self._gradient(p)) for place, (name, p) in enumerate(self._parameters()))
                self.not_finite = [(at, name) for at, name, g in grads if g is not None and not g.isfinite().all()]
            update(dropped)

        zero._update_scale = noting

    def _gradient(self, parameter: Any) -> Tensor | None:
        """This rank's part of a gradient, reduced, between backward and step; None where it holds none."""
        if not parameter.requires_grad:
            return None
        if self._stage == 3:
            return safe_get_local_grad(parameter)
        mapping = parameter._hp_mapping
        return None if mapping is None else mapping.get_lp_grad_fragment(parameter._index_in_param_group)

    def working(self) -> Iterator[tuple[str, Tensor]]:
        """The copy that the forward pass uses, as far as this rank keeps it between steps, by name: to look at."""
        for name, parameter in self._parameters():
            yield name, parameter.detach()
            if self._stage == 3:
                yield name, parameter.ds_tensor.detach()

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        return zip(self._names, self._engine.module.parameters(), strict=True)

    def fragments(self) -> list[Fragment]:
        """This rank's parts of the fp32 master weights."""
        return [Fragment(part.name, part.start, part.numel, part.master) for part in self._parts()]

    def _parts(self) -> list[Part]:
        # These take `parameter` as Any: they read what DeepSpeed hangs on it.
        make = self._part_stage3 if self._stage == 3 else self._part_stage12
        made = (make(name, parameter) for name, parameter in self._parameters())
        return [part for part in made if part is not None]

    def _part_stage12(self, name: str, parameter: Any) -> Part | None:
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        zero, where = self._engine.optimizer, mapping.hp_fragment_address

        def moment(key: str) -> Tensor:
            flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
            return zero.optimizer.state[flat][key].narrow(0, where.start, where.numel)

        address = mapping.lp_fragment_address
        return Part(name, address.start, address.numel, lambda: parameter._hp_mapping.hp_fragment.view(-1), moment)

    def _part_stage3(self, name: str, parameter: Any) -> Part | None:
        size = parameter.ds_tensor.ds_numel
        start = size * self._rank
        numel = min(size, parameter.ds_numel - start)
        if numel <= 0:
            return None
        return Part(
            name,
            start,
            numel,
            lambda: safe_get_local_fp32_param(parameter).view(-1)[:numel],
            lambda key: safe_get_local_optimizer_state(parameter, key).view(-1)[:numel],
        )

    def master_weights(self, keep: bool = True) -> dict[str, Tensor]:
        """The student's whole fp32 weights on the CPU (collective); an empty dictionary where `keep` is false."""
        whole = {}
        for name, parameter in self._parameters():
            value = safe_get_full_fp32_param(parameter)
            if keep:
                whole[name] = value.detach().cpu().clone()
        return whole

    def moments(self, *, copied: bool) -> Moments:
        """The optimiser's state that this rank holds, to be written; see :mod:`silc.train.moments`.

        copied: it is not changed by the steps that follow.
        """
        self._begin_state()
        return Moments.of(self._rank, self._parts(), self._steps(), copied=copied)

    @torch.no_grad()
    def load(self, folder: Path, masters: dict[str, Tensor]) -> None:
        """Take the optimiser's state that :meth:`moments` gave on any number of ranks in any stage, and whole masters.

        masters: of :meth:`master_weights`.

        Raises ValueError for what is damaged.
        """
        self._begin_state()
        self._set_steps(load_moments(folder / "engine", self._parts()))
        self.take(masters)

    @torch.no_grad()
    def take(self, masters: Mapping[str, Tensor]) -> None:
        """Have these whole fp32 weights, exactly, whatever the precision of the forward pass (collective)."""
        for part in self._parts():
            part.master().copy_(masters[part.name].flatten()[part.start : part.start + part.numel])
        self._refresh()

    def _refresh(self) -> None:
        """Have the working copy follow the masters, as after a step (collective)."""
        zero = self._engine.optimizer
        if self._stage != 3:
            zero.update_lp_params()
            return
        zero._partition_all_parameters()
        for number in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    @torch.no_grad()
    def _begin_state(self) -> None:
        """Have the optimiser make its state, as its first step would, without moving a weight: by a step of size 0."""
        zero, inner = self._engine.optimizer, self._engine.optimizer.optimizer
        flats = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        if all("exp_avg" in inner.state.get(flat, {}) for flat in flats):
            return
        rates, grads = [group["lr"] for group in inner.param_groups], [flat.grad for flat in flats]
        set_learning_rate(inner.param_groups, 0.0)
        for flat in flats:
            flat.grad = torch.zeros_like(flat)
        if self._stage == 3:  # which gives the optimiser one of these at a time
            for number in range(len(flats)):
                zero._optimizer_step(number)
        else:
            inner.step()
        for flat, grad in zip(flats, grads, strict=True):
            flat.grad = grad
        for group, rate in zip(inner.param_groups, rates, strict=True):
            group["lr"] = rate
        self._set_steps(0)

    def _steps(self) -> int:
        """Of the optimiser's bias correction; the same for every parameter."""
        return int(next(state["step"] for state in self._counting()))

    def _set_steps(self, step: int) -> None:
        for state in self._counting():
            if isinstance(state["step"], Tensor):
                state["step"].fill_(step)
            else:
                state["step"] = step

    def _counting(self) -> Iterator[dict[str, Any]]:
        # torch and DeepSpeed count for each parameter, torch in a tensor; apex for each group.
        inner = self._engine.optimizer.optimizer
        return (state for state in (*inner.state.values(), *inner.param_groups) if "step" in state)
