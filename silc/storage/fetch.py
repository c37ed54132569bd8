"""python -m silc.storage.fetch ADDRESS LIMIT [PATIENCE]: the bytes of a file or object on standard output.

Used by :func:`silc.storage.fetch_apart`. What goes wrong is said on standard error, the exit status tells its class.
"""

from __future__ import annotations

import logging
import signal
import sys

from silc.errors import StoreFailed
from silc.storage.objects import FAILED, PATIENCE, WRONG, read_whole


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent tells of an interruption
    logging.disable()  # standard error holds the one message
    try:
        address, limit, *rest = arguments
        data = read_whole(address, int(limit), patience=float(rest[0]) if rest else PATIENCE)
    except ValueError as error:
        print(error, file=sys.stderr)
        return WRONG
    except StoreFailed as error:
        print(error, file=sys.stderr)
        return FAILED
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
