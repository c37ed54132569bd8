"""The plan of a run in words and a table."""

from __future__ import annotations

from collections.abc import Iterator

from silc.config import Config
from silc.train.plan.memory import trained
from silc.train.plan.plan import RESERVE, Choice, Plan

GIB = 2**30
RULE = "=" * 78
WIDTH = 40  # of the names in front of numbers


def dry_run_text(config: Config, resolved: str, plan: Plan) -> str:
    """The resolved configuration (YAML), then the plan, which is what the reader's eye should end on."""
    lines = [_heading("resolved configuration"), resolved.rstrip()]
    if config.unverified:
        lines += ["", "values that no public source confirms: " + ", ".join(config.unverified)]
    return "\n".join([*lines, "", plan_text(plan)])


def plan_text(plan: Plan) -> str:
    """Assumptions, sizes, operations, memory with and without recomputation, and the verdict as the last line."""
    name = plan.config.preset
    place = f"{_count(plan.ranks, 'CPU rank')}" if plan.gpu is None else f"{plan.ranks} x {plan.gpu.name}"
    blocks = [_assumptions(plan), _sizes(plan), _operations(plan), _memory(plan), _verdict(plan)]
    return "\n".join([_heading(f"plan: {name} on {place}"), "\n\n".join("\n".join(block) for block in blocks)])


def _heading(title: str) -> str:
    return f"{RULE}\n{title}\n{RULE}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _rounded(value: float) -> str:
    """Three digits or all before the point: 0.0123, 4.56, 78.9, 12,345."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(hours: float) -> str:
    """In days, hours, minutes or seconds, whichever is above 1."""
    for unit, length in (("days", 24.0), ("hours", 1.0), ("minutes", 1 / 60)):
        if hours >= length:
            return f"{_rounded(hours / length)} {unit}"
    return f"{_rounded(hours * 3600)} seconds"


def _row(name: str, *values: str) -> str:
    return f"  {name:<{WIDTH}}" + "".join(f"{value:>22}" for value in values)


def _assumptions(plan: Plan) -> Iterator[str]:
    config, size = plan.config, plan.machine.size
    share = f"{_count(plan.micro, 'pair')} at a time"
    if plan.micro < plan.share:
        share = f"{plan.share // plan.micro} x {plan.micro} pairs, accumulated exactly"
    precision = "bf16" if size == 2 else "fp32"
    yield f"assumed   {precision}, {_count(plan.ranks, 'rank')}, ZeRO stage {config.engine.zero_stage}"
    yield f"          a global batch of {config.train.global_batch:,} = {_count(plan.ranks, 'rank')} x {share}"
    if plan.gpu is None:
        yield "          a CPU: this machine has no GPU that PyTorch sees. To plan for one: --gpu h100-80gb --ranks 8"
    else:
        yield (
            f"          {plan.gpu.name}: {plan.gpu.memory:.4g} GiB, of which {RESERVE:.0%} is left for the CUDA "
            "context, NCCL and fragmentation"
        )
    yield "counted   parameters, weights, gradients, optimizer, teacher, crops"
    yield "modelled  activations (plain scaled_dot_product_attention, nothing compiled) and working buffers"
    if plan.gpu is not None:
        yield f"          time is not measured: GPU-hours assume an MFU of {plan.mfu:.0%} (--mfu)"


def _sizes(plan: Plan) -> Iterator[str]:
    yield "parameters"
    for name, count in plan.parameters.items():
        yield _row(name, f"{count:,}")
    total = sum(plan.parameters.values())
    yield _row("total", f"{total:,}")
    if plan.config.optim.locked:
        yield _row("of these locked", f"{total - trained(plan.config, plan.parameters):,}")
    yield ""
    yield _row("student tokens per image", f"{plan.tokens_per_image:,}")


def _operations(plan: Plan) -> Iterator[str]:
    train = plan.config.train
    yield "operations"
    yield _row("training GFLOP per pair", f"{plan.flops_per_pair / 1e9:,.2f}")
    yield _row(f"{_count(train.steps, 'step')} x {train.global_batch:,} pairs, FLOP", f"{plan.flops:.3g}")
    hours = plan.gpu_hours
    if hours is not None:
        yield _row(f"GPU-hours at an MFU of {plan.mfu:.0%}", _rounded(hours))
        yield _row(f"time on {_count(plan.ranks, 'GPU')}", _duration(hours / plan.ranks))
    elif plan.gpu is not None:
        precision = "bf16" if plan.machine.size == 2 else "fp32"
        yield f"  no GPU-hours: the {precision} peak of {plan.gpu.name} is not known here; set train.peak_tflops"
    again = []
    if plan.config.model.checkpoint_activations:
        again.append(f"recomputation repeats {plan.repeated['recomputation']:.0%}")
    if plan.micro < plan.share:
        again.append(f"exact accumulation repeats {plan.repeated['accumulation']:.0%}")
    if again:
        counted = "which is not counted" if len(again) == 1 else "neither of which is counted"
        yield f"  {' and '.join(again)} of these operations, {counted}: expect a lower MFU"


def _memory(plan: Plan) -> Iterator[str]:
    choices = sorted(plan.choices, key=lambda choice: choice.recompute)
    yield f"memory of a rank at the peak of a step, GiB, {_count(plan.micro, 'pair')} at a time"
    yield _row("model.checkpoint_activations", *(_setting(plan, choice) for choice in choices))
    for name in choices[0].asked.by_purpose:
        yield _row(name, *(f"{choice.asked.by_purpose[name] / GIB:,.2f}" for choice in choices))
    yield _row("total", *(f"{choice.asked.total / GIB:,.2f}" for choice in choices))
    if plan.gpu is not None:
        yield _row("usable", *([f"{plan.usable / GIB:,.2f}"] * 2))
        yield _row("largest train.micro_batch that fits", *(str(choice.largest or "none") for choice in choices))


def _setting(plan: Plan, choice: Choice) -> str:
    word = str(choice.recompute).lower()
    return f"{word} (as set)" if choice.recompute == plan.config.model.checkpoint_activations else word


def _verdict(plan: Plan) -> Iterator[str]:
    own, other = plan.choices
    need = own.asked.total / GIB
    if plan.gpu is None:
        yield f"not checked: needs about {_rounded(need)} GiB per rank; this machine's memory was not measured"
        return
    room = (
        f"needs {_rounded(need)} of {_rounded(plan.usable / GIB)} usable GiB per GPU with "
        f"{_count(plan.micro, 'pair')} at a time"
    )
    if plan.fits:
        yield f"fits: {room}"
        return
    ways = []
    if own.largest:
        ways.append(f"train.micro_batch={own.largest} (exact accumulation)")
    if other.largest and other.largest > (own.largest or 0):
        micro = "" if other.largest >= plan.micro else f" train.micro_batch={other.largest}"
        ways.append(f"model.checkpoint_activations={str(other.recompute).lower()}{micro}")
    if ways:
        yield f"does not fit: {room}; would fit: {', or '.join(ways)}"
    else:
        stage = "" if plan.config.engine.zero_stage > 1 else "engine.zero_stage=2, "
        yield f"does not fit: {room}; not even one pair at a time would: take {stage}more ranks or a larger GPU"
