"""Every kernel and shipped tile compiles for every architecture, without spills and within its shared memory."""

import importlib
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import triton

from silc_kernels.distill import triton_head_launch as distill_head_tiles
from silc_kernels.gate import __main__ as command
from silc_kernels.gate import gate, shapes
from silc_kernels.gate.cases import Case
from silc_kernels.gate.sass import between, overlapped

ROOT = Path(__file__).resolve().parents[3]
CANDIDATES = list(command.candidates())
TRIALS = list(command.trials())
# Of the version of Triton in use.
WRITTEN = {(line["name"], line["architecture"]): line for line in command.read(command.table())}
TABLED = ("3.6", "3.8")  # versions of Triton whose tables are committed
UNTABLED = not WRITTEN and not triton.__version__.startswith(tuple(f"{version}." for version in TABLED))
if UNTABLED:
    warnings.warn(f"no {command.table().name}: kernels are held to their limits alone, not to a table", stacklevel=1)
REWRITE = f"{command.table().name} is of other kernels; run: python -m silc_kernels.gate --write"


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_compiles_within_the_limits_of_each_chip_and_as_written(candidate):
    wrong = []
    for architecture in candidate.architectures:
        row = gate.build(candidate, architecture)
        wrong += gate.faults(candidate, row)
        line = {name: str(value) for name, value in asdict(row).items()}
        assert UNTABLED or WRITTEN.get((row.name, str(architecture))) == line, REWRITE
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("candidate", TRIALS, ids=lambda candidate: candidate.name)
def test_alternatives_compile_within_the_limits_too(candidate):
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
    assert UNTABLED or list(WRITTEN) == names, REWRITE


def test_the_committed_table_of_shapes_holds_its_cases_without_a_fault():
    """That of the locked Triton, whatever is in use: test_dry.py compiles some of its cases."""
    lines = command.read(command.table().with_name("shapes.csv"))
    held = dict.fromkeys((line["op"], line["shape"]) for line in lines)
    again = "run: python -m silc_kernels.gate --shapes --write"
    assert list(held) == [(case.op, case.label) for case in shapes.cases()], again
    for line in lines:
        assert line["spill_bytes"] == "0" or line["reason"], line
        assert (line["serialized"], line["hazards"]) == ("False", "0"), line
        assert int(line["programs"]) >= 1, line
    for (op, kernel, part), (most, _) in shapes.ALLOWED.items():
        spilled = [
            int(line["spill_bytes"])
            for line in lines
            if (line["op"], line["kernel"]) == (op, kernel) and part in line["shape"]
        ]
        assert max(spilled, default=0) == most, f"no longer needed as it is: {op} {kernel} {part!r}"


def test_spills_are_accepted_with_a_reason_alone(monkeypatch):
    row = shapes.ShapeRow("op", "p=7 D=100", "kernel", 255, 80, 0, 1, False, 0, "")
    assert shapes.faults(row) == ["op p=7 D=100: kernel spills 80 bytes a thread (0 allowed)"]
    assert all(reason for _, reason in shapes.ALLOWED.values())
    monkeypatch.setitem(shapes.ALLOWED, ("op", "kernel", "p=7 "), (80, "a reason"))
    assert shapes.faults(row) == []
    assert shapes.faults(replace(row, shape="p=70 D=1")) != []
    assert "in flight in 2 instructions" in shapes.faults(replace(row, hazards=2))[0]
    assert "waits for each wgmma" in shapes.faults(replace(row, serialized=True))[0]
    assert "does not fit" in shapes.faults(replace(row, programs=0))[0]


def test_tables_are_of_a_version(monkeypatch, tmp_path):
    monkeypatch.setattr(command.triton, "__version__", "3.6.0")
    assert command.table().name == "compile_gate.csv"
    monkeypatch.setattr(command.triton, "__version__", "3.8.0")
    assert command.table("shapes").name == "shapes_triton38.csv"
    assert command.read(tmp_path / "none.csv") == []


VERSION = """
import sys, triton
triton.__version__ = {!r}
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", {!r}, "-k", "names_are_unique"]))
"""


@pytest.mark.parametrize("version", ["9.9.0", "3.60.1"])
def test_without_a_table_of_a_version_it_is_said_by_name_and_kernels_are_held_to_their_limits(version):
    done = subprocess.run(
        [sys.executable, "-c", VERSION.format(version, __file__)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"no compile_gate_triton{version[:-2].replace('.', '')}.csv" in done.stdout


def test_a_part_of_the_table_is_rewritten_in_the_order_of_the_candidates(tmp_path):
    def row(name: str, architecture: int, registers: int) -> gate.Row:
        return gate.Row(name, architecture, registers, 0, 0, False, False, False, False, False, 0, 1, 0)

    path = tmp_path / "table.csv"
    command.write([row("a", 90, 1), row("gone", 90, 1), row("c", 90, 1), row("a", 100, 1)], path)
    kept = [("a", 90), ("b", 90), ("c", 90), ("a", 100)]
    command.rewrite([row("b", 90, 2), row("c", 90, 2)], kept, path)
    lines = [(line["name"], line["architecture"], line["registers"]) for line in command.read(path)]
    assert lines == [("a", "90", "1"), ("b", "90", "2"), ("c", "90", "2"), ("a", "100", "1")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "nosuch"], "--only nosuch: no name contains it; there are distill_loss/"),
        (["--trials", "--only", "nosuch"], "no name contains it; there are distill_loss/"),
        (["--shapes", "--only", "nosuch"], "no name contains it; there are distill_loss, distill_head_loss, "),
        (["--trials", "--write"], "--trials goes with --only alone"),
        (["--trials", "--shapes"], "--trials goes with --only alone"),
    ],
)
def test_a_run_that_would_do_nothing_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert words in capsys.readouterr().err


