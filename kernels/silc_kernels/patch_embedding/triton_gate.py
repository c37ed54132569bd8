"""What the compile gate compiles of patch_embed: each kernel as it is launched, at patches of 16, 14, 8 and 20."""

from collections.abc import Iterator
from typing import Any

import torch

from ..gate.gate import Candidate
from . import triton_gradient_kernels as patches_gradient_kernels
from . import triton_kernels as patches_kernels
from .triton_backend import (
    FOLD_BLOCK,
    UNFOLD_BLOCK,
    gradient_bulk_constants,
    gradient_constants,
    project_bulk_constants,
    project_constants,
)
from .triton_launch import SHIPPED, TRIALS, LaunchConfig, gradient_lines, projected_lines

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
STRIDES = ("stride_crop", "stride_channel", "stride_line", "stride_pixel")
# As launched for contiguous bytes: a stride of 1 is compiled in.
CONTIGUOUS = {"stride_pixel": 1}


PRECISIONS = {"single": (torch.float32,), "half": (torch.bfloat16, torch.float16)}


def gate_candidates() -> Iterator[Candidate]:
    for key, config in SHIPPED.items():
        for dtype in PRECISIONS[key[1]]:
            yield from candidates(key, config, dtype)
    yield from _small()


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for config in configs:
            yield from candidates(key, config, torch.bfloat16)


def candidates(key: tuple[str, str, int], config: LaunchConfig, dtype: torch.dtype) -> Iterator[Candidate]:
    """What `config` in the place of SHIPPED[key] makes of each patch size that is launched with it."""
    kernel, _, architecture = key
    build = _gradient if kernel.startswith("gradient") else _project
    patches: tuple[int, ...] = (14, 8) if kernel.endswith("narrow") else (16,)
    patches += (20,) if kernel == "project narrow" else ()
    for patch in patches if dtype == torch.bfloat16 else patches[:1]:
        yield from build(config, dtype, architecture, patch)


def _project(config: LaunchConfig, dtype: torch.dtype, architecture: int, patch: int) -> Iterator[Candidate]:
    kind = TYPES[dtype]
    lines = projected_lines(patch, config.depth)
    size = f"{config.rows}x{lines.lines * lines.row}x{config.columns}"
    launch = _launch(config, architecture)
    tensors = {"bias": "*fp32", "positions": f"*{kind}", "out": f"*{kind}", "scale": "fp32"}
    sizes = dict.fromkeys(("tokens", "columns", "width", "before"), "i32")
    pointers = ("folded", "bias", "positions", "out")
    # Sides of 256 and 96: strides are multiples of 16 where the patch is one.
    strided = STRIDES[:3] if patch % 16 == 0 else ()
    yield Candidate(
        name=f"patch_embed/project/{kind}/patch{patch}/{size}",
        kernel=patches_kernels.project,
        signature={"pixels": "*u8", "folded": f"*{kind}", **tensors, **sizes, "crops": "i32"}
        | dict.fromkeys(STRIDES[:3], "i32"),
        constexprs=project_constants(patch, lines, config, dtype, raw=True) | CONTIGUOUS,
        aligned=("pixels", *pointers, "width", *strided),
        wgmma=dtype != torch.float32,
        **launch,
    )
    if config.bulk and patch % 16 == 0:
        block = (config.rows // 16, 16)
        yield Candidate(
            name=f"patch_embed/project_bulk/{kind}/patch{patch}/{size}",
            kernel=patches_kernels.project_bulk,
            signature={
                "pixels": f"tensordesc<u8[1, {lines.lines}, {block[0]}, {block[1] * patch}]>",
                "folded": f"tensordesc<{kind}[{config.columns}, {lines.lines * lines.row}]>",
                **tensors,
                **sizes,
            },
            constexprs=project_bulk_constants(lines, config, dtype, block),
            aligned=(*pointers[1:], "tokens", "columns", "width"),
            wgmma=True,
            bulk_copies=True,
            **launch,
        )


def _gradient(config: LaunchConfig, dtype: torch.dtype, architecture: int, patch: int) -> Iterator[Candidate]:
    kind = TYPES[dtype]
    lines = gradient_lines(patch, config.depth)
    size = f"{config.rows}x{lines.lines * lines.row}x{config.columns}"
    launch = _launch(config, architecture)
    outputs = {"weight_partial": "*fp32"}
    sizes = dict.fromkeys(("crops", "tokens", "columns", "width", "before", "length"), "i32")
    strided = STRIDES[:3] if patch % 16 == 0 else ()
    yield Candidate(
        name=f"patch_embed/gradient/{kind}/patch{patch}/{size}",
        kernel=patches_gradient_kernels.gradient,
        signature={"pixels": "*u8", "grad": f"*{kind}", **outputs, **sizes} | dict.fromkeys(STRIDES[:3], "i32"),
        constexprs=gradient_constants(patch, lines, config, dtype, raw=True) | CONTIGUOUS,
        aligned=("pixels", "grad", *outputs, "width", *strided),
        wgmma=dtype != torch.float32,
        **launch,
    )
    if config.bulk and patch % 16 == 0:
        block = (config.rows // 16, 16)
        yield Candidate(
            name=f"patch_embed/gradient_bulk/{kind}/patch{patch}/{size}",
            kernel=patches_gradient_kernels.gradient_bulk,
            signature={
                "pixels": f"tensordesc<u8[1, {lines.lines}, {block[0]}, {block[1] * patch}]>",
                "grad": f"tensordesc<{kind}[{config.rows}, {config.columns}]>",
                **outputs,
                **sizes,
            },
            constexprs=gradient_bulk_constants(lines, config, dtype, block),
            aligned=(*outputs, "tokens", "columns", "width"),
            wgmma=True,
            bulk_copies=True,
            **launch,
        )


def _launch(config: LaunchConfig, architecture: int) -> dict[str, Any]:
    return {"num_warps": config.num_warps, "num_stages": config.num_stages, "architectures": (architecture,)}


def _small() -> Iterator[Candidate]:
    """The kernels that are not products."""
    floats = ("relative_1", "relative_2", "offset_0", "offset_1", "offset_2")
    yield Candidate(
        name="patch_embed/fold/bf16/patch16",
        kernel=patches_kernels.fold,
        signature={"weight": "*bf16", "bias": "*bf16", "folded": "*bf16", "folded_bias": "*fp32"}
        | dict.fromkeys(floats, "fp32"),
        constexprs={"PATCH": 16, "ROW": 16, "LINES": 16, "BLOCK": FOLD_BLOCK},
        aligned=("weight", "bias", "folded", "folded_bias"),
    )
    gains = ("gain_0", "gain_1", "gain_2", "offset_0", "offset_1", "offset_2")
    yield Candidate(
        name="patch_embed/unfold/fp32/patch16",
        kernel=patches_gradient_kernels.unfold,
        signature={"partial": "*fp32", "raw_bias": "*fp32", "out": "*fp32"}
        | dict.fromkeys(("raw_splits", "splits", "width"), "i32")
        | dict.fromkeys(gains, "fp32"),
        constexprs={"PATCH": 16, "ROW": 16, "LINES": 16} | UNFOLD_BLOCK,
        aligned=("partial", "raw_bias", "out", "width"),
    )
