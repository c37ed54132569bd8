#!/usr/bin/env python
"""The benchmark of checkpoints; see benchmarks/train/saving.py and --help."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed
# As launch/train.py does: waiting threads must not spin, or the variants in other processes are slowed down.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from benchmarks.train.saving import main

if __name__ == "__main__":
    main()
