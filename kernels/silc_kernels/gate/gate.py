"""The compile gate: every kernel and every shipped tile, compiled for each architecture without a GPU.

    python -m silc_kernels.gate.gate            compile, check and print the table
    python -m silc_kernels.gate.gate --write    and write it to compile_gate.csv, beside this file
    python -m silc_kernels.gate.gate --trials   the tiles that are to be timed against those that ship

Registers, spills and serialised products are what the bundled ptxas says, shared memory and instructions are read off
the compiled kernel. A serialised wgmma is waited for before the next is issued: and nothing else tells.
The compiler does not refuse a kernel that asks for more shared memory than a chip has; the gate does.
"""

import argparse
import csv
import importlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .sass import overlapped

TABLE = Path(__file__).with_name("compile_gate.csv")
ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Each names the kernels it ships in `gate_candidates()`.
MODULES: tuple[str, ...] = (
    "distill.triton_logits_launch",
    "distill.triton_head_launch",
    "patch_embedding.triton_gate",
    "contrastive.triton_launch",
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One kernel with one tile, as it is launched.

    Attributes:
        name: "op/kernel/tile", unique.
        kernel: the jitted function.
        signature: argument -> type ("*bf16", "i32", "fp32"); constexprs are left out.
        constexprs: argument -> value.
        aligned: arguments (pointers, strides, sizes) that are multiples of 16 at launch, as Triton would find them.
        num_warps, num_stages: of the launch.
        architectures: where this tile ships.
        wgmma: its products must be warpgroup instructions on sm_90.
        bulk_copies: tiles must come by the bulk tensor copy engine on sm_90.
        async_copies: loads must be pipelined by asynchronous copies (cp.async, or the copy engine).
        overlap: on sm_90 its exponentials must run while products are in flight.
        spills: architecture -> bytes of spills allowed; say why at the place that sets it.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3
    architectures: tuple[int, ...] = ARCHITECTURES
    wgmma: bool = False
    bulk_copies: bool = False
    async_copies: bool = False
    overlap: bool = False
    spills: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What a compiled kernel takes: registers a thread, bytes of spills a thread, bytes of shared memory a program.

    serialized: ptxas could not keep warpgroup products in flight (its C7510 to C7520).
    overlapped: in every loop with warpgroup products, exponentials run while one is in flight.
    """

    name: str
    architecture: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    wgmma: bool
    serialized: bool
    bulk_copies: bool
    async_copies: bool
    overlapped: bool


def candidates() -> Iterator[Candidate]:
    """All kernels and tiles that ship."""
    for module in MODULES:
        yield from importlib.import_module(f"silc_kernels.{module}").gate_candidates()


def trials() -> Iterator[Candidate]:
    """Alternatives to what ships, that benchmarks/tune.py times on a GPU; in bfloat16."""
    for module in MODULES:
        yield from importlib.import_module(f"silc_kernels.{module}").trial_candidates()


def build(candidate: Candidate, architecture: int) -> Row:
    """Compile `candidate` for sm_`architecture` and read what it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = candidate.kernel.arg_names
    known = {**candidate.signature, **dict.fromkeys(candidate.constexprs, "constexpr")}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"{candidate.name}: no type or value for {', '.join(missing)}")
    source = ASTSource(
        fn=candidate.kernel,
        signature={name: known[name] for name in names},
        constexprs={(names.index(name),): value for name, value in candidate.constexprs.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in candidate.aligned},
    )
    options = {"num_warps": candidate.num_warps, "num_stages": candidate.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    ptx = compiled.asm["ptx"]
    report = _report(ptx, architecture)
    bulk = "cp.async.bulk.tensor" in ptx
    return Row(
        candidate.name,
        architecture,
        *resources(report),
        compiled.metadata.shared,
        "wgmma.mma_async" in ptx,
        serialized(report),
        bulk,
        bulk or "cp.async.cg" in ptx or "cp.async.ca" in ptx,
        "wgmma.mma_async" in ptx and overlapped(_disassembled(compiled.asm["cubin"])),
    )


def faults(candidate: Candidate, row: Row) -> list[str]:
    """What is wrong with a compiled kernel; empty: nothing."""
    where = f"{row.name} on sm_{row.architecture}"
    found = []
    allowed = candidate.spills.get(row.architecture, 0)
    if row.spill_bytes > allowed:
        found.append(f"{where} spills {row.spill_bytes} bytes a thread ({allowed} allowed)")
    if row.shared_bytes > SHARED_LIMIT[row.architecture]:
        found.append(f"{where} wants {row.shared_bytes} bytes of shared memory of {SHARED_LIMIT[row.architecture]}")
    if candidate.async_copies and not row.async_copies:
        found.append(f"{where} is not pipelined: no asynchronous copies")
    if row.architecture == 90:
        if candidate.wgmma and not row.wgmma:
            found.append(f"{where} has no wgmma")
        if row.serialized:
            found.append(f"{where} waits for each wgmma before the next")
        if candidate.overlap and not row.overlapped:
            found.append(f"{where} multiplies nothing while it takes exponentials")
        if candidate.bulk_copies and not row.bulk_copies:
            found.append(f"{where} has no bulk tensor copies")
    return found


def _report(ptx: str, architecture: int) -> str:
    """What ptxas says of a kernel."""
    from triton import knobs

    tool = knobs.nvidia.ptxas_blackwell if architecture >= 100 else knobs.nvidia.ptxas
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [tool.path, "-v", f"--gpu-name={target}", str(source), "-o", str(Path(folder, "kernel.cubin"))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def _disassembled(cubin: bytes) -> str:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.nvdisasm.path, "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(report: str) -> tuple[int, int]:
    """(registers, bytes of spill stores and loads) in a report of ptxas."""
    spilled = sum(int(size) for size in re.findall(r"(\d+) bytes spill (?:stores|loads)", report))
    return max(int(count) for count in re.findall(r"Used (\d+) registers", report)), spilled


def serialized(report: str) -> bool:
    """Whether ptxas reports warpgroup products that wait for one another."""
    return "wgmma.mma_async instructions are serialized" in report


def write(rows: Iterable[Row], path: Path = TABLE) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, Row.__dataclass_fields__, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    parser.add_argument("--trials", action="store_true", help="the alternatives, not what ships")
    parser.add_argument("--only", default="", help="candidates whose name contains this")
    options = parser.parse_args()
    rows, wrong = [], []
    print(f"{'kernel':64s} {'sm':>4s} {'regs':>5s} {'spill':>6s} {'shared':>7s}  wgmma serial bulk async overlap")
    for candidate in trials() if options.trials else candidates():
        if options.only not in candidate.name:
            continue
        for architecture in candidate.architectures:
            row = build(candidate, architecture)
            rows.append(row)
            wrong += faults(candidate, row)
            marks = "  ".join(
                "yes" if mark else " - "
                for mark in (row.wgmma, row.serialized, row.bulk_copies, row.async_copies, row.overlapped)
            )
            numbers = f"{row.architecture:4d} {row.registers:5d} {row.spill_bytes:6d} {row.shared_bytes:7d}"
            print(f"{row.name:64s} {numbers}   {marks}", flush=True)
    if options.write and not (options.only or options.trials):
        write(rows)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
