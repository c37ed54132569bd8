"""contrastive_loss on Triton: launches of each kernel by chip, and what the compile gate builds.

The order of programs that find G is rows first, without groups: a launch sees at most 2^24 similarities, 4096 x 4096
by default, whose features, 6 MiB a side at d = 768 in bfloat16, both stay in an H100's 50 MiB of L2 beside the 32 MiB
of G. Every feature is read from memory once in any order; what a program reads from L2, its own rows and columns, no
order changes. Rows first, the programs that run together share a few blocks of texts and leave them for good.
Log-sum-exps take up to 2^28 in a launch, whose features may not fit L2: there the programs of GROUP tiles of rows
follow one another.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import triton.language as tl

from ..common.launcher import Launcher, launcher
from ..common.triton_runtime import family
from ..gate.gate import ARCHITECTURES, Candidate
from . import triton_kernels as kernels


class LaunchConfig(NamedTuple):
    """How a kernel is launched.

    rows, columns, depth: of the tile of similarities a program finds, and of the features it holds at a time.
    warps, stages: of the launch.
    bulk: features come by the copy engine.
    registers: a thread, at most; 0: as the compiler likes.
    programs: that a multiprocessor takes at the least; the gate refuses fewer.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    bulk: bool
    registers: int = 0
    programs: int = 1


# kernel, how features come, bytes of a feature, architecture
Key = tuple[str, str, int, int]
KERNELS = {
    "log_sum_exp": kernels.log_sum_exp_kernel,
    "softmax_gradient": kernels.softmax_gradient_kernel,
    "sigmoid_gradient": kernels.sigmoid_gradient_kernel,
}
DTYPES = {2: ("bf16", "fp16"), 4: ("fp32",)}
MERGED, PARTS = 128, 32
# Tiles of rows that programs of log_sum_exp work on together: 2048 rows, 3 MiB at d = 768.
GROUP = 16
# Pairs of a program of pairs_kernel, and features of them held at a time. Given no bound on registers, some versions of
# ptxas aim at more programs and spill 8 bytes.
PAIRS, PAIRS_DEPTH, PAIRS_REGISTERS = 16, 128, 128


def _everywhere(
    loads: str, itemsize: int, architectures: Iterable[int], config: LaunchConfig
) -> dict[Key, LaunchConfig]:
    return {(kernel, loads, itemsize, architecture): config for kernel in KERNELS for architecture in architectures}


# 80 stands for every chip that is not one of the others. On sm_90 each kernel is held to 128 registers a thread and
# takes 96 KiB, so that two programs fit on a multiprocessor: exponentials of one run beside products of the other.
# Without being held, softmax_gradient takes 139; it does not spill at 128.
SHIPPED: dict[Key, LaunchConfig] = {
    **_everywhere("pointers", 4, ARCHITECTURES, LaunchConfig(64, 64, 32, 4, 3, False, programs=2)),
    **_everywhere("pointers", 2, (80,), LaunchConfig(128, 128, 32, 8, 4, False)),
    **_everywhere("bulk", 2, (90,), LaunchConfig(128, 128, 64, 8, 3, True, 128, 2)),
    **_everywhere("bulk", 2, (100,), LaunchConfig(128, 128, 64, 8, 3, True)),
}
# Worth timing.
_OTHERS = (
    LaunchConfig(128, 128, 64, 8, 4, True),  # one more tile on its way; a single program fits
    LaunchConfig(128, 128, 128, 8, 2, True),  # half the waits for a tile; a single program fits
    LaunchConfig(128, 64, 64, 4, 2, True),  # small: three or four programs take turns
    # one warpgroup with twice the sums: two programs, fewer reads of shared memory
    LaunchConfig(128, 128, 64, 4, 3, True),
    LaunchConfig(256, 128, 64, 8, 3, True),  # a quarter less traffic from L2; a single program fits
    LaunchConfig(128, 256, 64, 8, 3, True),  # the same with wider instructions
    LaunchConfig(128, 256, 64, 8, 4, True),  # and one more tile on its way
)
TRIALS: dict[Key, tuple[LaunchConfig, ...]] = {(kernel, "bulk", 2, 90): _OTHERS for kernel in KERNELS}


