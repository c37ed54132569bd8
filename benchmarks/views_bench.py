"""Views made on the device: the photometric list and the crops against torchvision and batched torch, and what either
way of sending them costs; correct first, then time and memory.

    python benchmarks/views_bench.py           on a CPU within a minute; on a GPU at full size
    python benchmarks/views_bench.py --save    and write benchmarks/results/views_<device>.csv

Noise in place of photographs: no time depends on what the pixels show. Copies start in page-locked memory.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks.kernels.cases import options, run
from benchmarks.kernels.views_cases import SIZES, sent_bytes, views_cases


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, argv)
    _, *shape, _ = SIZES[args.size][-1]
    decoded, cut = sent_bytes(*shape)
    print(
        f"over the bus, an image: {decoded / 1e3:.0f} kB decoded ({shape[0]} x {shape[1]}), {cut / 1e3:.0f} kB as crops"
    )
    run("views", views_cases(args.size), args)


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False
    main(sys.argv[1:])
