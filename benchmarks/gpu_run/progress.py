"""What earlier calls have finished: a small JSON beside the results, of one device and one state of the sources."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import ROOT
from benchmarks.gpu_run.process import FAILED, LEFT_OUT, PASSED, Outcome

FINISHED = (PASSED, FAILED)  # a job that was stopped is taken up again
FOLDERS = ("kernels/silc_kernels", "benchmarks", "tests/kernels")


def sources() -> str:
    """A digest of the code that is measured: a copy of a checkout has no commit, and one with changes a wrong one."""
    digest = hashlib.sha256()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass
class Progress:
    """Which jobs have begun, and how those that ended did."""

    path: Path
    key: dict[str, str]
    begun: list[str] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, device: str, *, again: bool = False) -> Progress:
        """What `path` says of this device and these sources; nothing of others, or with `again`."""
        fresh = cls(path, {"device": device, "sources": sources()})
        if again or not path.is_file():
            return fresh
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["key"] != fresh.key:
            return fresh
        fresh.begun = held["begun"]
        fresh.outcomes = {name: Outcome(**outcome) for name, outcome in held["outcomes"].items()}
        return fresh

    def finished(self, name: str) -> bool:
        return name in self.outcomes and self.outcomes[name].status in FINISHED

    def begin(self, name: str) -> bool:
        """Note that a job begins; whether it has begun before and was stopped."""
        before = name in self.begun
        self.begun = [*self.begun, *([] if before else [name])]
        self.save()
        return before

    def end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = outcome
        if outcome.status == LEFT_OUT:
            self.begun = [name for name in self.begun if name != outcome.name]
        self.save()

    def save(self) -> None:
        held = {
            "key": self.key,
            "begun": self.begun,
            "outcomes": {name: asdict(outcome) for name, outcome in self.outcomes.items()},
        }
        self.path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
