"""`silc export`: write a checkpoint's student (or teacher image tower) as a folder that open_clip loads.

silc export runs/sample exported                                  the newest checkpoint's student
silc export runs/sample/checkpoints/step_00000600 exported --teacher

OUT is made, or is an earlier export, which is replaced.

import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:/absolute/path/of/exported")
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from silc.commands.common import MISTAKE, Parser, passive_threads

PROG = "silc export"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line. Mistakes end with a message and status 2."""
    parser = Parser(PROG, __doc__)
    parser.add_argument("checkpoint", type=Path, help="run folder (its newest checkpoint) or checkpoint folder")
    parser.add_argument("out", type=Path, help="folder to write, made if missing; an earlier export is replaced")
    parser.add_argument("--teacher", action="store_true", help="teacher's image tower, student's text tower")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 2 for a user's mistake."""
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    from safetensors import SafetensorError

    from silc.interchange.read.open_clip import is_export
    from silc.train.checkpoint import WEIGHTS, export_open_clip, find

    try:
        if args.out.exists() and not args.out.is_dir():
            raise ValueError(f"{args.out} is a file; an export is a folder: give a new name")
        if args.out.is_dir() and any(args.out.iterdir()) and not is_export(args.out):
            raise ValueError(f"{args.out} holds other files and no earlier export; give a new folder")
        if is_export(args.checkpoint):
            raise ValueError(f"{args.checkpoint} is already an export; give a run folder or a checkpoint")
        path = find(args.checkpoint, only=WEIGHTS)
        call = export_open_clip(path, args.out, teacher=args.teacher)
    except (OSError, SafetensorError) as error:
        return _refused(f"{args.checkpoint} cannot be exported to {args.out}: {error}")
    except ValueError as error:
        return _refused(str(error))
    print(f"{path} -> {args.out}; to load it:\n{call}")
    return 0


def _refused(message: str) -> int:
    print(f"{PROG}: {message}", file=sys.stderr)
    return MISTAKE


if __name__ == "__main__":
    sys.exit(main())
