"""Jobs on several machines: tasks of srun and mpirun, and what DeepSpeed's launcher needs to reach others over ssh."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from silc.commands import launcher
from silc.commands.common import MISTAKE, in_job
from silc.files import check_regular
from silc.text import plural

PROGRAMS = {  # what the launcher of this name runs, and the package of Debian and Ubuntu that has it
    "pdsh": {"pdsh": "pdsh"},
    "openmpi": {"ompi_info": "openmpi-bin"},
    "mpich": {"mpirun": "mpich"},
    "impi": {"mpirun": "intel-oneapi-mpi"},
    "mvapich": {"mpiname": "mvapich2"},
    "slurm": {"sinfo": "slurm-client"},
}
LONGEST = 2**24  # bytes of a hostfile
SSH_FAILED = 255  # status of ssh, and so of pdsh, when a connection breaks
PATIENCE = 30  # seconds for a machine to answer
# A machine that is gone closes no connection: ssh asks whether it is there, and gives up after a minute.
ALIVE = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"
# What ranks elsewhere are to have of this environment, besides PYTHON*, NCCL* and UCX*, which DeepSpeed passes on. It
# all stands in a command line, where everyone can read it: no credentials.
PASSED = re.compile(r"GLOO_\w+|G?OMP_\w+|DS_ACCELERATOR|PYTHON_?SAFEPATH")
SIGNAL_RANKS = """
import os, sys

def signal_ranks(job, number):
    # Processes with both variables are a rank and those that it has started; it has no parent among them.
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                names = file.read().split(b"\\0")
            with open(f"/proc/{pid}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if f"SILC_JOB={job}".encode() in names and any(name.startswith(b"LOCAL_RANK=") for name in names):
            found[pid] = parent
    ranks = [pid for pid, parent in found.items() if parent not in found]
    for rank in ranks:
        try:
            os.kill(int(rank), number)
        except ProcessLookupError:
            pass
    sys.exit(not ranks)
"""  # run by Python on another machine


def is_rank(prog: str, options: Sequence[str]) -> bool:
    """Whether this process is a rank already: a task of srun or mpirun. False where it is to start the launcher.

    options: the launcher's, as in :func:`silc.commands.launcher.split`. One launcher a machine, as launch/slurm.sh has
    it, is given --no_ssh. Ends with status 2 for options that would start a job in each task.
    """
    names = {option.split("=")[0] for option in options}
    if "--no_ssh" in names or not in_job(prog):
        return False
    if names:
        _refuse(
            prog,
            f"this is one of {os.environ['WORLD_SIZE']} tasks, which are the ranks of the job, and {sorted(names)[0]} "
            "would start a launcher in each; leave it out, start one task, or see launch/slurm.sh",
        )
    return True


def _refuse(prog: str, message: str) -> NoReturn:
    print(f"{prog}: {message}", file=sys.stderr)
    sys.exit(MISTAKE)


def run(prog: str, module: str, options: Sequence[str], words: Sequence[str]) -> int:
    """Exit status of a job of the launcher, on this machine or, as its options or /job/hostfile say, on several."""
    with reached(prog, options, words) as (handed, first):
        if first is None:
            return launcher.run(prog, module, options, handed)
        status = launcher.run(prog, module, options, handed, first)
    if status == SSH_FAILED:
        print(f"{prog}: the connection to a machine of the job broke", file=sys.stderr)
        return 1
    return status


class Door:
    """The way to one machine of a job, for signals: the ranks agree to stop, so that it is enough to reach some.

    command: of ssh, up to the name of the machine. job: the value of SILC_JOB in the environment of all its ranks.
    """

    def __init__(self, command: Sequence[str], job: str) -> None:
        self._command, self._job = list(command), job

    def __call__(self, signum: int) -> bool:
        """Send a signal to the ranks of that machine. Returns whether there were any."""
        code = shlex.quote(f"{SIGNAL_RANKS}\nsignal_ranks({self._job!r}, {signum})")
        words = [*self._command, f"{shlex.quote(sys.executable)} -c {code}"]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


@contextlib.contextmanager
def reached(prog: str, options: Sequence[str], words: Sequence[str]) -> Iterator[tuple[list[str], Door | None]]:
    """Inside, DeepSpeed's launcher finds what it needs to reach the machines of its hostfile, and passes on to them
    what this environment says about threads, network cards and the accelerator.

    Gives the words of the command as they must be handed to the launcher for the ranks to get `words`, and the way to a
    machine where the launcher goes over ssh, else None. Ends with status 2 where a program is missing, the hostfile
    cannot be read or a machine does not let us in.
    """
    given = {name: value for name, _, value in (option.partition("=") for option in options)}
    file = Path(given.get("--hostfile", launcher.HOSTFILE))
    if "--no_ssh" in given or not file.is_file():
        yield list(words), None
        return
    backend = given.get("--launcher", "pdsh").lower()
    try:
        hosts = chosen(read_hosts(file), given)
        several = len(hosts) > 1 or "--force_multi" in given
        _check_programs(backend if several else None)
        if "--no_ssh_check" not in given:
            _check_doors(hosts, given.get("--ssh_port"))
    except ValueError as error:
        _refuse(prog, str(error))
    job, before = secrets.token_hex(8), dict(os.environ)
    with tempfile.NamedTemporaryFile("w", prefix="silc-environment-", encoding="utf-8") as passed:
        passed.write(f"SILC_JOB={job}\n{_passed()}")
        passed.flush()
        os.environ["PDSH_SSH_ARGS_APPEND"] = f"{ALIVE} {before.get('PDSH_SSH_ARGS_APPEND', '')}".strip()
        os.environ["DS_ENV_FILE"] = passed.name
        try:
            if several and backend == "pdsh":
                yield [_over_pdsh(word) for word in words], Door([*_ssh(given.get("--ssh_port")), hosts[0]], job)
            else:
                yield list(words), None
        finally:
            for name in ("PDSH_SSH_ARGS_APPEND", "DS_ENV_FILE"):
                os.environ.pop(name, None)
                if name in before:
                    os.environ[name] = before[name]


def _over_pdsh(word: str) -> str:
    """A word that arrives as it is: pdsh joins words to a line that a shell on the other machine splits again, with a
    meaning for % of its own, and DeepSpeed puts a word that has a space into double quotes.
    """
    quoted = re.sub(r"([\\$`])", r"\\\1", word) if " " in word else shlex.quote(word)
    return quoted.replace("%", "%%")


def read_hosts(file: Path) -> list[str]:
    """Names of a hostfile's machines. Raises ValueError for what the launcher would not take."""
    hosts: dict[str, int] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"(\S+)\s+slots=(\d{1,9})", text)
        if found is None:
            raise ValueError(f"{file}, line {number}: {text[:80]!r} is not NAME slots=N, as in node1 slots=8")
        if found[1] in hosts:
            raise ValueError(f"{file}, line {number}: {found[1]} stands in line {hosts[found[1]]} already")
        hosts[found[1]] = number
    if not hosts:
        raise ValueError(f"{file} names no machine; give one a line, as in node1 slots=8")
    return list(hosts)


