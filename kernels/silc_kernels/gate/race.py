"""Whether programs of one launch get in each other's way: ops under the interpreter, each address with who touched it.

    with race() as run:                        TRITON_INTERPRET=1
        contrastive_loss(image, text, scale, backend="triton").backward()
    run.problems                               who writes what another one reads or writes, in words

Programs of a launch run in any order, and at the same time: a result may then depend on it. The interpreter runs them
one after another and shows no difference. Atomics are reported too: they sum in any order. So is what a program reads
that it has written itself: its threads are not ordered without a barrier, which the interpreter does not know of; and
two lanes of one store at one address, of which any may be the last.

What it does not see: a program that writes again, in another order of lanes, what it has written or read itself; and
what one launch leaves to the next, for launches follow one another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from .interpreted import Span, Touch, spans, watching

MANY = -1


@dataclass
class RaceRun:
    """launches: so far. programs: the most of a launch. problems: in words, the first of each kind."""

    launches: int = 0
    programs: int = 0
    problems: list[str] = field(default_factory=list)


@contextmanager
def race() -> Iterator[RaceRun]:
    """Launches under the interpreter are watched until the end of the block.

    Raises:
        ValueError: not under the interpreter.
    """
    run = RaceRun()
    with watching(_Race(run)):
        yield run


class _Owners:
    """Of each unit of a span: who wrote it last and who read it; 0 is no one, else a program's number."""

    def __init__(self, span: Span) -> None:
        self.span = span
        units = -(-(span.stop - span.start) // span.unit)
        self.writer, self.reader = torch.zeros(2, units, dtype=torch.int32).numpy()

    def units(self, touch: Touch) -> Any:
        """Those of the touched addresses that lie in the span."""
        inside = (touch.addresses >= self.span.start) & (touch.addresses < self.span.stop)
        first = (touch.addresses[inside] - self.span.start).astype("int64") // self.span.unit
        wide = max(1, touch.size // self.span.unit)
        return first if wide == 1 else (first[:, None] + torch.arange(wide).numpy()).ravel()


class _Race:
    def __init__(self, run: RaceRun) -> None:
        self.run = run
        self.kernel = ""
        self.owners: list[_Owners] = []
        self.numbers: dict[tuple[int, int, int], int] = {}
        self.seen: set[tuple[str, str, str]] = set()

    def begin(self, kernel: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.kernel = kernel
        self.run.launches += 1
        self.owners = [_Owners(span) for span in spans(arguments)]
        self.numbers = {}
        return arguments

    def touch(self, touch: Touch) -> None:
        me = self.numbers.setdefault(touch.program, len(self.numbers) + 1)
        for owners in self.owners:
            units = owners.units(touch)
            if not units.size:
                continue
            writer, reader = owners.writer[units], owners.reader[units]
            if touch.kind == "read":
                self._conflict(owners, touch, writer, me, "reads what {} written")
                self._again(owners, touch, writer, me)
                others = (reader != 0) & (reader != me)
                reader[:] = me
                reader[others] = MANY
                owners.reader[units] = reader
            else:
                self._conflict(owners, touch, writer, me, "writes what {} written")
                self._conflict(owners, touch, reader, me, "writes what {} read")
                if touch.kind == "write":
                    self._twice(owners, touch, units)
                owners.writer[units] = me
        if touch.kind == "atomic":
            self._problem("atomic", "", f"program {touch.program} adds by an atomic, in any order")

    def _conflict(self, owners: _Owners, touch: Touch, whose: Any, me: int, what: str) -> None:
        others = whose[(whose != 0) & (whose != me)]
        if others.size:
            first = int(others[0])
            named = {number: program for program, number in self.numbers.items()}
            other = "several programs have" if first == MANY else f"program {named[first]} has"
            names = " = ".join(owners.span.names)
            found = f"program {touch.program} {what.format(other)} of {names}, in {others.size} places"
            self._problem(what, names, found)

    def _again(self, owners: _Owners, touch: Touch, writer: Any, me: int) -> None:
        if (writer == me).any():
            names = " = ".join(owners.span.names)
            self._problem("own", names, f"program {touch.program} reads what it has written itself of {names}")

    def _twice(self, owners: _Owners, touch: Touch, units: Any) -> None:
        more = units.size - torch.from_numpy(units).unique().numel()
        if more:
            names = " = ".join(owners.span.names)
            places = f"{more} places more than once" if more > 1 else "a place twice"
            self._problem("lanes", names, f"program {touch.program} writes {places} of {names} in one store")

    def end(self) -> None:
        self.run.programs = max(self.run.programs, len(self.numbers))
        self.owners = []

    def _problem(self, kind: str, names: str, problem: str) -> None:
        if (self.kernel, kind, names) not in self.seen:
            self.seen.add((self.kernel, kind, names))
            self.run.problems.append(f"{self.kernel}: {problem}")
