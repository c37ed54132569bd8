#!/usr/bin/env python
"""Train SILC from a checkout: `deepspeed launch/train.py ...`. The command is silc/commands/train.py."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "silc").is_dir():  # a checkout runs without installation, and before an installed package
    sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

from silc.commands.train import script  # noqa: E402

if __name__ == "__main__":
    script()
