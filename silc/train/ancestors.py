"""The processes that started a rank and that its job cannot do without: DeepSpeed's launchers, `silc train`, an ssh.

A launcher that is killed cannot tell its ranks, and DeepSpeed's does not pass on all signals: a rank looks itself, and
takes the end of one of these for the wish to stop. Shells, `nohup`, terminals and schedulers above are none of them:
a job goes on when its user logs out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from silc.processes import Known, known

OWNER = "SILC_LAUNCHER"  # environment variable: the `silc` process that started the job, see `owner`
NODE_LAUNCHER, RUNNER = "deepspeed.launcher.launch", "deepspeed.launcher.runner"
RUNNERS = ("deepspeed", "deepspeed.pt", "ds")  # names of the script that calls the runner
AGENTS = ("torchrun", "torch.distributed.run", "accelerate")  # as a word of the command
DAEMONS = ("orted", "prted", "prterun", "mpirun", "mpiexec", "hydra_pmi_proxy")  # as the name of the process
STARTED = ("RANK", "CROSS_SIZE", "LOCAL_SIZE")  # environment that DeepSpeed's node launcher gives to its ranks
ORPHANS = ("--enable_each_rank_log=", "--log_level=")  # DeepSpeed's runner gives both, and no person does


class Ancestor(NamedTuple):
    """what: name of the program, for messages. pid: 0 where it had ended before this process looked; process: None."""

    what: str
    pid: int
    process: Known | None

    def __str__(self) -> str:
        where = f"process {self.pid} of " if self.pid else ""
        return f"{self.what} ({where}{socket.gethostname()})"


def owner() -> str:
    """This process, as the value of the environment variable by which the processes below it know it."""
    process = known(os.getpid())
    return "" if process is None else f"{process.pid} {process.started} {_space()}"


def _space() -> str:
    """Where numbers of processes mean the same: a machine's, or a container's."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def ancestors() -> list[Ancestor]:
    """Of this rank; empty where it was started by hand."""
    try:
        parents = psutil.Process().parents()
    except psutil.Error:
        parents = []
    return [*_launchers(parents), *_owner()]


def _owner() -> list[Ancestor]:
    fields = os.environ.get(OWNER, "").split(" ", 2)
    if len(fields) < 3 or not (fields[0].isdigit() and fields[1].isdigit()) or fields[2] != _space():
        return []  # or on another machine
    return [Ancestor("silc", int(fields[0]), Known(int(fields[0]), int(fields[1])))]


def _launchers(parents: Sequence[psutil.Process]) -> list[Ancestor]:
    place = next((place for place, process in enumerate(parents) if is_node_launcher(words_of(process))), None)
    if place is None:
        if all(name in os.environ for name in STARTED):
            return [Ancestor(NODE_LAUNCHER, 0, None)]
        other = _agent(parents[0], words_of(parents[0])) if parents else None
        return [] if other is None else [_ancestor(other, parents[0])]
    launcher, above = parents[place], parents[place + 1 :]
    found = [_ancestor(NODE_LAUNCHER, launcher)]
    if above and is_runner(words_of(above[0])):
        return [*found, _ancestor(RUNNER, above[0])]
    if _is_orphan(launcher, above):
        return [*found, Ancestor(RUNNER, 0, None)]
    return found + [_ancestor("ssh", process) for process in _session(launcher, above)]


def _is_orphan(launcher: psutil.Process, parents: Sequence[psutil.Process]) -> bool:
    """Whether a node launcher's runner has ended: another process has taken its place above it, the first process of
    the machine for one. What a person starts by hand is told from it by its words."""
    words = words_of(launcher)
    if not all(any(word.startswith(option) for word in words) for option in ORPHANS):
        return False
    if not parents:
        return False
    above = parents[0]
    if known(above.pid) is None:  # it ended just now, or nobody has waited for it
        return True
    return above.pid in [1, *(ancestor.pid for ancestor in _owner())] or _name(above) in ("systemd", "init")


def _session(launcher: psutil.Process, parents: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The shell and the server's process of the ssh connection by which a launcher on another machine started this
    one. It has no terminal, which a person who logged in has.
    """
    found = []
    for process in parents[:3]:
        found.append(process)
        if _name(process).startswith("sshd"):
            return [] if _terminal(launcher) else found
        if "-c" not in words_of(process)[:3]:
            return []
    return []


def _agent(process: psutil.Process, words: Sequence[str]) -> str | None:
    """The launcher of another package that starts this rank."""
    names = {Path(word).name for word in words[:4]}
    return next((name for name in AGENTS if name in names), None) or (
        _name(process) if _name(process) in DAEMONS else None
    )


def siblings() -> list[Known]:
    """The other ranks that the same node launcher started."""
    try:
        parent = psutil.Process().parent()
        if parent is None or not is_node_launcher(words_of(parent)):
            return []
        found = [known(child.pid) for child in parent.children() if child.pid != os.getpid()]
    except psutil.Error:
        return []
    return [process for process in found if process is not None]


def is_node_launcher(words: Sequence[str]) -> bool:
    """Whether a command is DeepSpeed's launcher of the ranks of one machine."""
    return NODE_LAUNCHER in words[:5]


def is_runner(words: Sequence[str]) -> bool:
    """Whether a command is DeepSpeed's launcher of a job."""
    return RUNNER in words[:5] or any(Path(word).name in RUNNERS for word in words[:3])


def _ancestor(what: str, process: psutil.Process) -> Ancestor:
    return Ancestor(what, process.pid, known(process.pid))


def words_of(process: psutil.Process) -> list[str]:
    """Of the command of a process; none where it has ended or is another user's."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _terminal(process: psutil.Process) -> str | None:
    try:
        return process.terminal()
    except psutil.Error:
        return None
