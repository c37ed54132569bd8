"""What the subcommands share: mistakes in one line, and settings of threads that torch reads when it loads."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from silc import config_io, rendezvous
from silc.errors import defer_to_first_rank

MISTAKE = 2  # exit status
INTERRUPTED = 130  # exit status, as a shell has it for SIGINT


class Parser(argparse.ArgumentParser):
    """Ends a mistake with one line and status 2: no usage text, and once for all ranks of a machine.

    others: options that another program takes, for hints.
    """

    def __init__(self, prog: str, description: str | None, others: Iterable[str] = (), **options: Any) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )
        self._others = list(others)
        self._argv: list[str] = []

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._argv = list(args or ())
        return super().parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        stray = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if stray:
            message += self._hint(stray[1])
        defer_to_first_rank()
        self.exit(MISTAKE, f"{self.prog}: {message}\n")

    def _hint(self, option: str) -> str:
        """What may be meant by an unknown option: a key of the configuration, or another option."""
        leaf = option.lstrip("-").replace("-", "_")
        key = "train.global_batch" if leaf == "batch_size" else _key_ending_in(leaf)
        if key is not None:
            at = self._argv.index(option) + 1 if option in self._argv else len(self._argv)
            value = self._argv[at] if at < len(self._argv) and not self._argv[at].startswith("-") else "VALUE"
            return f"; configuration keys are section.key=value: {key}={value}"
        return did_you_mean(option, [*self._option_string_actions, *self._others], quoted=False)


def _key_ending_in(leaf: str) -> str | None:
    return next((key for key in config_io.valid_keys() if key.rpartition(".")[2] == leaf), None)


def did_you_mean(word: str, known: Iterable[str], *, quoted: bool = True) -> str:
    """The nearest known word, for the end of a message; empty where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    if not close:
        return ""
    return f"; did you mean {close[0]!r}?" if quoted else f"; did you mean {close[0]}?"


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """Accept the argument that DeepSpeed's launcher gives to every rank. Unused: the environment says the same."""
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def passive_threads() -> None:
    """Have waiting threads sleep, not spin: on shared cores a step becomes up to ten times slower by spinning.

    Read when torch loads, and by the processes that this one starts.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a rank that left is named by us, without a C++ stack


def with_new_names(prog: str, words: Iterable[str]) -> list[str]:
    """Overrides with keys of earlier versions under their present names; a note on stderr for each."""
    given = list(words)
    renamed = [config_io.with_new_name(word) for word in given]
    for old, new in zip(given, renamed, strict=True):
        if new != old and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{prog}: {old} is now {new}", file=sys.stderr)
    return renamed


def in_job(prog: str) -> bool:
    """Whether this process is a rank of a job: of a launcher, or of srun or mpirun with several tasks, whose variables
    it then has. Ends with status 2 where those lack something.
    """
    try:
        return rendezvous.enter()
    except ValueError as error:
        defer_to_first_rank()
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
