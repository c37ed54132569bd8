"""`silc check`: compare the checkpoints of a run with their manifests, byte by byte.

silc check runs/b16                                    every checkpoint of a run
silc check runs/b16/checkpoints/step_00012000          one

Prints a line a checkpoint: whole, or what is wrong with it. Changes nothing. Status 1 where one is damaged, 2 where
there is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from silc.commands.common import MISTAKE, Parser, passive_threads
from silc.text import plural

PROG = "silc check"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line. Mistakes end with a message and status 2."""
    parser = Parser(PROG, __doc__)
    parser.add_argument("run", type=Path, help="run folder, or one of its checkpoints")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 1 where a checkpoint is damaged, 2 for a user's mistake."""
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    from silc.train.checkpoint import whole
    from silc.train.manifest import NAME
    from silc.train.retention import read_best

    run, folder = args.run, args.run / "checkpoints"
    if run.name == "checkpoints" and not folder.exists():
        run, folder = run.parent, run
    try:
        found = [run] if (run / NAME).exists() else whole(folder)
        left = sorted(path for path in folder.glob("step_*") if path not in found)
    except OSError as error:
        return _refused(f"{run} cannot be read: {error.strerror}")
    if not found and not left:
        missing = "does not exist" if not run.exists() else "holds no checkpoint"
        return _refused(f"{run} {missing}; give a run folder or a checkpoint")
    lines = [line for path in found for line in [_line(path)] if path.exists()]  # else a run that goes on removed it
    print("\n".join(text for text, _ in lines))
    for path in left:
        print(f"{path.name}: {_leftover(path)}")
    best = read_best(folder)
    if best is not None:
        print(f"best {best.metric}: {best.value:.4g}, in {best.checkpoint}")
    damaged = sum(not good for _, good in lines)
    if damaged:
        print(f"{PROG}: {plural(damaged, 'checkpoint')} of {len(found)} damaged", file=sys.stderr)
    return 1 if damaged or not found else 0


def _line(path: Path) -> tuple[str, bool]:
    """What is to be said of a checkpoint, and whether it is whole."""
    from silc.train import manifest

    try:
        held = manifest.read(path)
        wrong = manifest.faults(path)
    except (OSError, ValueError) as error:
        return f"{path.name}: DAMAGED: {error}", False
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        return f"{path.name}: DAMAGED: {'; '.join(wrong[:8])}{more}", False
    size = sum(one.size for one in held.files.values()) / 1e9
    hashed = all(one.sha256 for one in held.files.values())
    how = "every byte as it was written" if hashed else "sizes as they were written; this version wrote no hashes"
    return f"{path.name}: whole, {plural(len(held.files), 'file')}, {size:.3f} GB: {how}", True


def _leftover(path: Path) -> str:
    kinds = {
        ".tmp": "being written, or left by a job that ended while it wrote; the next save takes or removes it",
        ".old": "superseded, and not removed to the end; the next save takes or removes it",
        ".damaged": "set aside by train.resume=auto, which found it damaged; nothing reads it, remove it when you like",
    }
    return kinds.get(path.suffix, "has no manifest; nothing reads it")


def _refused(message: str) -> int:
    print(f"{PROG}: {message}", file=sys.stderr)
    return MISTAKE


if __name__ == "__main__":
    sys.exit(main())
