"""A free port for a job of one machine."""

from __future__ import annotations

import socket
import threading

TRIES = 1000
_lock = threading.Lock()
_given: set[int] = set()


def free_port() -> int:
    """A TCP port that no one holds at this moment, and that this process was not given before: a job that was given it
    a moment ago may not listen yet.
    """
    with _lock:
        port = next((port for port in (_probe() for _ in range(TRIES)) if port not in _given), None)
        if port is None:  # all were given once: by now most of their jobs have ended
            _given.clear()
            port = _probe()
        _given.add(port)
        return port


def _probe() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