def test_shapes_of_one_case_are_written_in_the_place_of_its_own(tmp_path, monkeypatch, capsys):
    """Whatever its kernels were, in the order of the cases; those of others stay, of no case any more go."""

    def row(shape: str, kernel: str, registers: int) -> shapes.ShapeRow:
        return shapes.ShapeRow("op", shape, kernel, registers, 0, 0, 1, False, 0, "")

    path = tmp_path / "shapes.csv"
    before = [row("n=1", "a", 1), row("n=2", "a", 1), row("n=2", "gone", 1), row("n=3", "a", 1), row("old", "a", 1)]
    command.write(before, path)
    monkeypatch.setattr(command, "table", lambda name: path)
    monkeypatch.setattr(shapes, "cases", lambda: [Case("op", f"n={n}", lambda make: None) for n in (0, 1, 2, 3)])
    monkeypatch.setattr(shapes, "compiled", lambda case: ([row(case.label, "a", 2), row(case.label, "b", 2)], []))
    command.main(["--shapes", "--write", "--only", "n=2"])
    heading, *printed = capsys.readouterr().out.splitlines()
    assert heading.split() == ["op", "shape", "kernel", "regs", "spill", "shared", "programs", "reason"]
    assert [line.split()[:4] for line in printed] == [["op", "n=2", "a", "2"], ["op", "n=2", "b", "2"]]
    lines = [(line["shape"], line["kernel"], line["registers"]) for line in command.read(path)]
    assert lines == [("n=1", "a", "1"), ("n=2", "a", "2"), ("n=2", "b", "2"), ("n=3", "a", "1")]


def test_what_is_wrong_with_a_kernel_is_said():
    candidate = next(c for c in CANDIDATES if c.bulk_copies and c.wgmma)
    candidate = replace(candidate, overlap=True, programs=2, between=40, spills={})
    good = gate.Row(candidate.name, 90, 200, 0, 98304, True, False, True, True, True, 0, 2, 40)
    assert not gate.faults(candidate, good)
    for flaw, said in (
        ({"spill_bytes": 4}, "spills 4 bytes"),
        ({"shared_bytes": 233000}, "233000 bytes of shared memory"),
        ({"wgmma": False}, "no wgmma"),
        ({"serialized": True}, "waits for each wgmma"),
        ({"bulk_copies": False}, "no bulk tensor copies"),
        ({"hazards": 3}, "registers of a wgmma in flight in 3 instructions"),
        ({"overlapped": False}, "multiplies nothing while it takes exponentials"),
        ({"programs": 1}, "runs 1 at a time on a multiprocessor, not 2"),
        ({"between": 41}, "waiting for 41 instructions a turn (40 at most)"),
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


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (["FMUL R1, R1, R2 ;", PRODUCT, "FMUL R1, R1, R2 ;", WAIT], 1),
        ([PRODUCT, WAIT, "FMUL R1, R1, R2 ;", "@P0 MOV R1, R2 ;", PRODUCT, WAIT, "BAR.SYNC.DEFER_BLOCKING 0x0 ;"], 3),
        (["FMUL R1, R1, R2 ;", PRODUCT], 0),  # that of the turn before
        ([PRODUCT, "WARPGROUP.DEPBAR.LE gsb0, 0x1 ;", "FMUL R1, R1, R2 ;"], 0),  # one is left in flight
        (["FMUL R1, R1, R2 ;"], 0),
    ],
)
def test_machine_code_tells_what_products_wait_for(body, expected):
    assert between(LOOP.format("\n ".join(body))) == expected


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "architecture", "expected"),
    [
        (128, 8, 98328, 90, 2),  # registers and shared memory: two
        (129, 8, 0, 90, 1),  # 136 registers a thread, 3 warps in each quarter
        (255, 8, 196640, 90, 1),
        (72, 4, 0, 90, 7),  # 7 warps in each quarter
        (32, 4, 0, 90, 16),  # 64 warps
        (16, 1, 0, 90, 32),
        (128, 4, 57344, 90, 4),
        (128, 4, 57344, 80, 2),
        (255, 16, 0, 90, 0),
    ],
)
def test_programs_of_a_multiprocessor_are_counted(registers, warps, shared, architecture, expected):
    assert gate.programs(registers, warps, shared, architecture) == expected


def test_without_overlap_the_exponentials_are_waited_for():
    key = "attend student", 90
    plain = distill_head_tiles.candidate(key, distill_head_tiles.TRIALS[key][0], "bf16")
    assert not gate.build(plain, 90).overlapped
