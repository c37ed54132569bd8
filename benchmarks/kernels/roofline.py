"""What this device can do at most, measured here and now: bytes copied and products done in a second.

python -m benchmarks.kernels.roofline --save FOLDER      from the repository's root, to roofline_<device>.csv
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.common.measure import banner, device, device_slug, milliseconds

# (bytes of the copied buffer, side of the product): past every cache, and large enough to run at the peak.
SIZES = {"cpu": (1 << 28, 1536), "cuda": (1 << 32, 8192)}
REPEATS = 7


@dataclass(frozen=True)
class Roofline:
    """copy: bytes read and written in a second. product: floating-point operations in a second, in `dtype`."""

    dtype: torch.dtype
    copy: float
    product: float

    def floor_ms(self, moved_bytes: float, flops: float) -> float:
        """The least time that moving so many bytes and doing so many operations can take here."""
        return 1e3 * max(moved_bytes / self.copy, flops / self.product)

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"measured roofline: copy {self.copy / 1e9:.0f} GB/s, {kind} product {self.product / 1e12:.3g} TFLOP/s"


def measure_roofline(dtype: torch.dtype) -> Roofline:
    """A large copy and a large matrix product on random data, medians."""
    size, side = SIZES[device().type]
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    copy = statistics.median(milliseconds(lambda: target.copy_(source))[0] for _ in range(REPEATS))
    a, b = (torch.randn(side, side, device=device()).to(dtype) for _ in range(2))
    a @ b  # the library's own start
    product = statistics.median(milliseconds(lambda: a @ b)[0] for _ in range(REPEATS))
    return Roofline(dtype, 2e3 * size / copy, 2e3 * side**3 / product)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, nargs="?", const=RESULTS, metavar="FOLDER")
    args = parser.parse_args(argv)
    print(banner())
    halves = [torch.bfloat16, torch.float16] if device().type == "cuda" else []
    found = []
    for dtype in (*halves, torch.float32):
        found.append(measure_roofline(dtype))
        print(found[-1], flush=True)
    if args.save is not None:
        args.save.mkdir(parents=True, exist_ok=True)
        with (args.save / f"roofline_{device_slug()}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("dtype", "copy_gb_per_s", "product_tflop_per_s"))
            for roof in found:
                name = str(roof.dtype).removeprefix("torch.")
                writer.writerow((name, f"{roof.copy / 1e9:.5g}", f"{roof.product / 1e12:.5g}"))


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    main()
