#!/usr/bin/env python
"""Evaluate from a checkout: `python launch/evaluate.py ...`. The command is silc/commands/evaluate.py."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "silc").is_dir():  # a checkout runs without installation, and before an installed package
    sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

from silc.commands.evaluate import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
