"""Learning-rate schedules: pure functions of the number of steps applied so far, so that a skipped step does not move
them.
"""

from __future__ import annotations

import math

from silc.config import OptimConfig


def learning_rate(step: int, total: int, optim: OptimConfig) -> float:
    """The rate of step `step` (from 0) of `total`.

    A linear warm-up to the peak, then: `rsqrt` peak / sqrt(1 + t / timescale) with a linear cool-down to 0
    (big_vision's), `cosine` half a period down to `final_lr` times the peak, or `constant` with a cool-down. t counts
    steps after the warm-up.
    """
    warm = optim.warmup_steps
    if step < warm:
        return optim.lr * (step + 1) / warm
    after = step - warm
    if optim.schedule == "cosine":
        progress = after / max(1, total - warm)
        return optim.lr * (optim.final_lr + (1 - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))
    shape = 1.0
    if optim.schedule == "rsqrt":
        timescale = optim.timescale or max(warm, 10_000)
        shape = 1 / math.sqrt(1 + after / timescale)
    left = total - step
    cool = min(1.0, left / optim.cooldown_steps) if optim.cooldown_steps else 1.0
    return optim.lr * shape * cool
