"""What a machine may lack beside packages and programs: each is looked at once a call, and said in words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import cache

from benchmarks import ROOT

LOOPBACK = "loopback"
INTERPRETER = "from tests.kernels.device.interpreter import trouble; print(trouble())"


@cache
def loopback() -> str:
    """A training's processes meet at 127.0.0.1; where it is down they would wait for minutes."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()[:2], timeout=5),
        ):
            return ""
    except OSError as error:
        return f"the network 127.0.0.1, which is down ({error.strerror or error}): ip link set lo up"


@cache
def interpreter() -> str:
    """Some versions of NumPy break Triton's. In a process of its own: it is chosen when Triton is imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETER],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    said = (done.stdout.strip().splitlines() or [""])[-1]
    return f"Triton's interpreter: {said}" if said or done.returncode else ""
