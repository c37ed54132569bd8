"""What a kernel of sm_90 does at a time: read off its machine code, for ptxas adds waits that PTX does not show."""

import re

_LABEL = re.compile(r"^(\.L\w+):")
# Only a conditional jump back closes a loop; others return from code that was moved out of the way.
_JUMP = re.compile(r"@!?U?P\d+ BRA(?:\.\w+)* `\((\.L\w+)\)")


def overlapped(code: str) -> bool:
    """Whether, in every loop with warpgroup products, most exponentials run while a product may be in flight.

    code: what nvdisasm prints of one kernel. False where no loop has both.
    """
    loops = [body for body in _loops(code.splitlines()) if any("HGMMA" in line for line in body)]
    return bool(loops) and all(_hidden(body) > 0.5 for body in loops)


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
            elif re.search(r"WARPGROUP\.DEPBAR\S* gsb0, 0x0", line):
                flying = False
            elif turn and "MUFU.EX2" in line:
                hidden.append(flying)
    return sum(hidden) / len(hidden) if hidden else 0.0
