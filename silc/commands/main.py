"""The console script `silc`: it hands the words that follow to one of the subcommands."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence

from silc.commands.common import INTERRUPTED, MISTAKE, did_you_mean
from silc.version import __version__

# Name -> (module, function, one line of help). A module is imported when its command is asked for.
COMMANDS = {
    "train": ("silc.commands.train", "launch", "train SILC or one of its baselines"),
    "evaluate": ("silc.commands.evaluate", "launch", "measure a run, a checkpoint or an export"),
    "compare": ("silc.commands.compare", "main", "put the measurements of several runs side by side"),
    "check": ("silc.commands.check", "main", "compare the checkpoints of a run with their hashes"),
    "export": ("silc.commands.export", "main", "write a checkpoint as a folder that open_clip loads"),
    "shards": ("silc.commands.shards.main", "main", "pack, check, show and index the shards that a run reads"),
    "claims": ("silc.commands.claims", "main", "train and measure SILC and its baselines alike"),
    "keys": ("silc.commands.keys", "main", "list every configuration key with type, default and meaning"),
}


def usage() -> str:
    """What `silc --help` prints."""
    lines = [f"  {name:10s}{line}" for name, (_, _, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: silc COMMAND [options] [section.key=value ...]",
            "",
            "commands:",
            *lines,
            "",
            "silc COMMAND --help describes a command; silc --version prints the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status; as a shell has it, 141 where the reader of the output left (`| head`), 130
    after Ctrl-C.
    """
    try:
        try:
            return run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of Python
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return INTERRUPTED


def _reader_left() -> bool:
    """Whether the standard output is a pipe that no one reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run(words: list[str]) -> int:
    """Exit status of a command with its words."""
    if words[:1] in (["--help"], ["-h"]):
        print(usage())
        return 0
    if words[:1] in (["--version"], ["-V"]):
        print(f"silc {__version__}")
        return 0
    if not words or words[0] not in COMMANDS:
        wrong = f"{words[0]!r} is not a command{did_you_mean(words[0], COMMANDS)}" if words else "name a command"
        print(f"silc: {wrong}; commands: {', '.join(COMMANDS)} (silc --help)", file=sys.stderr)
        return MISTAKE
    module, function, _ = COMMANDS[words[0]]
    status: int = getattr(importlib.import_module(module), function)(words[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
