"""The one table of GPUs: for the plan of a run by name, and for the MFU by the name that a device gives itself."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One model of GPU.

    Attributes:
        name: what --gpu takes.
        memory: GiB that a program sees. Vendors' GB of device memory are GiB; where ECC is part of the same memory
            (GDDR6, on by default), a sixteenth is gone.
        tflops: dense bf16 peak in TFLOP/s with fp32 sums; None: unknown.
        words: all of these stand in the device's own name ("NVIDIA A100-SXM4-80GB").
    """

    name: str
    memory: float
    tflops: float | None
    words: tuple[str, ...] = ()


# Sources, all NVIDIA's. Where a data sheet gives bf16 "with sparsity", the dense peak is half of it.
# A100 data sheet; H100 data sheet (SXM, NVL) and product brief (PCIe); H200 data sheet (SXM, NVL); HGX and GB200 NVL72
# specifications (B200: 180 GB, GB200: 186 GB a GPU); L40S, L4, A10 and A40 data sheets; AWS G5 data sheet (A10G);
# RTX A6000, GA102 and Ada architecture papers (consumer cards, whose peak with fp32 sums is half of that with fp16).
# In the order in which a device's name is looked up: the closer description first.
GPUS = (
    Gpu("gb200-186gb", 186, 2500, ("GB200",)),
    Gpu("b200-180gb", 180, 2250, ("B200",)),
    Gpu("h200-nvl-141gb", 141, 835, ("H200", "NVL")),
    Gpu("h200-141gb", 141, 989, ("H200",)),
    Gpu("h100-pcie-80gb", 80, 756, ("H100", "PCIE")),
    Gpu("h100-nvl-94gb", 94, 835, ("H100", "NVL")),
    Gpu("h100-80gb", 80, 989, ("H100",)),
    Gpu("a100-40gb", 40, 312, ("A100", "40GB")),
    Gpu("a100-80gb", 80, 312, ("A100",)),
    Gpu("l40s-48gb", 45, 362, ("L40S",)),
    Gpu("l4-24gb", 22.5, 121, ("L4",)),
    Gpu("a40-48gb", 45, 149.7, ("A40",)),
    Gpu("a6000-48gb", 48, 154.8, ("A6000",)),
    Gpu("a10g-24gb", 22.5, 70, ("A10G",)),
    Gpu("a10-24gb", 22.5, 125, ("A10",)),
    Gpu("rtx4090-24gb", 24, 165.2, ("RTX", "4090")),
    Gpu("rtx3090-24gb", 24, 71, ("RTX", "3090")),
)


def gpu_named(name: str) -> Gpu:
    """The GPU of the table with this name, in any case. Raises ValueError naming the nearest one and all others."""
    names = [gpu.name for gpu in GPUS]
    wanted = name.lower().strip()
    if wanted in names:
        return GPUS[names.index(wanted)]
    near = sorted((known for known in names if wanted and known.startswith(f"{wanted}-")), key=len)
    near = near or difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"--gpu {name}: no such GPU; {hint}Known: {', '.join(names)}")


def gpu_of_device(device_name: str) -> Gpu | None:
    """The GPU of the table that calls itself so, or None."""
    words = set(re.split(r"[\s/-]+", device_name.upper()))
    return next((gpu for gpu in GPUS if words.issuperset(gpu.words)), None)
