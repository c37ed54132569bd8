"""`silc export`: write a model as a folder that another library loads.

silc export runs/sample exported                        for open_clip: the newest checkpoint's student
silc export runs/sample exported --to hf                for Hugging Face transformers (SiglipModel)
silc export runs/sample exported --to timm              the image tower, for timm
silc export runs/sample exported --to onnx              both towers as ONNX graphs
silc export runs/sample/checkpoints/step_00000600 exported --teacher
silc export downloaded exported --to hf                 a model of another library
silc export weights.npz exported --tokenizer FOLDER     files that do not name their tokenizer

The other library loads the folder and its features are compared before the folder is put in place. With it go the
tokenizer, the preprocessing, a model card (README.md) and SHA256SUMS. OUT is made, or is an earlier export of the same
kind, which is replaced, together with results of `silc evaluate OUT`. A run is exported for images of
views.global_size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from silc.commands.common import MISTAKE, Parser, passive_threads

PROG = "silc export"
FORMATS = ("open_clip", "hf", "timm", "onnx")  # of silc.interchange.write.formats, which needs torch


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line. Mistakes end with a message and status 2."""
    parser = Parser(PROG, __doc__)
    parser.add_argument(
        "path", type=Path, help="run folder (its newest checkpoint), checkpoint, export, or a model of another library"
    )
    parser.add_argument("out", type=Path, help="folder to write, made if missing; an earlier export is replaced")
    parser.add_argument(
        "--to", choices=FORMATS, default=FORMATS[0], help="the library that loads it (default: open_clip)"
    )
    parser.add_argument("--teacher", action="store_true", help="teacher's image tower, student's text tower")
    parser.add_argument(
        "--tokenizer", help="of a model that does not name its own: open_clip_bpe, or as data.tokenizer"
    )
    return parser.parse_args(list(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 1 where the other library computes something else, 2 for a mistake."""
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    from safetensors import SafetensorError

    from silc.interchange.write.compare import Mismatch
    from silc.interchange.write.folder import CARD
    from silc.train.export import write_export

    try:
        model: Literal["student", "teacher"] = "teacher" if args.teacher else "student"
        source, exported = write_export(args.path, args.out, to=args.to, model=model, tokenizer=args.tokenizer)
    except Mismatch as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    except (OSError, SafetensorError) as error:
        return _refused(f"{args.path} cannot be exported to {args.out}: {error}")
    except ValueError as error:
        return _refused(str(error))
    for key, reason in source.assumed.items():
        print(f"note: {key}: {reason}", file=sys.stderr)
    print(f"{source.path} -> {args.out}, {exported.compared}; to load it (more in {args.out / CARD}):\n{exported.call}")
    return 0


def _refused(message: str) -> int:
    print(f"{PROG}: {message}", file=sys.stderr)
    return MISTAKE


if __name__ == "__main__":
    sys.exit(main())
