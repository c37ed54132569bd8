"""What a kernel of sm_90 does at a time: read off its machine code, for ptxas adds waits that PTX does not show."""

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.L\w+):")
# Only a conditional jump back closes a loop; others return from code that was moved out of the way.
_JUMP = re.compile(r"@!?U?P\d+ BRA(?:\.\w+)* `\((\.L\w+)\)")

_INSTRUCTION = re.compile(r"^(?:/\*[0-9a-f]{4,}\*/)?\s*(@!?U?P\w+ )?([A-Z][A-Z0-9_]*)((?:\.\w+)*)\s*([^;]*);")
_ALL_DONE = re.compile(r"WARPGROUP\.DEPBAR\S* gsb0, 0x0")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_BARRIER = re.compile(r"\bB\d+\b")
# A register operand of a product is 16 bytes a thread: 64 x 16 numbers of two bytes by 128 threads.
_OPERAND = 4
# More groups of products than these are never waited for apart; the oldest two are then taken for one.
_MOST_GROUPS = 8
# Their first register, if one comes first at all, is read.
_READS_ONLY = ("WARPSYNC", "NANOSLEEP", "R2P", "RET", "BRX", "JMX", "BAR", "BMOV")


def overlapped(code: str) -> bool:
    """Whether, in every loop with warpgroup products, most exponentials run while a product may be in flight.

    code: what nvdisasm prints of one kernel. False where no loop has both.
    """
    loops = [body for body in _loops(code.splitlines()) if any("HGMMA" in line for line in body)]
    return bool(loops) and all(_hidden(body) > 0.5 for body in loops)


def between(code: str) -> int:
    """Instructions of a turn, of any kind, while no warpgroup product is in flight: what the tensor cores wait for.

    Of the loop with products that has the most; they are in flight from the first product on until a wait for all.
    Code that was moved out of a loop is not counted, and of a loop in a loop all lines count once.

    code: what nvdisasm prints of one kernel. 0 where no loop has products.
    """
    loops = (body for body in _loops(code.splitlines()) if any("HGMMA" in line for line in body))
    return max((_waiting(body) for body in loops), default=0)


def _waiting(body: list[str]) -> int:
    flying, found = False, 0
    for turn in range(2):  # the first shows what is in flight when a turn begins
        for line in body:
            if "HGMMA" in line:
                flying = True
            elif _ALL_DONE.search(line):
                flying = False
            elif turn and not flying and _INSTRUCTION.match(line.strip()):
                found += 1
    return found


def _loops(lines: list[str]) -> list[list[str]]:
    labels, found = {}, []
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        elif (jump := _JUMP.search(line)) and jump[1] in labels:
            found.append(lines[labels[jump[1]] : number])
    return found


def _hidden(body: list[str]) -> float:
    """The share of a loop's exponentials that run with a product in flight, once it is under way."""
    flying, hidden = False, []
    for turn in range(2):
        for line in body:
            if "HGMMA" in line:
                flying = True
            elif _ALL_DONE.search(line):
                flying = False
            elif turn and "MUFU.EX2" in line:
                hidden.append(flying)
    return sum(hidden) / len(hidden) if hidden else 0.0


@dataclass(frozen=True)
class _Instruction:
    name: str  # "HGMMA.64x256x16.F32.BF16"
    operands: tuple[str, ...]
    always: bool  # has no predicate


@dataclass(frozen=True)
class _Flight:
    """Registers that products in flight may still read, by what waits count: committed groups, oldest first."""

    groups: tuple[frozenset[int], ...] = ()
    open: frozenset[int] = frozenset()

    @property
    def registers(self) -> frozenset[int]:
        return self.open.union(*self.groups)

    def after(self, step: _Instruction) -> "_Flight":
        if step.name.startswith("HGMMA"):
            opened = self.open | _left_operand(step)
            if "gsb0" not in step.operands:
                return _Flight(self.groups, opened)
            groups = (*self.groups, opened)
            if len(groups) > _MOST_GROUPS:
                groups = (groups[0] | groups[1], *groups[2:])
            return _Flight(groups)
        if step.name.startswith("WARPGROUP.DEPBAR") and step.always:
            left = int(step.operands[1], 16)
            return _Flight(self.groups[max(0, len(self.groups) - left) :], self.open)
        return self


