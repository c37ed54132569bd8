"""`silc shards`: make, look over and index WebDataset tar shards.

silc shards pack SOURCE        make shards of a folder of images, a table, a caption file, a Hugging Face data set
silc shards check SHARDS       read and decode every sample as training would; what is damaged, and what comes twice
silc shards show SHARDS        counts, sizes, captions and a contact sheet, from a random sample
silc shards index SHARDS       say where each sample begins, so that a run starts at once

silc shards COMMAND --help describes a command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from silc.commands.common import INTERRUPTED, MISTAKE, Parser, passive_threads
from silc.commands.shards import check, index, pack, show

COMMANDS = (pack, check, show, index)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line. Mistakes end with a message and status 2."""
    parser = Parser("silc shards", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Sub)
    for command in COMMANDS:
        command.add(commands)
    return parser.parse_args(list(argv))


class _Sub(Parser):
    """The parser of a subcommand, under its own name."""

    def __init__(self, *, prog: str, description: str | None = None, **options: Any) -> None:
        super().__init__(prog, description)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses what it does not know: the parser above would, under its own name and without a hint.

        Words behind an option belong to those before it.
        """
        namespace, rest = super().parse_known_args(args, namespace)
        if hasattr(namespace, "words") and not any(word.startswith("-") for word in rest):
            namespace.words += rest
            return namespace, []
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return namespace, rest


def _goes_on(args: argparse.Namespace) -> str:
    """For the end of a message, where a command continues what it began."""
    return "; the same command goes on from here" if getattr(args, "goes_on", True) else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 2 for a user's mistake, 1 where shards or their index are not in order."""
    passive_threads()
    args = parse(sys.argv[1:] if argv is None else argv)
    from silc.errors import RunStopped
    from silc.files import advice

    prog = f"silc shards {args.command}"
    try:
        status: int = args.work(args)
    except ValueError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return MISTAKE
    except RunStopped as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has left (`| head`)
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{prog}: {where}{error.strerror or error}{advice(error)}{_goes_on(args)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted{_goes_on(args)}", file=sys.stderr)
        return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
