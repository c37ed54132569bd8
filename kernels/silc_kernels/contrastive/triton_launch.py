"""contrastive_loss on Triton: launches of each kernel by chip, and what the compile gate builds.

The order of programs is rows first, without groups: a launch sees at most 2^24 similarities, 4096 x 4096 by default,
whose features, 6 MiB a side at d = 768 in bfloat16, both stay in an H100's 50 MiB of L2 beside the 32 MiB of G. Every
feature is read from memory once in any order; what a program reads from L2, its own rows and columns, no order changes.
Rows first, the programs that run together share a few blocks of texts and leave them for good.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import triton.language as tl

from ..common.triton_runtime import family
from ..gate.gate import ARCHITECTURES, Candidate
from . import triton_kernels as kernels


class LaunchConfig(NamedTuple):
    """How a kernel is launched.

    rows, columns, depth: of the tile of similarities a program finds, and of the features it holds at a time.
    warps, stages: of the launch.
    bulk: features come by the copy engine, which needs rows of whole 16 bytes.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    bulk: bool


# kernel, how features come, bytes of a feature, architecture
Key = tuple[str, str, int, int]
KERNELS = {
    "log_sum_exp": kernels.log_sum_exp_kernel,
    "softmax_gradient": kernels.softmax_gradient_kernel,
    "sigmoid_gradient": kernels.sigmoid_gradient_kernel,
}
DTYPES = {2: ("bf16", "fp16"), 4: ("fp32",)}
MERGED, PARTS = 128, 32


def _everywhere(
    loads: str, itemsize: int, architectures: Iterable[int], config: LaunchConfig
) -> dict[Key, LaunchConfig]:
    return {(kernel, loads, itemsize, architecture): config for kernel in KERNELS for architecture in architectures}


# 80 stands for every chip that is not one of the others. On sm_90 each kernel takes at most 128 registers a thread
# (softmax_gradient by pointers: 136) and 96 KiB, so that two programs fit on a multiprocessor: the exponentials of one
# run beside the products of the other. Not tuned on a GPU yet.
SHIPPED: dict[Key, LaunchConfig] = {
    **_everywhere("pointers", 4, ARCHITECTURES, LaunchConfig(64, 64, 32, 4, 3, False)),
    **_everywhere("pointers", 2, (80,), LaunchConfig(128, 128, 32, 8, 4, False)),
    **_everywhere("pointers", 2, (90, 100), LaunchConfig(128, 128, 64, 8, 3, False)),
    **_everywhere("bulk", 2, (90, 100), LaunchConfig(128, 128, 64, 8, 3, True)),
}
# Worth timing, for rows of whole 16 bytes; those by pointers are rare.
_OTHERS = (
    LaunchConfig(128, 128, 64, 8, 4, True),  # one more tile on its way; a single program fits
    LaunchConfig(128, 128, 128, 8, 2, True),  # half the waits for a tile; a single program fits
    # one warpgroup with twice the sums: two programs, fewer reads of shared memory
    LaunchConfig(128, 128, 64, 4, 3, True),
    LaunchConfig(128, 64, 64, 4, 2, True),  # small: four programs take turns
    LaunchConfig(256, 128, 64, 8, 3, True),  # a quarter less traffic from L2; a single program fits
)
# The same with wider instructions. log_sum_exp spills there: its two sums hold all columns at once.
_WIDE = LaunchConfig(128, 256, 64, 8, 3, True)
TRIALS: dict[Key, tuple[LaunchConfig, ...]] = {
    (kernel, "bulk", 2, 90): _OTHERS if kernel == "log_sum_exp" else (*_OTHERS, _WIDE) for kernel in KERNELS
}


def launch_config(kernel: str, itemsize: int, architecture: int, in_lines: bool) -> LaunchConfig:
    """What `kernel` runs with. in_lines: rows of features start at multiples of 16 bytes."""
    chips = family(architecture)
    fast: Key = kernel, "bulk", itemsize, chips
    if in_lines and fast in SHIPPED:
        return SHIPPED[fast]
    return SHIPPED[kernel, "pointers", itemsize, chips]


def constants(config: LaunchConfig, compute: tl.dtype) -> dict[str, object]:
    """The constexprs of a launch; features are multiplied in `compute`."""
    sizes = {"ROWS": config.rows, "COLUMNS": config.columns, "DEPTH": config.depth}
    return {"BULK": config.bulk, "COMPUTE": compute, **sizes}


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for each in configs:
            yield candidate(key, each, "bf16")


def gate_candidates() -> Iterator[Candidate]:
    """Every kernel with every shipped configuration, at a batch whose sizes are multiples of 16."""
    for key, shipped in SHIPPED.items():
        for dtype in DTYPES[key[2]]:
            yield candidate(key, shipped, dtype)
    pointers = ("row_parts", "column_parts", "rows", "columns")
    sizes = ("row_tiles", "column_tiles", "n_rows", "n_columns")
    yield Candidate(
        name=f"contrastive_loss/merge/{MERGED}x{PARTS}",
        kernel=kernels.merge_kernel,
        signature=dict.fromkeys(pointers, "*fp32") | dict.fromkeys(sizes, "i32"),
        constexprs={"BLOCK": MERGED, "PARTS": PARTS},
        aligned=(*pointers, "n_rows", "n_columns"),
    )


def candidate(key: Key, config: LaunchConfig, dtype: str) -> Candidate:
    """The kernel of `key` launched so, with features of `dtype`: "bf16", "fp16" or "fp32"."""
    kernel, loads, itemsize, architecture = key
    features = {"images": f"*{dtype}", "texts": f"*{dtype}"}
    if config.bulk:
        heights = {"images": config.rows, "texts": config.columns}
        features = {name: f"tensordesc<{dtype}[{height}, {config.depth}]>" for name, height in heights.items()}
    results = {"gradient": f"*{dtype}", "sums": "*fp32"}
    sizes = dict.fromkeys(("n_rows", "n_columns", "width"), "i32")
    matching = dict.fromkeys(("first_row", "first_column", "pairs"), "i32")
    others = {
        "log_sum_exp": dict.fromkeys(("row_parts", "column_parts", "positives"), "*fp32"),
        "softmax_gradient": dict.fromkeys(("row_totals", "column_totals"), "*fp32") | results | {"unit": "fp32"},
        "sigmoid_gradient": {"bias": "*fp32"} | results | {"counted": "i32", "unit": "fp32"},
    }[kernel]
    signature = features | {"scale": "*fp32"} | others | sizes | matching
    label = f"{dtype}-{config.rows}x{config.columns}x{config.depth}-{config.warps}w{config.stages}s"
    return Candidate(
        name=f"contrastive_loss/{kernel}/{label}{'-bulk' if config.bulk else ''}",
        kernel=KERNELS[kernel],
        signature=signature,
        constexprs=constants(config, getattr(tl, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype])),
        aligned=tuple(name for name, kind in signature.items() if kind.startswith("*") or name in sizes),
        num_warps=config.warps,
        num_stages=config.stages,
        architectures=(architecture,),
        wgmma=itemsize == 2,
        bulk_copies=loads == "bulk",
        async_copies=itemsize == 2,
    )
