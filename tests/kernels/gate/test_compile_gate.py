"""Every kernel and shipped tile compiles for every architecture, without spills and within its shared memory."""

import csv
import importlib
from dataclasses import replace

import pytest

from silc_kernels.distill import triton_head_launch as distill_head_tiles
from silc_kernels.gate import __main__ as command
from silc_kernels.gate import gate
from silc_kernels.gate.sass import overlapped

CANDIDATES = list(command.candidates())
TRIALS = list(command.trials())


@pytest.mark.parametrize("candidate", [*CANDIDATES, *TRIALS], ids=lambda candidate: candidate.name)
def test_compiles_within_the_limits_of_each_chip(candidate):
    wrong = []
    for architecture in candidate.architectures:
        wrong += gate.faults(candidate, gate.build(candidate, architecture))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "table",
    [
        "distill.triton_logits_launch",
        "distill.triton_head_launch",
        "contrastive.triton_launch",
        "crops.triton_launch",
        "patch_embedding.triton_launch",
        "photometry.triton_launch",
    ],
)
def test_trials_are_alternatives_to_what_ships(table):
    module = importlib.import_module(f"silc_kernels.{table}")
    for key, trials in module.TRIALS.items():
        assert module.SHIPPED[key] not in trials
        assert len(set(trials)) == len(trials) > 0


def test_names_are_unique_and_the_committed_table_holds_them_all():
    names = [(candidate.name, str(sm)) for candidate in CANDIDATES for sm in candidate.architectures]
    assert len(set(names)) == len(names)
    with command.TABLE.open() as file:
        written = [(row["name"], row["architecture"]) for row in csv.DictReader(file)]
    assert written == names, "run: python -m silc_kernels.gate --write"


def test_what_is_wrong_with_a_kernel_is_said():
    candidate = replace(next(c for c in CANDIDATES if c.bulk_copies and c.wgmma), overlap=True)
    good = gate.Row(candidate.name, 90, 200, 0, 98304, True, False, True, True, True, 0)
    assert not gate.faults(candidate, good)
    for flaw, said in (
        ({"spill_bytes": 4}, "spills 4 bytes"),
        ({"shared_bytes": 233000}, "233000 bytes of shared memory"),
        ({"wgmma": False}, "no wgmma"),
        ({"serialized": True}, "waits for each wgmma"),
        ({"bulk_copies": False}, "no bulk tensor copies"),
        ({"hazards": 3}, "registers of a wgmma in flight in 3 instructions"),
        ({"overlapped": False}, "multiplies nothing while it takes exponentials"),
    ):
        (fault,) = gate.faults(candidate, replace(good, **flaw))
        assert said in fault
        assert candidate.name in fault


def test_reports_of_ptxas_are_read():
    report = """ptxas info    : 0 bytes gmem
ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized due to x in 'kernel'
ptxas info    : Compiling entry function 'kernel' for 'sm_90a'
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers"""
    assert gate.resources(report) == (128, 20)
    assert gate.serialized(report)
    assert not gate.serialized(report.replace("C7515", "").replace("serialized", ""))


LOOP = """
.L_x_1:
 {}
        /*0700*/              @!P0 BRA `(.L_x_1) ;
.L_x_2:
        /*0710*/                   BRA `(.L_x_1) ;
"""
PRODUCT, WAIT = "HGMMA.64x64x16.F32.BF16 R152, gdesc[UR44], R152 ;", "WARPGROUP.DEPBAR.LE gsb0, 0x0 ;"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (["MUFU.EX2 R1, R2 ;", PRODUCT, WAIT, PRODUCT], True),  # that of the turn before
        ([WAIT, "MUFU.EX2 R1, R2 ;", PRODUCT, WAIT, PRODUCT], False),  # and waited for too soon
        ([PRODUCT, WAIT, "MUFU.EX2 R1, R2 ;", PRODUCT], False),
        ([WAIT, PRODUCT, "MUFU.EX2 R1, R2 ;", WAIT], True),
        (["MUFU.EX2 R1, R2 ;"], False),
        ([PRODUCT], False),
    ],
)
def test_machine_code_tells_what_runs_while_products_are_in_flight(body, expected):
    assert overlapped(LOOP.format("\n ".join(body))) is expected


def test_without_overlap_the_exponentials_are_waited_for():
    key = "attend student", 90
    plain = distill_head_tiles.candidate(key, distill_head_tiles.TRIALS[key][0], "bf16")
    assert not gate.build(plain, 90).overlapped
