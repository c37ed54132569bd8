"""The output of a process that outlives its readers: a rank trains on, and saves, when its terminal is gone."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, TextIO

READER_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


class Steady:
    """A text stream whose failing writes go nowhere, from the first one on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of a stream."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """As of a stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if error.errno not in READER_GONE:  # a full disk may have room again
            return
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady_output() -> None:
    """For the rest of this process: its output may lose its reader (a closed terminal, an ssh that has ended)."""
    sys.stdout, sys.stderr = Steady(sys.stdout), Steady(sys.stderr)  # type: ignore[assignment]
