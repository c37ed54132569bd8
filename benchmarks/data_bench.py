#!/usr/bin/env python
"""The data benchmark; see benchmarks/data/bench.py and --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks.data.bench import main

if __name__ == "__main__":
    main()
