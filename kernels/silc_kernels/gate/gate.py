"""The compile gate: a kernel as it is launched, compiled for an architecture without a GPU, and what is wrong with it.

Registers, spills and serialised products are what the bundled ptxas reports; shared memory and instructions are read
off the compiled kernel. A serialised wgmma is waited for before the next is issued; nothing else shows it.
The compiler does not refuse a kernel that asks for more shared memory than a chip has; the gate does.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.triton_runtime import family
from .sass import between, hazards, overlapped

ARCHITECTURES = (80, 90, 100)
# KiB of shared memory of a multiprocessor (CUDA C++ Programming Guide, specifications per compute capability). A
# program takes 1 KiB beside its own.
SHARED_KIB = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 103: 228, 110: 228, 120: 100, 121: 100}
RESERVED_BYTES, REGISTERS, PARTITIONS, MOST_WARPS, MOST_PROGRAMS = 1024, 65536, 4, 64, 32


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One kernel as it is launched.

    Attributes:
        name: "op/kernel/launch configuration", unique.
        kernel: the jitted function.
        signature: argument -> type ("*bf16", "i32", "fp32"); constexprs are left out.
        constexprs: argument -> value.
        aligned: arguments (pointers, strides, sizes) that are multiples of 16 at launch, as Triton would find them.
        num_warps, num_stages, fp_fusion: of the launch.
        max_registers: what the compiler is held to, a thread (Triton's maxnreg); None: not.
        architectures: where it ships.
        wgmma: its products must be warpgroup instructions on sm_90.
        bulk_copies: tiles must come by the bulk tensor copy engine on sm_90.
        async_copies: loads must be pipelined by asynchronous copies (cp.async, or the copy engine).
        overlap: on sm_90 its exponentials must run while products are in flight.
        spills: architecture -> bytes of spills allowed; say why at the place that sets it.
        programs: how many of them a multiprocessor must take at least, of each architecture.
        between: instructions a turn at most while no product is in flight, on sm_90; None: no bound.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3
    fp_fusion: bool = True
    max_registers: int | None = None
    architectures: tuple[int, ...] = ARCHITECTURES
    wgmma: bool = False
    bulk_copies: bool = False
    async_copies: bool = False
    overlap: bool = False
    spills: Mapping[int, int] = field(default_factory=dict)
    programs: int = 1
    between: int | None = None


@dataclass(frozen=True)
class Row:
    """What a compiled kernel takes: registers a thread, bytes of spills a thread, bytes of shared memory a program.

    serialized: ptxas could not keep warpgroup products in flight (its C7510 to C7520).
    overlapped: in every loop with warpgroup products, exponentials run while one is in flight.
    hazards: instructions that write a register that a warpgroup product in flight may still read: a wrong result, by
        the rules, whatever a test finds.
    programs: how many run on a multiprocessor side by side, by registers, warps and shared memory.
    between: instructions a turn while no warpgroup product is in flight.
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
    hazards: int
    programs: int
    between: int


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
    options = {
        "num_warps": candidate.num_warps,
        "num_stages": candidate.num_stages,
        "enable_fp_fusion": candidate.fp_fusion,
        "maxnreg": candidate.max_registers,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return read(candidate.name, compiled, architecture)


def read(name: str, compiled: Any, architecture: int) -> Row:
    """What a kernel that triton has compiled for sm_`architecture` takes."""
    ptx = compiled.asm["ptx"]
    report = _report(ptx, architecture)
    bulk = "cp.async.bulk.tensor" in ptx
    wgmma = "wgmma.mma_async" in ptx
    code = _disassembled(compiled.asm["cubin"]) if wgmma else ""
    registers, spilled = resources(report)
    shared = compiled.metadata.shared
    return Row(
        name,
        architecture,
        registers,
        spilled,
        shared,
        wgmma,
        serialized(report),
        bulk,
        bulk or "cp.async.cg" in ptx or "cp.async.ca" in ptx,
        overlapped(code),
        hazards(code),
        programs(registers, _warps(ptx), shared, architecture),
        between(code),
    )


def programs(registers: int, warps: int, shared: int, architecture: int) -> int:
    """How many programs a multiprocessor takes: registers a thread, warps and shared bytes of each.

    Registers are given to a warp 256 at a time, out of the quarter of the multiprocessor that it belongs to.
    """
    each = -(-registers * 32 // 256) * 256
    by_registers = PARTITIONS * (REGISTERS // PARTITIONS // each) // warps
    by_shared = shared_bytes(architecture) // (shared + RESERVED_BYTES)
    return min(by_registers, by_shared, MOST_WARPS // warps, MOST_PROGRAMS)


def shared_bytes(architecture: int) -> int:
    """Of a multiprocessor; of a chip that is not known, as much as its family's."""
    return 1024 * SHARED_KIB.get(architecture, SHARED_KIB[family(architecture)])


def shared_limit(architecture: int) -> int:
    """Bytes that one program may ask for."""
    return shared_bytes(architecture) - RESERVED_BYTES


def _warps(ptx: str) -> int:
    """Of a program, those that the compiler has added too."""
    (threads,) = re.findall(r"^\.reqntid (\d+)", ptx, re.MULTILINE)
    return int(threads) // 32


def faults(candidate: Candidate, row: Row) -> list[str]:
    """What is wrong with a compiled kernel; empty: nothing."""
    where = f"{row.name} on sm_{row.architecture}"
    found = []
    allowed = candidate.spills.get(row.architecture, 0)
    if row.spill_bytes > allowed:
        found.append(f"{where} spills {row.spill_bytes} bytes a thread ({allowed} allowed)")
    if row.shared_bytes > shared_limit(row.architecture):
        found.append(f"{where} wants {row.shared_bytes} bytes of shared memory of {shared_limit(row.architecture)}")
    if row.programs < candidate.programs:
        found.append(f"{where} runs {row.programs} at a time on a multiprocessor, not {candidate.programs}")
    if candidate.async_copies and not row.async_copies:
        found.append(f"{where} is not pipelined: no asynchronous copies")
    if row.architecture == 90:
        if candidate.wgmma and not row.wgmma:
            found.append(f"{where} has no wgmma")
        if row.serialized:
            found.append(f"{where} waits for each wgmma before the next")
        if row.hazards:
            found.append(f"{where} writes registers of a wgmma in flight in {row.hazards} instructions")
        if candidate.overlap and not row.overlapped:
            found.append(f"{where} multiplies nothing while it takes exponentials")
        if candidate.between is not None and row.between > candidate.between:
            most = f"{candidate.between} at most"
            found.append(f"{where} keeps the tensor cores waiting for {row.between} instructions a turn ({most})")
        if candidate.bulk_copies and not row.bulk_copies:
            found.append(f"{where} has no bulk tensor copies")
    return found


def _report(ptx: str, architecture: int) -> str:
    """What ptxas reports of a kernel."""
    from triton import knobs

    tool = knobs.nvidia.ptxas_blackwell if architecture >= 100 else knobs.nvidia.ptxas
    (target,) = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)
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
