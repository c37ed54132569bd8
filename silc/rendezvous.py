"""Joining the job of `srun` or `mpirun`: their variables, as those that torch and DeepSpeed read.

A launcher (DeepSpeed's, torchrun) gives each of its processes RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. `srun` and `mpirun` give each task its number under names of their own; here those become the same five, so
that N tasks are one job of N ranks and not N jobs of one. What a launcher or the user has set stays.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

PORTS = range(12_000, 32_000)  # below those that Linux gives to outgoing connections
DEFAULT_PORT = 29_500  # torch's
SPECIAL_STEPS = 0xFFFF_FFF0  # SLURM numbers a batch script, an interactive shell and the like from here on
BY_HAND = "set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each task"
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# Names of rank, size, rank and size on the machine, and a name that all ranks of a job share or None.
MPI: dict[str, tuple[str, str, str, str, str | None]] = {
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "PMIX_NAMESPACE",
    ),
    "MVAPICH": (
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
        None,
    ),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", None),  # and Intel MPI
    "PALS": ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE", None),
}


@dataclass(frozen=True)
class Task:
    """One of the tasks that were started together.

    by: who started them, in words. host: the first machine, None if not known. job: what all of them share, or None.
    local_size: tasks on this machine, None if not known. alone: whether all tasks are on this machine.
    """

    by: str
    rank: int
    size: int
    local_rank: int
    local_size: int | None
    alone: bool
    host: str | None
    job: str | None


def enter(environment: MutableMapping[str, str] | None = None) -> bool:
    """Give this process the variables of its place in a job of several tasks, if srun or mpirun started it as one.

    environment: read and changed; by default the process's own.

    Returns whether this process is a rank of a job now, by a launcher's variables too. Raises ValueError where
    something is missing, and says what to set.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env:
        missing = [name for name in NAMES if name not in (*env, "LOCAL_WORLD_SIZE")]
        if missing:
            raise ValueError(f"RANK={env['RANK'][:20]} is set, but {' and '.join(missing)} not: set all five, or none")
        return True
    task = find(env)
    if task is None or task.size == 1:
        return False
    env["LOCAL_RANK"] = str(task.local_rank)  # first: it chooses who prints what follows
    found = {"RANK": str(task.rank), "WORLD_SIZE": str(task.size)}
    if task.local_size is not None:
        found["LOCAL_WORLD_SIZE"] = str(task.local_size)
    found["MASTER_ADDR"] = env.get("MASTER_ADDR") or _address(task)
    found["MASTER_PORT"] = env.get("MASTER_PORT") or str(_port(task))
    env.update(found)
    return True


def find(env: Mapping[str, str]) -> Task | None:
    """The task of srun or mpirun that this process is; None where it is none. Raises ValueError for variables that do
    not fit each other.
    """
    for by in ("Open MPI", "MVAPICH", "MPICH"):  # mpirun in a SLURM job: SLURM's are those of its daemons
        if all(name in env for name in MPI[by][:3]):
            return _checked(_of_mpi(by, env))
    slurm = _of_slurm(env)
    if slurm is not None:
        return _checked(slurm)
    if all(name in env for name in MPI["PALS"][:3]):
        return _checked(_of_mpi("PALS", env))
    if _number(env, "PMI_SIZE", 1) > 1 and "PMI_RANK" in env and "SLURM_JOB_ID" not in env:
        raise ValueError(
            f"this is task {env['PMI_RANK']} of {env['PMI_SIZE']} (PMI_RANK, PMI_SIZE), but MPI_LOCALRANKID, its "
            f"number on this machine, is not set; {BY_HAND}"
        )
    return None


def _of_mpi(by: str, env: Mapping[str, str]) -> Task:
    rank, size, local_rank, local_size, job = MPI[by]
    ranks, here = _number(env, size), _number(env, local_size) if local_size in env else None
    key = env.get(job) if job else None
    return Task(by, _number(env, rank), ranks, _number(env, local_rank), here, here == ranks, None, key)


def _of_slurm(env: Mapping[str, str]) -> Task | None:
    """The task of a step that srun started; None in a batch script or a shell of salloc, which are no tasks."""
    if "SLURM_PROCID" not in env:
        return None
    step, nodes = env.get("SLURM_STEP_ID"), env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if step is None:
        if nodes or env.get("ENVIRONMENT") == "BATCH":
            return None
    elif _number(env, "SLURM_STEP_ID") >= SPECIAL_STEPS:
        return None
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
    rank, size, local = (
        _number(env, each, default) for each, default in (("SLURM_PROCID", 0), (name, 1), ("SLURM_LOCALID", 0))
    )
    host = None if nodes is None else first_host(nodes)
    alone = nodes == host if nodes else rank == local
    job = f"{env.get('SLURM_JOB_ID', '')}.{step or 0}"
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE")
    return Task("SLURM", rank, size, local, _tasks_here(per_node, _number(env, "SLURM_NODEID", 0)), alone, host, job)


def _checked(task: Task) -> Task:
    if not (0 <= task.rank < task.size and 0 <= task.local_rank <= task.rank):
        raise ValueError(
            f"{task.by} calls this task {task.rank} of {task.size} and {task.local_rank} on this machine, which cannot "
            f"be; {BY_HAND}"
        )
    return task


def first_host(nodes: str) -> str:
    """The first machine of SLURM's list: `node[003-007,12],big1` is node003."""
    first = re.match(r"(?:[^,\[\]]|\[[^\[\]]*\])*", nodes)
    assert first is not None, nodes  # it matches an empty text too
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])


def _tasks_here(per_node: str | None, node: int) -> int | None:
    """Tasks on machine `node` of SLURM's list: `4(x2),1` is 4, 4, 1. None where the list does not say."""
    at = 0
    for tasks, times in re.findall(r"(\d{1,9})(?:\(x(\d{1,9})\))?", per_node or ""):
        at += int(times or 1)
        if node < at:
            return int(tasks)
    return None


def _address(task: Task) -> str:
    if task.alone:
        return "127.0.0.1"
    if task.host is None:
        raise ValueError(
            f"this is task {task.rank} of {task.size} on several machines, and {task.by} does not say which of them "
            "has task 0; set MASTER_ADDR to its name or address for all tasks, as in mpirun -x MASTER_ADDR=node1"
        )
    return task.host


def _port(task: Task) -> int:
    """The same on all ranks without asking, and hardly that of another job."""
    return DEFAULT_PORT if task.job is None else PORTS[zlib.crc32(task.job.encode()) % len(PORTS)]


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError(f"{name}={text[:40]!r} is not a number; start the job by its launcher, or unset the variable")
    return int(text)
