"""The losses of silc_kernels against eager torch, torch.compile and the peers': correct first, then time and memory.

    python benchmarks/loss_bench.py                 within two minutes on two idle CPU cores; on a GPU at full size
    python benchmarks/loss_bench.py --save          and write benchmarks/results/loss_<device>.csv
    python benchmarks/loss_bench.py --only sigmoid

Forward and backward, random unit features, float32 on a CPU and bfloat16 on a GPU.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks.kernels.cases import Case, options, run
from benchmarks.kernels.contrastive_cases import contrastive_cases
from benchmarks.kernels.distill_cases import distill_cases


def cases(size: str) -> Iterator[Case]:
    """All cases of this script at one of the sizes tiny, cpu and cuda."""
    yield from distill_cases(size)
    yield from contrastive_cases(size)


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, argv)
    run("loss", cases(args.size), args)


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    main(sys.argv[1:])
