"""Which launch configuration is the fastest on this GPU: each kernel's alternatives against what ships, correct first.

    python benchmarks/tune.py                        every kernel that the benchmarks' largest cases launch
    python benchmarks/tune.py --only distill_head    some of the ops
    python benchmarks/tune.py --save                 and write benchmarks/results/tune_<device>.csv

An alternative stands for its kernel in a whole op, forward and backward, in turn with the shipped one. What ships is
in the tables of kernels/silc_kernels/*/*launch.py: what is found here is to be written there.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.common.files import write_csv
from benchmarks.common.measure import banner, compare, device, device_slug, gate
from benchmarks.kernels.cases import Case, options
from benchmarks.kernels.contrastive_cases import contrastive_cases
from benchmarks.kernels.distill_cases import distill_cases
from benchmarks.kernels.patch_embed_cases import patch_embed_cases
from benchmarks.kernels.views_cases import views_cases

# Tables of launch configurations, and the op whose cases launch their kernels. A bound on the relative error of
# bfloat16 results against one another: configurations change the order of sums alone, so that a right one stays below
# 1e-3 and one with a race does not.
TABLES = {
    "distill.triton_logits_launch": "distill_loss",
    "distill.triton_head_launch": "distill_head_loss",
    "contrastive.triton_launch": "contrastive_loss",
    "patch_embedding.triton_launch": "patch_embed",
    "photometry.triton_launch": "photometric",
    "crops.triton_launch": "crop_resize",
}
BOUND = 1.5e-3


@dataclass(frozen=True)
class Trial:
    """An alternative beside what ships, in the same op. ms: medians. failed: why it has no time."""

    op: str
    shape: str
    key: str
    config: str
    ms: float
    shipped_ms: float
    failed: str = ""


class Seen(dict):
    """A table that remembers which keys were asked for."""

    def __init__(self, table: dict) -> None:
        super().__init__(table)
        self.keys_seen: dict[Hashable, None] = {}

    def __getitem__(self, key: Hashable) -> object:
        self.keys_seen[key] = None
        return super().__getitem__(key)


@contextmanager
def shipping(module: ModuleType, table: dict) -> Iterator[None]:
    """module.SHIPPED is `table` for a while."""
    kept = module.SHIPPED
    module.SHIPPED = table
    try:
        yield
    finally:
        module.SHIPPED = kept


def tune(module: ModuleType, case: Case, repeats: int, done: Container[tuple[str, str]] = ()) -> Iterator[Trial]:
    """Every alternative of every kernel that the case launches, but for the (key, configuration) in `done`.

    Args:
        module: has SHIPPED and TRIALS, key -> launch configuration and key -> alternatives.
        case: its first provider is the op.
        repeats: of the timing.
    """
    op: Callable[[], Sequence[Tensor]] = next(iter(case.providers().values()))
    seen = Seen(module.SHIPPED)
    with shipping(module, seen):
        expected = [result.clone() for result in op()]
    for key in seen.keys_seen:
        for trial in module.TRIALS.get(key, ()):
            if (str(key), str(trial)) in done:
                continue
            yield _try(module, case, op, expected, key, trial, repeats)


def alternative(
    module: ModuleType, key: Hashable, trial: object, op: Callable[[], Sequence[Tensor]]
) -> Sequence[Tensor]:
    """What the op gives with one launch configuration exchanged."""
    with shipping(module, {**module.SHIPPED, key: trial}):
        return op()


def _try(
    module: ModuleType,
    case: Case,
    op: Callable[[], Sequence[Tensor]],
    expected: Sequence[Tensor],
    key: Hashable,
    trial: object,
    repeats: int,
) -> Trial:
    tried = partial(alternative, module, key, trial, op)
    try:
        gate(f"{key} {trial}", list(tried()), expected, BOUND)
        ours, shipped = compare({"alternative": tried, "shipped": op}, repeats, extras=False)
    # A configuration that does not launch, or is wrong, is a finding; the others are to be tried all the same.
    except (RuntimeError, ValueError) as error:
        return Trial(case.op, case.shape, str(key), str(trial), float("nan"), float("nan"), str(error).splitlines()[0])
    return Trial(case.op, case.shape, str(key), str(trial), ours.milliseconds[0], shipped.milliseconds[0])


def every(size: str) -> Iterator[Case]:
    """The cases of all benchmarks of one op."""
    yield from (*distill_cases(size), *contrastive_cases(size), *patch_embed_cases(size), *views_cases(size))


def largest(op: str, size: str) -> Iterator[Case]:
    """The last case of each kind of `op` that has a timing to show: the largest."""
    yield from {case.op: case for case in every(size) if case.op.startswith(op)}.values()


def tables(size: str) -> Iterator[tuple[ModuleType, Case]]:
    """Each table's module with each case that is timed for it."""
    for name, op in TABLES.items():
        module = importlib.import_module(f"silc_kernels.{name}")
        yield from ((module, case) for case in largest(op, size))


def earlier(folder: Path) -> list[Trial]:
    """The trials that an earlier run saved; none without one."""
    path = folder / f"tune_{device_slug()}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        times = ("ms", "shipped_ms")
        return [Trial(**(row | {name: float(row[name]) for name in times})) for row in csv.DictReader(file)]


def save(trials: Sequence[Trial], folder: Path) -> Path:
    path = folder / f"tune_{device_slug()}.csv"
    write_csv(path, [field.name for field in fields(Trial)], (asdict(trial) for trial in trials))
    return path


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, argv)
    if device().type != "cuda":
        raise SystemExit("tune.py: no GPU is visible to torch, and launches on a GPU can be timed on nothing else")
    torch.manual_seed(0)
    print(banner())
    found = earlier(args.save) if args.resume else []
    for module, case in tables(args.size):
        if args.only not in f"{case.op} {case.shape}":
            continue
        print(f"\n{case.op}  {case.shape}", flush=True)
        done = {(trial.key, trial.config) for trial in found if (trial.op, trial.shape) == (case.op, case.shape)}
        for trial in tune(module, case, case.repeats, done):
            print(f"  {trial.shipped_ms / trial.ms:5.2f} times as fast  {trial.key}  {trial.config}  {trial.failed}")
            found.append(trial)
            if args.save is not None:
                save(found, args.save)
    better = [trial for trial in found if trial.ms < 0.98 * trial.shipped_ms]
    print("\nfaster than what ships by more than 2 %:" if better else "\nnothing is faster than what ships by 2 %")
    for trial in sorted(better, key=lambda each: each.ms / each.shipped_ms):
        print(f"  {trial.shipped_ms / trial.ms:5.2f}  {trial.op}  {trial.key}  {trial.config}")
    if args.save is not None:
        print(f"written to {save(found, args.save)}")
