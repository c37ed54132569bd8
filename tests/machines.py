"""Several machines on one: namespaces of network, processes, mounts and host name, each with its own ssh server, and a
switch between them. Needs root. All of it is gone with the process that made it, also when that one is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "mount", "ssh", "ssh-keygen", "pdsh", "/usr/sbin/sshd")
FIRST = ("env", "--ignore-signal=CHLD", "sleep", "infinity")  # ends what others leave behind, as a machine does
SSHD = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
LogLevel ERROR
"""
SSH = """
Host node*
  IdentityFile {folder}/key
  UserKnownHostsFile {folder}/known
  LogLevel ERROR
"""


def missing() -> list[str]:
    """What this machine lacks for :func:`machines`."""
    found = [name for name in PROGRAMS if shutil.which(name) is None]
    tried = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"]
    if not found and (os.geteuid() != 0 or subprocess.run(tried, capture_output=True, check=False).returncode != 0):
        found.append("root, and the right to make namespaces")
    return found


class Machine:
    """One of them. pid: of its first process, with which all others of it end."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        kinds = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", *kinds, *FIRST]
        self._holder = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self.pid = _child(self._holder.pid)

    def command(self, *words: str) -> list[str]:
        """`words` as a command that runs on this machine, in the working directory of the caller."""
        return [
            "nsenter",
            "--target",
            str(self.pid),
            "--net",
            "--uts",
            "--mount",
            "--pid",
            f"--wd={os.getcwd()}",
            *words,
        ]

    def do(self, *words: str) -> str:
        """Run a command there. Returns what it printed; raises RuntimeError with that where it fails."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{words} on {self.name}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, words: Sequence[str], env: dict[str, str], cwd: Path, output: IO[str]) -> subprocess.Popen[bytes]:
        """A command there that goes on."""
        command = self.command()
        command[-1] = f"--wd={cwd}"
        return subprocess.Popen([*command, *words], cwd=cwd, env=env, stdout=output, stderr=output)

    def processes(self) -> list[psutil.Process]:
        """All processes of this machine but its first one and its ssh server."""
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                here = os.readlink(f"/proc/{process.pid}/ns/pid") == space
                if here and process.status() != psutil.STATUS_ZOMBIE and process.name() not in ("sleep", "sshd"):
                    found.append(process)
        return found

    def cut(self) -> None:
        """Take its cable out: no connection closes, nothing arrives."""
        self.do("ip", "link", "set", "eth0", "down")

    def kill(self) -> None:
        """End all its processes at once. What they had open is closed, as when a machine is switched off and on."""
        self._holder.kill()
        self._holder.wait()


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """node1 and node2, which enter each other by ssh without a password. folder: for keys and configuration."""
    with contextlib.ExitStack() as stack:
        pair = []
        for number in (1, 2):
            pair.append(Machine(f"node{number}", f"10.77.0.{number}"))
            stack.callback(pair[-1].kill)
        one, two = pair
        switch = Machine("switch", "")  # a cable from one to the other would be gone for both when one is killed
        stack.callback(switch.kill)
        switch.do("sh", "-ec", "ip link add bridge type bridge; ip link set bridge up")
        for machine in pair:
            ends = ["name", "eth0", "netns", str(machine.pid), "type", "veth", "peer", "name", machine.name]
            subprocess.run(["ip", "link", "add", *ends, "netns", str(switch.pid)], check=True)
            switch.do("ip", "link", "set", machine.name, "master", "bridge", "up")
        _write_keys(folder, pair)
        for machine in pair:
            _furnish(machine, folder)
        yield one, two


def _write_keys(folder: Path, pair: list[Machine]) -> None:
    (folder / "ssh").mkdir()
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known").write_text("".join(f"{each.name},{each.address} {host_key}\n" for each in pair))
    (folder / "ssh" / "config").write_text(SSH.format(folder=folder))
    lines = ["127.0.0.1 localhost", *(f"{each.address} {each.name}" for each in pair)]
    (folder / "hosts").write_text("".join(f"{line}\n" for line in lines))


def _furnish(machine: Machine, folder: Path) -> None:
    """Addresses, names, the ssh client's and server's configuration, and the server."""
    config = folder / f"sshd_{machine.name}"
    config.write_text(SSHD.format(folder=folder, address=machine.address))
    home = Path("~root").expanduser()
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)  # to lay ours over it, for these machines alone
    script = f"""
        hostname {machine.name}
        ip link set lo up
        ip link set eth0 up
        ip address add {machine.address}/24 dev eth0
        mount --bind {folder}/hosts /etc/hosts
        mount --bind {folder}/ssh {home}/.ssh
        mount -t tmpfs -o mode=755 none /run
        mkdir /run/sshd
        /usr/sbin/sshd -f {config}
    """
    machine.do("sh", "-ec", script)


def _child(pid: int) -> int:
    """The first process in the namespace of `unshare`."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                if child.name() == "sleep":
                    return child.pid
        time.sleep(0.01)
    raise TimeoutError("the namespaces could not be made")
