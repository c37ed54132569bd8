"""Views from host memory, by the trainer's own parts: decoded images sent and cut on the device, or crops sent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.measure import device
from benchmarks.kernels.cases import Provider
from silc.config import ViewsConfig
from silc.data.batch import Batch
from silc.data.views.crops import MultiCrop, ViewPlan
from silc.data.views.device import ALL_HERE, Left, leave


class Work(NamedTuple):
    """Images on the host, the plan of each, and the plans as a batch leaves them to a device."""

    images: list[Tensor]
    plans: list[ViewPlan]
    views: ViewsConfig

    def left(self, *, crops: bool, distorted: bool) -> Batch:
        """The batch as workers hand it over, in page-locked memory where there is a GPU."""
        left = Left(crops, distorted)
        work = leave(left, self.plans, list(self.images), 0) if left != ALL_HERE else None
        count, where = len(self.images), "meta" if crops else "cpu"
        large, small = (
            torch.empty(count, number, 3, side, side, dtype=torch.uint8, device=where)
            for number, side in (
                (self.views.n_global, self.views.global_size),
                (self.views.n_local, self.views.local_size),
            )
        )
        if not crops:
            cutter = MultiCrop(self.views, 0)
            for i, (image, plan) in enumerate(zip(self.images, self.plans, strict=True)):
                cutter.cut(image, ViewPlan(plan.boxes, plan.flips, None), large[i], small[i])
        batch = Batch(large, small, torch.zeros(count, 1, dtype=torch.int64), [""] * count, 0, 0, [], work)
        return batch.pin_memory() if device().type == "cuda" else batch


def work(images: int, height: int, width: int, large: int, small: int) -> Work:
    views = ViewsConfig(global_size=large, local_size=small, photometric=True)
    cutter, source = MultiCrop(views, 0), np.random.default_rng(1)
    pixels = [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8) for _ in range(images)]
    return Work(pixels, [cutter.plan(height, width, source.random(cutter.width).tolist()) for _ in pixels], views)


def copied(*shape: int) -> dict[str, Provider]:
    """Copies and device work of both ways; the views are the same to the last bit."""
    given = work(*shape)
    found = {}
    for name, crops in (("silc_kernels, decoded images sent", True), ("silc_kernels, crops sent", False)):
        batch = given.left(crops=crops, distorted=True)

        def solve(batch: Batch = batch) -> list[Tensor]:
            there = batch.to(device(), non_blocking=True)
            return [there.large, *([] if there.small is None else [there.small])]

        found[name] = solve
    return found
