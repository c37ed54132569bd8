"""`silc keys`: list every configuration key with type, default and meaning.

silc keys                      all of them
silc keys optim                those whose name contains a word
silc keys optim. batch         or one of several
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from silc import config_io
from silc.commands.common import Parser, did_you_mean

PROG = "silc keys"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status; a word that no key contains ends it with status 2."""
    parser = Parser(PROG, __doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="list the keys that contain it (default: all)")
    args = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    rows = list(config_io.describe())
    for word in args.words:
        if not any(word in dotted for dotted, *_ in rows):
            parser.error(f"no key contains {word!r}{did_you_mean(word, [dotted for dotted, *_ in rows])}")
    for dotted, kind, default, doc in rows:
        if not args.words or any(word in dotted for word in args.words):
            shown = kind if default == "required" else f"{kind}, default {default}"
            print(f"{dotted} ({shown}): {doc}")
    return 0