def launch_config(kernel: str, itemsize: int, architecture: int) -> LaunchConfig:
    """What `kernel` runs with."""
    chips = family(architecture)
    fast: Key = kernel, "bulk", itemsize, chips
    return SHIPPED[fast] if fast in SHIPPED else SHIPPED[kernel, "pointers", itemsize, chips]


@functools.cache
def launcher_of(kernel: str, config: LaunchConfig, compute: torch.dtype) -> Launcher:
    """Features are multiplied in `compute`."""
    dtype = getattr(tl, str(compute).removeprefix("torch."))
    options = {"num_warps": config.warps, "num_stages": config.stages, "maxnreg": config.registers or None}
    return launcher(KERNELS[kernel], **constants(kernel, config, dtype), **options)


# One function each, as finding a launcher by its kernel takes a lock and a hash of the kernel's source.
@functools.cache
def merge_launcher(rows: int, columns: int) -> Launcher:
    """rows, columns: of the tiles of log_sum_exp."""
    return launcher(kernels.merge_kernel, ROWS=rows, COLUMNS=columns, BLOCK=MERGED, PARTS=PARTS)


@functools.cache
def merge_ranks_launcher() -> Launcher:
    return launcher(kernels.merge_ranks_kernel, BLOCK=MERGED, PARTS=PARTS)


@functools.cache
def pairs_launcher(softmax: bool, image: bool, text: bool) -> Launcher:
    """image, text: which gradients are wanted."""
    flags = {"SOFTMAX": softmax, "IMAGE": image, "TEXT": text}
    return launcher(kernels.pairs_kernel, **flags, BLOCK=PAIRS, DEPTH=PAIRS_DEPTH, maxnreg=PAIRS_REGISTERS)


@functools.cache
def text_pairs_launcher() -> Launcher:
    return launcher(kernels.text_pairs_kernel, BLOCK=PAIRS, DEPTH=PAIRS_DEPTH, maxnreg=PAIRS_REGISTERS)


def constants(kernel: str, config: LaunchConfig, compute: tl.dtype) -> dict[str, object]:
    """The constexprs of a launch; features are multiplied in `compute`."""
    sizes = {"ROWS": config.rows, "COLUMNS": config.columns, "DEPTH": config.depth}
    return {"BULK": config.bulk, "COMPUTE": compute, **sizes} | ({"GROUP": GROUP} if kernel == "log_sum_exp" else {})


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for each in configs:
            yield candidate(key, each, "bf16")


def gate_candidates() -> Iterator[Candidate]:
    """Every kernel with every shipped configuration, as it is specialised whatever the batch and the width."""
    for key, shipped in SHIPPED.items():
        for dtype in DTYPES[key[2]]:
            yield candidate(key, shipped, dtype)
    parts = ("row_parts", "column_parts", "rows", "columns")
    places = ("row", "n_rows", "column", "n_columns", "across", "view", "fresh_rows", "fresh_columns")
    tile = SHIPPED["log_sum_exp", "bulk", 2, 90]
    yield Candidate(
        name=f"contrastive_loss/merge/{MERGED}x{PARTS}",
        kernel=kernels.merge_kernel,
        signature=dict.fromkeys(parts, "*fp32") | dict.fromkeys(places, "i32"),
        constexprs={"ROWS": tile.rows, "COLUMNS": tile.columns, "BLOCK": MERGED, "PARTS": PARTS},
        aligned=parts,
    )
    yield Candidate(
        name=f"contrastive_loss/merge_ranks/{MERGED}x{PARTS}",
        kernel=kernels.merge_ranks_kernel,
        signature={"parts": "*fp32", "columns": "*fp32"} | dict.fromkeys(("ranks", "taken", "n", "start"), "i32"),
        constexprs={"BLOCK": MERGED, "PARTS": PARTS},
        aligned=("parts", "columns"),
    )
    for dtype in ("bf16", "fp32"):
        for softmax in (True, False):
            yield pairs_candidate(softmax, dtype)
        pointers = {"images": f"*{dtype}", "pulls": "*fp32", "d_text": "*fp32"}
        yield Candidate(
            name=f"contrastive_loss/text_pairs/{dtype}-{PAIRS}x{PAIRS_DEPTH}",
            kernel=kernels.text_pairs_kernel,
            signature=pointers | dict.fromkeys(("n", "views", "width"), "i32"),
            constexprs={"BLOCK": PAIRS, "DEPTH": PAIRS_DEPTH},
            aligned=(*pointers, "width"),
            max_registers=PAIRS_REGISTERS,
        )


