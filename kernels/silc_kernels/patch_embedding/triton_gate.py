"""What the compile gate compiles of patch_embed: each kernel as it is launched, at patches of 16, 14, 8 and 20.

Sizes are compiled as Triton finds them: the width a multiple of 16, the others not looked at (do_not_specialize).
Position tables are float32, as parameters mostly are.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ..gate.gate import Candidate
from . import triton_gradient_kernels as patches_gradient_kernels
from . import triton_kernels as patches_kernels
from .triton_launch import SHIPPED, TRIALS, LaunchConfig, gradient_lines, projected_lines, variant
from .triton_plan import (
    FOLD_BLOCK,
    UNFOLD_BLOCK,
    gradient_bulk_constants,
    gradient_constants,
    project_bulk_constants,
    project_constants,
)

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
PRECISIONS = {"single": (torch.float32,), "half": (torch.bfloat16, torch.float16)}


class Crops(NamedTuple):
    """How crops come. unit: 16 for lines at multiples of 16 pixels; packed: pixels of a line one behind the other."""

    name: str
    kind: str
    unit: int
    packed: bool


BYTES = Crops("", "u8", 16, True)
OTHER_BYTES = Crops("/lines anywhere", "u8", 1, True)
# What else a call may bring: channels_last (and any other strides), a slice of a larger image, floats.
# Of what ships on 90, packed bytes at patches of 16: instructions a turn while tensor cores wait, as Triton 3.6 and 3.8
# compile it, and a little more.
_BETWEEN = {
    "project": 220,  # 204, 193
    "project_bulk": 205,  # 186, 190
    "gradient": 235,  # 207, 218
    "gradient_bulk": 120,  # 108, 110
}
OTHERS = (Crops("/channels_last", "u8", 1, False), OTHER_BYTES, Crops("/floats", "fp32", 16, True))


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
        yield from build(
            config, dtype, architecture, patch, BYTES if patch % 16 == 0 else OTHER_BYTES._replace(name="")
        )
    if dtype == torch.bfloat16 and config == SHIPPED[key]:
        for crops in OTHERS:
            unit = crops.unit if patches[0] % 16 == 0 else 1
            if _taken(kernel, patches[0], crops):
                yield from build(
                    replace(config, bulk=False), dtype, architecture, patches[0], crops._replace(unit=unit)
                )


def _taken(kernel: str, patch: int, crops: Crops) -> bool:
    """Whether such crops at this patch get this configuration, and not as BYTES do already."""
    return variant(kernel.split()[0], patch, floats=crops.kind != "u8", scattered=not crops.packed) == kernel and not (
        patch % 16 and crops == OTHER_BYTES
    )


def _project(
    config: LaunchConfig, dtype: torch.dtype, architecture: int, patch: int, crops: Crops
) -> Iterator[Candidate]:
    kind = TYPES[dtype]
    lines = projected_lines(patch, config.depth)
    size = f"{config.rows}x{lines.lines * lines.row}x{config.columns}"
    launch = _launch(config, architecture)
    table = kind if config.half_positions else "fp32"
    tensors = {"bias": "*fp32", "positions": f"*{table}", "out": f"*{kind}", "scale": "fp32"}
    sizes = dict.fromkeys(("tokens", "columns", "width", "before"), "i32")
    pointers = ("folded", "bias", "positions", "out")
    constants = project_constants(patch, lines, config, dtype, crops.kind == "u8", crops.unit)
    yield Candidate(
        name=f"patch_embed/project/{kind}/patch{patch}/{size}{crops.name}",
        kernel=patches_kernels.project,
        signature={"pixels": f"*{crops.kind}", "folded": f"*{kind}", **tensors, **sizes, "crops": "i32"}
        | _strides(patches_kernels.project, crops),
        constexprs=constants | _packed(crops),
        aligned=(*(("pixels",) if crops.packed else ()), *pointers, "width"),
        wgmma=dtype != torch.float32,
        between=_between("project", config, architecture, patch),
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
            aligned=(*pointers[1:], "width"),
            wgmma=True,
            bulk_copies=True,
            between=_between("project_bulk", config, architecture, patch),
            **launch,
        )


def _gradient(
    config: LaunchConfig, dtype: torch.dtype, architecture: int, patch: int, crops: Crops
) -> Iterator[Candidate]:
    kind = TYPES[dtype]
    lines = gradient_lines(patch, config.depth)
    size = f"{config.rows}x{lines.lines * lines.row}x{config.columns}"
    launch = _launch(config, architecture)
    sizes = dict.fromkeys(("crops", "tokens", "columns", "width", "before", "length", "first"), "i32")
    constants = gradient_constants(patch, lines, config, dtype, crops.kind == "u8", crops.unit)
    yield Candidate(
        name=f"patch_embed/gradient/{kind}/patch{patch}/{size}{crops.name}",
        kernel=patches_gradient_kernels.gradient,
        signature={"pixels": f"*{crops.kind}", "grad": f"*{kind}", "weight_partial": "*fp32", **sizes}
        | _strides(patches_gradient_kernels.gradient, crops),
        constexprs=constants | _packed(crops),
        aligned=(*(("pixels",) if crops.packed else ()), "grad", "weight_partial", "width"),
        wgmma=dtype != torch.float32,
        between=_between("gradient", config, architecture, patch),
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
                "weight_partial": "*fp32",
                **sizes,
            },
            constexprs=gradient_bulk_constants(lines, config, dtype, block),
            aligned=("weight_partial", "width"),
            wgmma=True,
            bulk_copies=True,
            between=_between("gradient_bulk", config, architecture, patch),
            **launch,
        )


def _strides(kernel: Any, crops: Crops) -> dict[str, str]:
    names = [name for name in kernel.arg_names if name.startswith("stride_")]
    return dict.fromkeys(names[:3] if crops.packed else names, "i32")


def _packed(crops: Crops) -> dict[str, int]:
    """A stride of 1 is compiled in."""
    return {"stride_pixel": 1} if crops.packed else {}


def _launch(config: LaunchConfig, architecture: int) -> dict[str, Any]:
    # On 90 four warps are for two programs side by side: one converts while the other multiplies.
    programs = 2 if architecture == 90 and config.num_warps == 4 and config.wait else 1
    return {
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        "architectures": (architecture,),
        "programs": programs,
    }


def _between(kernel: str, config: LaunchConfig, architecture: int, patch: int) -> int | None:
    ships = config == SHIPPED[kernel.removesuffix("_bulk"), "half", 90]
    return _BETWEEN[kernel] if ships and architecture == 90 and patch == 16 else None


def _small() -> Iterator[Candidate]:
    """The kernels that are not products."""
    floats = ("relative_1", "relative_2", "offset_0", "offset_1", "offset_2")
    for patch, line in ((16, 16), (14, 16), (64, 64)):
        if patch == 16:
            yield Candidate(
                name="patch_embed/fold/bf16/patch16",
                kernel=patches_kernels.fold,
                signature={
                    "weight": "*bf16",
                    "bias": "*bf16",
                    "folded": "*bf16",
                    "folded_bias": "*fp32",
                    "width": "i32",
                }
                | dict.fromkeys(floats, "fp32"),
                constexprs={"PATCH": 16, "ROW": 16, "LINES": 16, "BLOCK": FOLD_BLOCK},
                aligned=("weight", "bias", "folded", "folded_bias"),
            )
        tensors = ("partial", "sums", "d_weight", "d_bias", "d_prefix")
        sizes = ("raw_splits", "splits", "raw_tokens", "tokens", "prefixes", "before", "width", "pitch")
        gains = ("gain_0", "gain_1", "gain_2", "offset_0", "offset_1", "offset_2")
        yield Candidate(
            name=f"patch_embed/unfold/fp32/patch{patch}",
            kernel=patches_gradient_kernels.unfold,
            signature=dict.fromkeys(tensors, "*fp32") | dict.fromkeys(sizes, "i32") | dict.fromkeys(gains, "fp32"),
            constexprs={"PATCH": patch, "ROW": line, "LINES": line if patch > 16 else patch} | UNFOLD_BLOCK,
            aligned=(*tensors, "pitch"),
            # With Triton 3.8 alone, in a launch that adds up partial sums.
            spills={100: 24} if patch == 64 else {},
        )