def chosen(hosts: Sequence[str], given: dict[str, str]) -> list[str]:
    """Those of the hosts that --include, --exclude and --num_nodes leave."""
    if given.get("--include"):
        hosts = [part.split(":")[0] for part in given["--include"].split("@")]
    if given.get("--exclude"):
        hosts = [host for host in hosts if host not in given["--exclude"].split("@")]
    nodes = int(given.get("--num_nodes", -1))
    return list(hosts if nodes < 0 else hosts[:nodes])


def _check_programs(backend: str | None) -> None:
    needed = {"ssh": "openssh-client"} | ({} if backend is None else PROGRAMS.get(backend, {}))
    missing = {program: package for program, package in needed.items() if shutil.which(program) is None}
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} cannot be found, which reach the machines of the hostfile; install them (Debian, "
            f"Ubuntu: apt install {' '.join(missing.values())}), or take launch/slurm.sh or --no_ssh with --node_rank"
        )


def _ssh(port: str | None) -> list[str]:
    return ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={PATIENCE}", *(["-p", port] if port else [])]


def _check_doors(hosts: Sequence[str], port: str | None) -> None:
    """Raises ValueError where a machine does not let us in by ssh without a password."""
    command = _ssh(port)

    def refused(host: str) -> str | None:
        try:
            done = subprocess.run(
                [*command, host, "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=2 * PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {2 * PATIENCE} s"
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return None if done.returncode == 0 else (lines[-1] if lines else f"status {done.returncode}")[:200]

    with ThreadPoolExecutor(32) as pool:
        answers = dict(zip(hosts, pool.map(refused, hosts), strict=True))
    shut = {host: said for host, said in answers.items() if said is not None}
    if shut:
        host, said = next(iter(shut.items()))
        more = f" and {plural(len(shut) - 1, 'more machine')}" if len(shut) > 1 else ""
        raise ValueError(
            f"{host}{more} of the hostfile cannot be entered by ssh: {said}; a key without a password and a known host "
            f"key are needed (try: {' '.join(command[:3])} {host} true)"
        )


def _passed() -> str:
    """NAME=VALUE lines: what ranks elsewhere are to have of this environment, then the user's .deepspeed_env files."""
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    files = dict.fromkeys(Path(folder, name) for folder in (Path.home(), Path()))
    lines = [line for file in files if file.is_file() for line in _text(file).splitlines() if "=" in line]
    lines[:0] = [f"{key}={value}" for key, value in os.environ.items() if PASSED.fullmatch(key)]
    return "".join(f"{line}\n" for line in lines)


def _text(file: Path) -> str:
    try:
        check_regular(file, LONGEST)
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