def pairs_candidate(softmax: bool, dtype: str) -> Candidate:
    """What ends a loss, all gradients wanted."""
    pointers = dict.fromkeys(("images", "texts"), f"*{dtype}") | {"scale": "*fp32", "bias": "*fp32"}
    statistics = ("row_totals", "column_totals", "positives")
    known = dict.fromkeys(statistics, "*fp32") if softmax else {}
    results = dict.fromkeys(("pulls", "d_image", "sums"), "*fp32")
    sizes = dict.fromkeys(("n", "views", "width", "across", "column", "length", "at"), "i32")
    flags = {"SOFTMAX": softmax, "IMAGE": True, "TEXT": True, "BLOCK": PAIRS, "DEPTH": PAIRS_DEPTH}
    return Candidate(
        name=f"contrastive_loss/pairs_{'softmax' if softmax else 'sigmoid'}/{dtype}-{PAIRS}x{PAIRS_DEPTH}",
        kernel=kernels.pairs_kernel,
        signature=pointers | known | results | sizes,
        constexprs=flags | ({} if softmax else dict.fromkeys(statistics)),
        aligned=(*pointers, *known, *results, "width"),
        max_registers=PAIRS_REGISTERS,
    )


def candidate(key: Key, config: LaunchConfig, dtype: str) -> Candidate:
    """The kernel of `key` launched so, with features of `dtype`: "bf16", "fp16" or "fp32"."""
    kernel, loads, itemsize, architecture = key
    features = {"images": f"*{dtype}", "texts": f"*{dtype}"}
    if config.bulk:
        heights = {"images": config.rows, "texts": config.columns}
        features = {name: f"tensordesc<{dtype}[{height}, {config.depth}]>" for name, height in heights.items()}
    sizes = ("row", "n_rows", "column", "n_columns", "width", "first_row", "first_column", "pairs")
    results = {"gradient": f"*{dtype}", "sums": "*fp32", "unit": "fp32"}
    results |= dict.fromkeys(("stride", "length", "counted"), "i32")
    others = {
        "log_sum_exp": dict.fromkeys(("row_parts", "column_parts", "positives"), "*fp32"),
        "softmax_gradient": dict.fromkeys(("row_totals", "column_totals"), "*fp32")
        | dict.fromkeys(("across", "view"), "i32")
        | results,
        "sigmoid_gradient": {"bias": "*fp32"} | results,
    }[kernel]
    signature = features | {"scale": "*fp32"} | others | dict.fromkeys(sizes, "i32")
    label = f"{dtype}-{config.rows}x{config.columns}x{config.depth}-{config.warps}w{config.stages}s"
    compute = getattr(tl, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype])
    return Candidate(
        name=f"contrastive_loss/{kernel}/{label}{'-bulk' if config.bulk else ''}",
        kernel=KERNELS[kernel],
        signature=signature,
        constexprs=constants(kernel, config, compute),
        aligned=tuple(name for name, kind in signature.items() if kind.startswith("*") or name in ("width", "stride")),
        num_warps=config.warps,
        num_stages=config.stages,
        max_registers=config.registers or None,
        programs=config.programs,
        architectures=(architecture,),
        wgmma=itemsize == 2,
        bulk_copies=loads == "bulk",
        async_copies=itemsize == 2,
        # With Triton 3.8 alone; float32 is not what a GPU trains in.
        spills={80: 16} if (kernel, dtype) == ("softmax_gradient", "fp32") else {},
    )
