"""Benchmarks by subject: kernels/, train/, and common/ for what they share. The scripts beside this file run them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# From a plain clone the packages are found without being installed.
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]
