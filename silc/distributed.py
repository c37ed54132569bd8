"""Process groups and the few collectives that more than one module needs; every one is a no-op on a single process."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from silc import rendezvous
from silc.ports import free_port

T = TypeVar("T")
_OPEN_MPI = "OMPI_COMM_WORLD_LOCAL_RANK"
_limit = timedelta(minutes=30)  # of a collective, see init
_HOST_GROUPS: dict[dist.ProcessGroup, dist.ProcessGroup] = {}  # default group -> its ranks over gloo


@dataclass(frozen=True)
class World:
    """Where this process stands among the others. own: whether :func:`init` made the process group."""

    rank: int
    size: int
    device: torch.device
    own: bool = False

    @property
    def main(self) -> bool:
        """Rank 0: the one that writes and prints."""
        return self.rank == 0


def name_accelerator() -> None:
    """Tell DeepSpeed that this is a CPU job where torch finds no GPU: it looks when it is imported, and warns.

    Call it before anything imports DeepSpeed. A choice in the environment stays.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def init(timeout_minutes: float) -> World:
    """Join the job that the launcher's environment describes (nccl on GPUs, gloo on CPUs), or make a job of one.

    The environment of srun and mpirun is one too, see :mod:`silc.rendezvous`.

    Raises ValueError when another job holds the port, or the environment lacks something.
    """
    global _limit
    name_accelerator()
    import deepspeed  # here, so that reading a configuration does not pay for it

    if not rendezvous.enter():
        alone = {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        os.environ.update(alone)
    cuda = torch.cuda.is_available()
    if not cuda and "OMP_NUM_THREADS" not in os.environ:  # or the ranks of a machine fight for its cores
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
    if not cuda:
        _keep_freed_memory()
        # DeepSpeed would compile a shared-memory all-reduce: minutes on a small machine, anew for each environment, and
        # a build that is killed leaves a lock on which every later start hangs. gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.pop(_OPEN_MPI, None)  # DeepSpeed asserts that it is LOCAL_RANK, which a launcher sets
    device = torch.device("cuda", _gpu(int(os.environ["LOCAL_RANK"]))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    own = not dist.is_initialized()
    if own:
        backend = "nccl" if cuda else "gloo"
        limit = timedelta(minutes=timeout_minutes)
        try:
            deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=limit, verbose=False)
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            port = os.environ["MASTER_PORT"]
            if "EADDRINUSE" not in str(error):
                raise ValueError(_not_joined(error, timeout_minutes)) from None
            raise ValueError(
                f"port {port} is in use by another job; take another, as in silc train --master_port {int(port) + 11} "
                "(under srun or mpirun: MASTER_PORT for all tasks)"
            ) from None
        _limit = limit
    if _many():
        _host_group()  # now, since what keeps hosts from each other shows here
    return World(dist.get_rank(), dist.get_world_size(), device, own)


def _not_joined(error: Exception, minutes: float) -> str:
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    address = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
    said = (str(error).strip().splitlines() or [""])[0][:200]
    return (
        f"rank {rank} of {size} did not find all others at {address}, within {minutes:g} min ({said}); look whether "
        "every machine started its ranks and reaches that address"
    )


def _gpu(local_rank: int) -> int:
    """Index of the GPU of the rank of this number on its machine. Raises ValueError where there are too few."""
    count = torch.cuda.device_count()
    if count == 1 and re.fullmatch(r"[^,]+", os.environ.get("CUDA_VISIBLE_DEVICES", "")):
        return 0  # as under srun --gpus-per-task=1: each task sees its own alone
    if local_rank >= count:
        raise ValueError(
            f"rank {local_rank} of this machine has no GPU of its own: {count} are visible; start as many tasks on a "
            "machine as it has GPUs, and let each see all of them or one"
        )
    return local_rank


def first_of_machine() -> bool:
    """Whether this is the first rank of its machine, or the only process."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def left_afterwards() -> Iterator[None]:
    """A job that :func:`init` joins inside the block is left when the block ends, with the environment as it was.

    For training inside a longer process: commands started later from it would take this job's variables for those of a
    launcher, and a second job in the process must not find the first one's group. A process group that was there before
    the block stays.
    """
    names = (*rendezvous.NAMES, _OPEN_MPI)
    before, joined = {name: os.environ.get(name) for name in names}, dist.is_initialized()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if dist.is_initialized() and not joined:
            import deepspeed

            deepspeed.comm.destroy_process_group()
            deepspeed.comm.comm.cdb = None  # or DeepSpeed would take the group that is gone for initialised


def _keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next step, rather than return it and fault every page in again.

    On a CPU this was 11 to 13 % of a step's processor time (benchmarks/LOG.md).
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 2_000_000_000)


def _many() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_mean_(tensor: torch.Tensor) -> torch.Tensor:
    """Average over ranks, in place."""
    if _many():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def all_reduce_min_(tensor: torch.Tensor) -> torch.Tensor:
    """Smallest over ranks, in place: for flags, 'is it so everywhere'."""
    if _many():
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
    return tensor


def largest(value: int) -> int:
    """Largest of a whole number over ranks, exchanged on the hosts: no device is waited for."""
    if not _many():
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=_host_group())
    return int(tensor)


def _host_group() -> dist.ProcessGroup | None:
    """A group of all ranks that exchanges CPU tensors, made with its first use (collective); None: the default one."""
    world = dist.group.WORLD
    if dist.get_backend() == "gloo" or world is None:
        return None
    if world not in _HOST_GROUPS:
        _HOST_GROUPS.clear()  # of a job that was left
        _HOST_GROUPS[world] = dist.new_group(backend="gloo", timeout=_limit)
    return _HOST_GROUPS[world]


def collectives_begun() -> int:
    """How many collectives of all ranks this one has begun; a rank that others wait for has begun fewer."""
    world = dist.group.WORLD
    groups = [] if world is None else [world, *_HOST_GROUPS.values()]
    return sum(group._get_sequence_number_for_group() for group in groups)  # type: ignore[attr-defined]


def all_gather_objects(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every rank's picklable value, in the order of ranks. For rare, small things. group: of all ranks."""
    if not _many():
        return [value]
    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value, group=group)
    return out


def apart() -> Callable[[Any], list[Any]]:
    """:func:`all_gather_objects` for a thread beside the one that trains, whose collectives it does not meet
    (collective itself).
    """
    group = dist.new_group(backend="gloo", timeout=_limit) if _many() else None
    return partial(all_gather_objects, group=group)


def of_first(make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on every rank (collective). Raises ValueError on all where it fails there."""
    found, wrong = None, None
    if not _many() or dist.get_rank() == 0:
        try:
            found = make()
        except (OSError, ValueError, ArithmeticError) as error:
            wrong = str(error) or type(error).__name__
    found, wrong = broadcast_object((found, wrong))
    if wrong is not None:
        raise ValueError(wrong)
    return found  # type: ignore[return-value]


def broadcast_object(value: Any) -> Any:
    """Rank 0's picklable value."""
    if not _many():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait for every rank."""
    if _many():
        dist.barrier()
