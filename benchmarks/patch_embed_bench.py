"""Multi-crop patch embedding against eager torch, timm and torch.compile: correct first, then time and memory.

    python benchmarks/patch_embed_bench.py           on a CPU within a minute; on a GPU at full size
    python benchmarks/patch_embed_bench.py --save    and write benchmarks/results/patch_embed_<device>.csv

Forward and backward, float32 on a CPU and bfloat16 on a GPU. Peak memory includes the packed result and the gradients,
the same for all.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks.kernels.cases import options, run
from benchmarks.kernels.patch_embed_cases import patch_embed_cases


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, argv)
    run("patch_embed", patch_embed_cases(args.size), args)


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False
    main(sys.argv[1:])
