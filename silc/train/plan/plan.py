"""The plan of a run on a machine: what fits, which micro-batch would, how many operations and GPU-hours."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from silc.config import Config
from silc.config_rules import divisors
from silc.objective import plan_views
from silc.train.estimate import passes_flops, step_flops
from silc.train.plan.activations import Machine, image_tokens
from silc.train.plan.gpus import Gpu, gpu_of_device
from silc.train.plan.memory import Memory, memory, parameters

# Of a GPU's memory, for what is not planned: the CUDA context, NCCL, libraries' workspaces, fragmentation.
RESERVE = 0.10
MFU = 0.40


@dataclass(frozen=True)
class Choice:
    """One way to hold activations.

    asked: memory at the micro-batch asked for. largest: the largest micro-batch that fits, a divisor of the rank's
    share; None: not even one pair does. fits: whether the one asked for does. The last two only for a GPU.
    """

    recompute: bool
    asked: Memory
    fits: bool
    largest: int | None


@dataclass(frozen=True)
class Plan:
    """What :func:`make_plan` finds.

    Attributes:
        gpu: None: planned for a CPU, nothing is said to fit.
        ranks, share, micro: share: pairs of a rank; micro: those at once, as asked.
        parameters: by part.
        flops_per_pair, flops: useful operations of one pair and of the run (forward, and twice that backward).
        repeated: further operations, as a fraction of `flops`, of recomputation and of exact accumulation, by name.
        choices: as the configuration asks first, then the other way.
        mfu: the assumed one.
    """

    config: Config
    machine: Machine
    gpu: Gpu | None
    ranks: int
    share: int
    micro: int
    parameters: dict[str, int]
    tokens_per_image: int
    flops_per_pair: float
    flops: float
    repeated: dict[str, float]
    choices: tuple[Choice, Choice]
    mfu: float

    @property
    def fits(self) -> bool:
        """As the configuration is; always on a CPU, where the limit is not known."""
        return self.gpu is None or self.choices[0].fits

    @property
    def usable(self) -> float:
        """Bytes of the GPU's memory without the reserve."""
        return 0.0 if self.gpu is None else (1 - RESERVE) * self.gpu.memory * 2**30

    @property
    def gpu_hours(self) -> float | None:
        """At the assumed MFU; None where the peak is unknown (the table knows those of bf16), or on a CPU."""
        if self.gpu is None:
            return None
        known = self.gpu.tflops if self.machine.dtype == torch.bfloat16 else None
        peak = self.config.train.peak_tflops or known
        return None if peak is None else self.flops / (peak * 1e12 * self.mfu) / 3600


def visible_gpu() -> Gpu | None:
    """The first GPU of this machine, with the memory it says it has; None without one."""
    if not torch.cuda.is_available():
        return None
    name, own = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 2**30
    known = gpu_of_device(name)
    return Gpu(name, own, None if known is None else known.tflops)


def make_plan(config: Config, ranks: int, gpu: Gpu | None, mfu: float = MFU) -> Plan:
    """The plan of a valid configuration on `ranks` of a GPU, or for None of a CPU.

    engine.precision=auto is bf16 on a GPU and fp32 on a CPU. Raises ValueError for an MFU that is none, and for sizes
    beyond what can be counted.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"--mfu {mfu:g}: a fraction of the peak, above 0 and at most 1, as in --mfu {MFU}")
    try:
        return _plan(config, ranks, gpu, mfu)
    except (OverflowError, RuntimeError) as error:  # floats end at 1e308, sizes of tensors at 2**63
        said = str(error).partition("\n")[0]
        raise ValueError(f"no plan can be made of a model, batch or length as large as this ({said})") from None


def _plan(config: Config, ranks: int, gpu: Gpu | None, mfu: float) -> Plan:
    asked = config.engine.precision
    bf16 = gpu is not None if asked == "auto" else asked == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    machine = Machine.cpu(dtype) if gpu is None else Machine(dtype, cuda=True)
    share = config.train.global_batch // ranks
    micro = config.train.micro(ranks)
    counts = parameters(config)
    limit = None if gpu is None else (1 - RESERVE) * gpu.memory * 2**30
    recompute = config.model.checkpoint_activations
    first, other = (_choice(config, counts, machine, ranks, micro, way, limit) for way in (recompute, not recompute))
    per_pair, forward = step_flops(config), passes_flops(config)
    return Plan(
        config=config,
        machine=machine,
        gpu=gpu,
        ranks=ranks,
        share=share,
        micro=micro,
        parameters=counts,
        tokens_per_image=image_tokens(config, plan_views(config)),
        flops_per_pair=per_pair,
        flops=per_pair * config.train.global_batch * config.train.steps,
        repeated={"recomputation": forward.blocks / per_pair, "accumulation": forward.contrastive / per_pair},
        choices=(first, other),
        mfu=mfu,
    )


def _choice(
    config: Config,
    counts: dict[str, int],
    machine: Machine,
    ranks: int,
    micro: int,
    recompute: bool,
    limit: float | None,
) -> Choice:
    asked = memory(config, counts, machine, ranks, micro, recompute)
    if limit is None:
        return Choice(recompute, asked, False, None)
    share = config.train.global_batch // ranks
    fitting = (
        size for size in divisors(share) if memory(config, counts, machine, ranks, size, recompute).total <= limit
    )
    return Choice(recompute, asked, asked.total <= limit, next(fitting, None))
