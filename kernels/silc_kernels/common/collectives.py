"""The few collectives the ops need, over a process group or alone; a failure names the op and the rank.

Each starts at once and is waited for when its result is wanted. On CUDA it runs on a stream of the process group beside
the compute, and the wait is the current stream's, not the host's; over gloo it runs on a thread of the group. A rank
that stays away ends in an error after the group's timeout: with gloo as a RuntimeError here; NCCL's watchdog ends the
process, or, where TORCH_NCCL_BLOCKING_WAIT=1 lets the host wait, it is the RuntimeError too.

Inside an operator of torch.library nothing of this differs: collectives start from the calling thread, on the current
stream, as they would outside; the watchdog has a thread of its own and no lock of the dispatcher. NCCL takes the device
from the tensors it is given, and Triton launches on the current device: an op sets that to its tensors' device.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Pending:
    """A collective under way, or done where `work` is None. Keeps its buffers alive."""

    ranks: "Ranks"
    collective: str
    result: Tensor
    sent: Tensor | None = None
    work: dist.Work | None = None

    def wait(self) -> Tensor:
        """The result, for work queued from now on."""
        if self.work is not None:
            with self.ranks.named(self.collective):
                self.work.wait()
            self.work = self.sent = None
        return self.result


@dataclass(frozen=True)
class Numbers:
    """Whole numbers of all ranks on their way to the host, [ranks, numbers]; there already, if `event` is None."""

    arriving: Tensor
    event: torch.cuda.Event | None

    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return self.event is None or self.event.query()

    def read(self) -> list[list[int]]:
        """By rank."""
        if self.event is not None:
            self.event.synchronize()
        return self.arriving.tolist()


class Behind:
    """At most one collective under way behind the compute, and what is to be done with its result.

    Two at once would gain nothing, for NCCL runs those of a group in turn, and hold the buffers of both.
    """

    def __init__(self) -> None:
        self._pending: Pending | None = None
        self._use: Callable[[Tensor], object] | None = None

    def put(self, start: Callable[[], Pending], use: Callable[[Tensor], object]) -> None:
        """Finish the one before, then start this one, which may take until the next `put` or `finish`."""
        self.finish()
        self._pending, self._use = start(), use

    def finish(self) -> None:
        if self._pending is not None and self._use is not None:
            self._use(self._pending.wait())
            self._pending = self._use = None


@dataclass(frozen=True)
class Ranks:
    """The ranks that share an op. Without an initialised process group: one rank, and nothing is sent."""

    op: str
    size: int
    rank: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, op: str, group: dist.ProcessGroup | None) -> "Ranks":
        """`group`, or the default process group, or this process alone."""
        return cls.named_group(op, group_name(op, group))

    @classmethod
    def named_group(cls, op: str, name: str) -> "Ranks":
        """Of the group that `group_name` gave this name."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(op, 1, 0, None)
        group = dist.distributed_c10d._resolve_process_group(name) if name else None  # type: ignore[arg-type]
        return cls(op, dist.get_world_size(group), dist.get_rank(group), group)

    def start_all_gather(self, tensor: Tensor) -> Pending:
        """[m, ...] on each rank -> [size m, ...] on every rank, ordered by rank."""
        if self.size == 1:
            return Pending(self, "all_gather", tensor)
        sent, (length, *rest) = tensor.contiguous(), tensor.shape
        out = sent.new_empty(self.size * length, *rest)
        with self.named("all_gather"):
            work = dist.all_gather_into_tensor(out, sent, group=self.group, async_op=True)
        return Pending(self, "all_gather", out, sent, work)

    def start_reduce_scatter(self, tensor: Tensor, out: Tensor) -> Pending:
        """[size m, ...] on each rank -> the sum over ranks of its own m, written to `out` [m, ...], contiguous."""
        if self.size == 1:
            return Pending(self, "reduce_scatter", out.copy_(tensor))
        sent = tensor.contiguous()
        with self.named("reduce_scatter"):
            work = dist.reduce_scatter_tensor(out, sent, group=self.group, async_op=True)
        return Pending(self, "reduce_scatter", out, sent, work)

    def start_all_reduce(self, tensor: Tensor) -> Pending:
        """In place: the sum over ranks."""
        if self.size == 1:
            return Pending(self, "all_reduce", tensor)
        with self.named("all_reduce"):
            work = dist.all_reduce(tensor, group=self.group, async_op=True)
        return Pending(self, "all_reduce", tensor, None, work)

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        """In place: the sum over ranks."""
        return self.start_all_reduce(tensor).wait()

    def gather_ahead(self, parts: Sequence[Tensor], rounds: int = 1) -> Iterator[Tensor]:
        """Parts [m, ...] of each rank -> [size m, ...] of all, one after another, `rounds` times over.

        The first is on its way when this returns, and each next one while the one before is used; two are held.
        """
        if len(parts) == 1:
            return self._repeat(self.start_all_gather(parts[0]), rounds)
        return self._one_ahead(self.start_all_gather(parts[0]), [*parts[1:], *list(parts) * (rounds - 1)])

    def _repeat(self, pending: Pending, rounds: int) -> Iterator[Tensor]:
        for _ in range(rounds):
            yield pending.wait()

    def _one_ahead(self, pending: Pending, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        for part in parts:
            gathered, pending = pending.wait(), self.start_all_gather(part)
            yield gathered
        yield pending.wait()

    def start_numbers(self, numbers: Sequence[int], device: torch.device) -> "Numbers":
        """Whole numbers that the hosts know, by rank; every rank sends as many."""
        if device.type != "cuda":
            return Numbers(self.start_all_gather(torch.tensor([numbers], device=device)).wait(), None)
        # Over a stream of its own: behind the group's earlier collectives, but not behind what computes.
        with torch.cuda.stream(_host_stream(device)):
            gathered = self.start_all_gather(_on_device(tuple(numbers), device)).wait()
            arrived = torch.empty(gathered.shape, dtype=gathered.dtype, pin_memory=True)
            arrived.copy_(gathered, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return Numbers(arrived, event)

    @contextmanager
    def named(self, collective: str) -> Iterator[None]:
        """An error of the process group becomes one that names the op, the collective and the rank."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"{self.op}: {collective} failed on rank {self.rank} of {self.size}: another rank died, "
                f"left the step or is slower than the group's timeout ({error})"
            ) from error


def group_name(op: str, group: dist.ProcessGroup | None) -> str:
    """By which `Ranks.named_group` finds the group again, for a compiled graph holds no process groups; None: ""."""
    if group is None:
        return ""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(f"{op}: group is given but no process group is initialised; call init_process_group")
    if not isinstance(group, dist.ProcessGroup):
        raise ValueError(
            f"{op}: group is {group!r}, no process group: what new_group gives a process that is no member; "
            "call the op on members alone, or leave group out"
        )
    return group.group_name


@functools.lru_cache(maxsize=64)
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """[1, numbers]. Copied once: a repeated call sends nothing to the device."""
    return torch.tensor([numbers], device=device)


@functools.cache
def _host_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
