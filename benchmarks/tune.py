"""Way in to benchmarks/kernels/tune.py, which says what it does: python benchmarks/tune.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks.kernels.tune import main

if __name__ == "__main__":
    main(sys.argv[1:])
