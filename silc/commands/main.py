"""The console script `silc`: it hands the words that follow to one of the subcommands."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from silc.commands.common import MISTAKE
from silc.version import __version__

# Name -> (module, function, one line of help). A module is imported when its command is asked for.
COMMANDS = {
    "train": ("silc.commands.train", "launch", "train SILC or one of its baselines"),
    "evaluate": ("silc.commands.evaluate", "launch", "measure a run, a checkpoint or an export"),
    "export": ("silc.commands.export", "main", "write a checkpoint as a folder that open_clip loads"),
    "claims": ("silc.commands.claims", "main", "train and measure SILC and its baselines alike"),
    "keys": ("silc.commands.main", "keys", "list every configuration key with type, default and meaning"),
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


def keys(argv: Sequence[str]) -> int:
    """`silc keys` is `silc train --keys`."""
    from silc.commands import train

    return train.main(["--keys", *argv])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["--help"], ["-h"]):
        print(usage())
        return 0
    if words[:1] in (["--version"], ["-V"]):
        print(f"silc {__version__}")
        return 0
    if not words or words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1) if words else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        wrong = f"{words[0]!r} is no command{hint}" if words else "name a command"
        print(f"silc: {wrong}; commands: {', '.join(COMMANDS)} (silc --help)", file=sys.stderr)
        return MISTAKE
    module, function, _ = COMMANDS[words[0]]
    status: int = getattr(importlib.import_module(module), function)(words[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
