"""What the subcommands share: mistakes in one line, and settings of threads that torch reads when it loads."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from silc import config_io
from silc.errors import defer_to_first_rank

MISTAKE = 2  # exit status


class Parser(argparse.ArgumentParser):
    """Ends a mistake with one line and status 2: no usage text, and once for all ranks of a machine."""

    def __init__(self, prog: str, description: str | None, **options: Any) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        defer_to_first_rank()
        self.exit(MISTAKE, f"{self.prog}: {message}\n")


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """Accept the argument that DeepSpeed's launcher gives to every rank. Unused: the environment says the same."""
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def passive_threads() -> None:
    """Have waiting threads sleep, not spin: on shared cores a step becomes up to ten times slower by spinning.

    Read when torch loads, and by the processes that this one starts.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def with_new_names(prog: str, words: Iterable[str]) -> list[str]:
    """Overrides with keys of earlier versions under their present names; a note on stderr for each."""
    given = list(words)
    renamed = [config_io.with_new_name(word) for word in given]
    for old, new in zip(given, renamed, strict=True):
        if new != old and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{prog}: {old} is now {new}", file=sys.stderr)
    return renamed
