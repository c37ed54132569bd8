#!/usr/bin/env python
"""Write the generated parts of the documentation: the configuration reference, between its markers.

python tools/update_docs.py            write docs/configuration.md
python tools/update_docs.py --check    write nothing; status 1 if the page is not current
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

from silc.config_io import reference_markdown  # noqa: E402

PAGE = ROOT / "docs" / "configuration.md"
START, END = "<!-- config-reference:start -->", "<!-- config-reference:end -->"


def updated(text: str) -> str:
    """The page with a current reference. Raises ValueError if its markers are gone."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{PAGE} has lost its markers {START} and {END}")
    return f"{before}{START}\n{reference_markdown()}{END}{after}"


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the page is not current")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    if check and updated(text) != text:
        print(f"{PAGE} is not current; run: python tools/update_docs.py", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(updated(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