def hazards(code: str) -> int:
    """Instructions that write a register that a warpgroup product may still read.

    A product may take its left operand from registers, which must not change before a wait that includes the product.
    The assembler does not see to that: the PTX has to, and Triton 3.6 does not always
    (https://github.com/triton-lang/triton/issues/9433). All ways through the kernel are followed; a wait for all but
    the last n groups of products leaves these n in flight. Products that write their sums are not looked at: they
    follow one another in order.

    code: what nvdisasm prints of one kernel.
    """
    steps, labels = _instructions(code)
    following = [_successors(number, steps, labels) for number in range(len(steps))]
    seen: set[tuple[int, _Flight]] = set()
    waiting = [(0, _Flight())]
    found = set()
    while waiting:
        number, flight = waiting.pop()
        if (number, flight) in seen or number >= len(steps):
            continue
        seen.add((number, flight))
        step = steps[number]
        if not step.name.startswith("HGMMA") and flight.registers & _written(step):
            found.add(number)
        waiting += ((next_number, flight.after(step)) for next_number in following[number])
    return len(found)


def _instructions(code: str) -> tuple[list[_Instruction], dict[str, int]]:
    """Those of a kernel, and label -> the instruction behind it."""
    steps: list[_Instruction] = []
    labels = {}
    for line in code.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(steps)
        elif match := _INSTRUCTION.match(line.strip()):
            operands = tuple(operand.strip() for operand in match[4].split(","))
            steps.append(_Instruction(match[2] + match[3], operands, match[1] is None))
    return steps, labels


def _successors(number: int, steps: list[_Instruction], labels: dict[str, int]) -> list[int]:
    step = steps[number]
    name, targets = step.name.split(".")[0], _targets(step, labels)
    if name == "BSYNC":  # goes on where the BSSY of its barrier says
        barriers = set(_BARRIER.findall(" ".join(step.operands)))
        return [number + 1] + [
            target
            for other in steps
            if other.name.startswith("BSSY") and barriers & set(_BARRIER.findall(" ".join(other.operands)))
            for target in _targets(other, labels)
        ]
    if name in ("BRX", "JMX"):
        raise ValueError(f"{name}: jumps to an address in a register cannot be followed")
    if name in ("EXIT", "RET"):
        return [] if step.always else [number + 1]
    if name in ("BRA", "CALL"):
        # A call returns; a branch whose operands name a predicate or convergence may fall through.
        through = name == "CALL" or not step.always or len(step.operands) > 1
        return targets + [number + 1] * through
    return [number + 1]


def _targets(step: _Instruction, labels: dict[str, int]) -> list[int]:
    return [labels[name] for name in _TARGET.findall(" ".join(step.operands)) if name in labels]


def _left_operand(product: _Instruction) -> frozenset[int]:
    """The registers of an HGMMA's left operand; none where it lies in shared memory."""
    left = re.match(r"R(\d+)\b", product.operands[1])
    return frozenset(range(int(left[1]), int(left[1]) + _OPERAND)) if left else frozenset()


def _written(step: _Instruction) -> frozenset[int]:
    """The registers that an instruction writes: its first operand behind predicates, as wide as its name says."""
    name, *kinds = step.name.split(".")
    if name in _READS_ONLY or "SETP" in name or name.startswith("ST"):
        return frozenset()
    first = next((operand for operand in step.operands if not re.match(r"!?U?P(\d|T|R)", operand)), "")
    register = re.match(r"R(\d+)\b", first)
    if not register:
        return frozenset()
    width = 1
    if "128" in kinds or ({"M88", "MT88"} & set(kinds) and "4" in kinds):
        width = 4
    elif {"64", "F64", "WIDE"} & set(kinds) or (name == "CS2R" and "32" not in kinds) or "2" in kinds:
        width = 2
    return frozenset(range(int(register[1]), int(register[1]) + width))
