"""Parameter groups by name rules, and the AdamW implementation that serves."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from silc.config import OptimConfig
from silc.train.layer_decay import layer_scales

# Position tables and the pooling query are tables, not maps: like biases and norms they are not decayed unless a rule
# says so.
_TABLES = re.compile(r"(pos_embed|positional_embedding|attn_pool\.latent)$")


def frozen(parameters: Iterable[tuple[str, nn.Parameter]], optim: OptimConfig) -> str | None:
    """What is locked, or frozen by the rules, in words; None where nothing is.

    parameters: (name, parameter), whole; what is locked needs no gradient. Raises ValueError where nothing is left to
    train.
    """
    rules = [(re.compile(rule.pattern), rule) for rule in optim.rules]
    total = locked = kept_still = 0
    patterns = []
    for name, parameter in parameters:
        total += parameter.numel()
        if not parameter.requires_grad:
            locked += parameter.numel()
            continue
        rule = next((rule for compiled, rule in rules if compiled.search(name)), None)
        if rule is not None and rule.lr == 0:
            kept_still += parameter.numel()
            patterns.append(rule.pattern)
    said = f"locked {locked:,} of {total:,} weights (optim.locked {', '.join(optim.locked)})" if locked else None
    if not patterns:
        return said
    listed = ", ".join(f"'{pattern}'" for pattern in dict.fromkeys(patterns))
    if kept_still + locked == total:
        others = " that are not locked" if locked else ""
        raise ValueError(
            f"optim.rules: {listed} with lr: 0 freeze all {total - locked:,} weights{others}, which leaves nothing to "
            "train"
        )
    frozen_words = f"frozen {kept_still:,} of {total:,} weights (optim.rules {listed})"
    return frozen_words if said is None else f"{said}; {frozen_words}"


def parameter_groups(parameters: Iterable[tuple[str, nn.Parameter]], optim: OptimConfig) -> list[dict[str, Any]]:
    """One group for each (lr multiplier, weight decay), in order of first appearance.

    parameters: (name, parameter); those that need no gradient are locked and in no group. Each group carries
    `lr_scale`, the rule's multiplier times that of the layer; :func:`set_learning_rate` reads it. A rule that matches
    no name is a mistake: ValueError.
    """
    trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    names = [name for name, _ in trained]
    layers = layer_scales(names, optim)
    rules = [(re.compile(rule.pattern), rule) for rule in optim.rules]
    unused = {rule.pattern for rule in optim.rules}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trained:
        decayed = parameter.ndim >= 2 and not _TABLES.search(name)
        lr_scale, decay = 1.0, optim.weight_decay if decayed else 0.0
        for compiled, rule in rules:
            if compiled.search(name):
                unused.discard(rule.pattern)
                lr_scale, decay = rule.lr, optim.weight_decay * rule.weight_decay
                break
        lr_scale *= layers[name]
        group = groups.setdefault(
            (lr_scale, decay), {"params": [], "weight_decay": decay, "lr_scale": lr_scale, "lr": optim.lr}
        )
        group["params"].append(parameter)
    if unused:
        raise ValueError(
            f"optim.rules: {sorted(unused)} match no parameter that is trained (or an earlier rule takes them all); "
            f"names look like {names[:3]}"
        )
    return list(groups.values())


def set_learning_rate(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]


def apex_fused_adam() -> tuple[type | None, str]:
    """NVIDIA apex's FusedAdam, found by feature: an unrelated package on the index is called `apex` too.

    Returns (class, reason).
    """
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return None, "NVIDIA apex is not installed"
    # Looked at before it is imported: the other `apex` is old enough that importing it may raise anything.
    if not any((Path(folder) / "optimizers").is_dir() for folder in spec.submodule_search_locations or ()):
        return None, "the installed package `apex` is not NVIDIA's"
    try:
        module = importlib.import_module("apex.optimizers")
        multi_tensor = importlib.import_module("apex.multi_tensor_apply")
    except ImportError as error:
        return None, f"NVIDIA apex cannot be imported ({error})"
    found = getattr(module, "FusedAdam", None)
    if found is None or not getattr(multi_tensor.multi_tensor_applier, "available", False):
        return None, "the installed apex has no FusedAdam built with its CUDA extensions"
    return found, "NVIDIA apex's FusedAdam"


def build_optimizer(
    groups: list[dict[str, Any]], optim: OptimConfig, device: torch.device
) -> tuple[torch.optim.Optimizer, str]:
    """AdamW over `groups` and the reason for the implementation.

    Raises ValueError when the one asked for cannot run here.
    """
    common: dict[str, Any] = {"lr": optim.lr, "betas": (optim.beta1, optim.beta2), "eps": optim.eps}
    asked = optim.optimizer
    apex, why = apex_fused_adam() if asked in ("auto", "apex_adamw") else (None, "")
    if asked == "apex_adamw" and (apex is None or device.type != "cuda"):
        reason = why if apex is None else "it runs on CUDA alone"
        raise ValueError(f"optim.optimizer=apex_adamw: {reason}; take optim.optimizer=auto")
    if apex is not None and device.type == "cuda":
        return apex(groups, adam_w_mode=True, **common), f"apex_adamw: {why}"
    if asked == "deepspeed_adamw":
        from deepspeed.ops.adam import FusedAdam

        return FusedAdam(groups, adam_w_mode=True, **common), "deepspeed_adamw: as asked; compiles its op on first use"
    passed_over = "it runs on CUDA alone" if apex is not None else why
    reason = "as asked" if asked == "torch_adamw" else f"fused, needs no compilation; not apex_adamw: {passed_over}"
    return torch.optim.AdamW(groups, fused=True, **common), f"torch_adamw: {reason}"
