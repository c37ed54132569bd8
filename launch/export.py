#!/usr/bin/env python
"""Export a checkpoint's student (or teacher image tower) as a folder that open_clip loads.

python launch/export.py runs/sample exported                      the newest checkpoint's student
python launch/export.py runs/sample/checkpoints/step_00000600 exported --teacher

OUT is made, or is an earlier export, which is replaced.

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:/absolute/path/of/exported")
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="run folder (its newest checkpoint) or checkpoint folder")
    parser.add_argument("out", type=Path, help="folder to write, made if missing; an earlier export is replaced")
    parser.add_argument("--teacher", action="store_true", help="teacher's image tower, student's text tower")
    args = parser.parse_args(argv)
    from safetensors import SafetensorError

    from silc.model.load_export import is_export
    from silc.train.checkpoint import export_open_clip, find

    try:
        if args.out.is_dir() and any(args.out.iterdir()) and not is_export(args.out):
            raise ValueError(f"{args.out} holds other files and no earlier export; give a new folder")
        path = find(args.checkpoint)
        call = export_open_clip(path, args.out, teacher=args.teacher)
    except (OSError, SafetensorError) as error:
        parser.error(f"{args.checkpoint} cannot be exported to {args.out}: {error}")
    except ValueError as error:
        parser.error(str(error))
    print(f"{path} -> {call}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
