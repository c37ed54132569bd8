"""Registers that a warpgroup product in flight may still read: nothing that ships writes them."""

from dataclasses import replace

import pytest
import torch

from silc_kernels.gate import gate
from silc_kernels.gate.sass import hazards
from silc_kernels.patch_embedding import triton_gate as patches
from silc_kernels.patch_embedding.triton_launch import SHIPPED, TRIALS, variant

LOOP = """
.L_x_1:
{}
        /*0700*/              @!P0 BRA `(.L_x_1) ;
        /*0710*/                   EXIT ;
"""
CONVERT = "F2FP.BF16.F32.PACK_AB {}, R7, R6"
FIRST = "HGMMA.64x256x16.F32.BF16 R24, R152, gdesc[UR16], R24, gsb0"
SECOND = "HGMMA.64x256x16.F32.BF16 R24, R156, gdesc[UR16], R24, gsb0"
SHARED = "HGMMA.64x256x16.F32.BF16 R24, gdesc[UR16], R24, gsb0"
UNCOMMITTED = "HGMMA.64x256x16.F32.BF16 R24, R152, gdesc[UR16], R24"
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x{}"


def loop(*steps: str) -> str:
    return LOOP.format("\n".join(f"        /*{number:04x}*/  {step} ;" for number, step in enumerate(steps)))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # Written for the next turn before the wait.
        ([CONVERT.format("R152"), FIRST], 1),
        ([CONVERT.format("R152"), FIRST, WAIT.format(1)], 1),
        ([CONVERT.format("R152"), FIRST, WAIT.format(0)], 0),
        ([WAIT.format(0), CONVERT.format("R155"), FIRST], 0),
        ([CONVERT.format("R151"), FIRST, CONVERT.format("R156")], 0),
        # A wait for all but the last group: of two products the first is done.
        ([FIRST, SECOND, WAIT.format(1), CONVERT.format("R152"), WAIT.format(0)], 0),
        ([FIRST, SECOND, WAIT.format(1), CONVERT.format("R156"), WAIT.format(0)], 1),
        ([FIRST, SHARED, WAIT.format(1), CONVERT.format("R152"), WAIT.format(0)], 0),
        ([SHARED, CONVERT.format("R152"), CONVERT.format("R24")], 0),
        # Products of one group are waited for together; what is not committed, by nothing.
        ([UNCOMMITTED, SECOND, WAIT.format(1), CONVERT.format("R152"), WAIT.format(0)], 1),
        ([UNCOMMITTED, WAIT.format(0), CONVERT.format("R152")], 1),
        # A wait that may not happen is none.
        ([CONVERT.format("R152"), FIRST, "@P1 " + WAIT.format(0)], 1),
        # Wide writes reach further; reads, stores and predicates write no register.
        ([FIRST, "LDS.128 R149, [R5]", "LDSM.16.M88.4 R149, [R5]", "IMAD.WIDE R151, R2, R3, R4", WAIT.format(0)], 3),
        ([FIRST, "LDS.64 R150, [R5]", "LDS.U16 R151, [R5]", WAIT.format(0)], 0),
        ([FIRST, "STS.128 [R152], R152", "ISETP.GE.AND P0, PT, R152, R153, PT", "R2UR UR4, R152", WAIT.format(0)], 0),
        ([FIRST, "LOP3.LUT P0, R152, R1, R2, RZ, 0xc0, !PT", "@!P1 MOV R153, R152", WAIT.format(0)], 2),
    ],
)
def test_writes_under_a_product_in_flight_are_counted(steps, expected):
    assert hazards(loop(*steps)) == expected


def test_all_ways_through_a_kernel_are_followed():
    """The wait lies on one of two ways, then on both; and code moved out of the way is come back from."""
    branch = """
{first}
        /*0010*/              @P0 BRA `(.L_x_2) ;
        /*0020*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0030*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*0040*/                   {there} ;
        /*0050*/                   BRA `(.L_x_3) ;
.L_x_3:
        /*0060*/                   MOV R152, R1 ;
        /*0070*/                   EXIT ;
"""
    first = f"        /*0000*/                   {FIRST} ;"
    assert hazards(branch.format(first=first, there="NOP")) == 1
    assert hazards(branch.format(first=first, there=WAIT.format(0))) == 0
    assert hazards("") == 0


def test_many_products_without_a_wait_end():
    many = [f"HGMMA.64x256x16.F32.BF16 R24, R{100 + 4 * n}, gdesc[UR16], R24, gsb0" for n in range(20)]
    assert hazards(loop(*many, CONVERT.format("R100"))) == 1


def test_a_jump_that_cannot_be_followed_is_an_error():
    with pytest.raises(ValueError, match="BRX"):
        hazards(loop("BRX R2 -0x10"))


@pytest.mark.parametrize("kernel", ["project", "project narrow", "gradient", "gradient narrow"])
def test_the_patch_embedding_without_its_waits_is_refused(kernel):
    """The form that ran on an H200 until November 2026: registers are written while products read them."""
    key = kernel, "half", 90
    unsafe = replace(SHIPPED[key], wait=False)
    for candidate in patches.candidates(key, unsafe, torch.bfloat16):
        row = gate.build(candidate, 90)
        assert row.hazards > 0
        assert any("registers of a wgmma in flight" in fault for fault in gate.faults(candidate, row))


def test_all_that_multiplies_from_registers_on_sm_90_waits():
    for (_, precision, architecture), config in SHIPPED.items():
        assert config.wait == (precision == "half" and architecture == 90)
    assert all(config.wait for configs in TRIALS.values() for config in configs)


@pytest.mark.parametrize(("kernel", "patch"), [("project", 7), ("project", 32), ("gradient", 32), ("gradient", 7)])
@pytest.mark.parametrize("pixels", ["u8", "fp32"])
def test_other_patches_and_crops_of_floats_have_no_hazards(kernel, patch, pixels):
    key = variant(kernel, patch, floats=pixels != "u8", scattered=False), "half", 90
    build = patches._project if kernel == "project" else patches._gradient
    crops = patches.Crops("", pixels, 16 if patch % 16 == 0 else 1, True)
    built = list(build(replace(SHIPPED[key], bulk=pixels == "u8"), torch.bfloat16, 90, patch, crops))
    assert built
    for candidate in built:
        assert gate.build(candidate, 90).hazards == 0
