"""The model of activations against what real passes hold on a CPU. Bytes are counted, nothing is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from silc.config import (
    Config,
    HeadConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TextConfig,
    ViewsConfig,
    VisionConfig,
)
from silc.model import DistillInputs, SilcModel, build
from silc.model.dropping import Dropping
from silc.objective import plan_views
from silc.train.locked import lock
from silc.train.plan.activations import Machine, kept, working

FP32, BF16 = torch.float32, torch.bfloat16
CPU_ALONE = [torch.profiler.ProfilerActivity.CPU]
CLIP = {"distill": False, "contrastive_views": "original"}
ALL = {"contrastive_views": "original_and_globals", "global_to_global": True}


def config(
    recompute: bool = False,
    *,
    objective: dict[str, Any] | None = None,
    views: tuple[int, int] = (2, 4),
    width: int = 128,
    ratio: float = 4.0,
    prototypes: int = 512,
    side: int = 48,
    text: tuple[int, int] = (64, 20),
    locked: list[str] | None = None,
    **vision: float,
) -> Config:
    """Three blocks in each tower. views: global and local ones. text: width and context length."""
    return Config(
        model=ModelConfig(
            vision=VisionConfig(
                image_size=side, patch_size=8, width=width, depth=3, heads=width // 64, mlp_ratio=ratio, **vision
            ),
            text=TextConfig(context_length=text[1], vocab_size=100, width=text[0], depth=3, heads=2),
            head=HeadConfig(prototypes=prototypes, hidden=256, bottleneck=64),
            checkpoint_activations=recompute,
        ),
        views=ViewsConfig(n_global=views[0], n_local=views[1], global_size=side, local_size=24),
        objective=ObjectiveConfig(**(objective or {})),
        optim=OptimConfig(locked=locked or []),
    )


CASES = {
    "silc": config(),
    "every view": config(objective=ALL),
    "clip": config(objective=CLIP, views=(0, 0)),
    "many prototypes": config(prototypes=8192),
    "wide": config(width=192, ratio=3.7, text=(128, 64)),
    "thinned": config(objective=ALL, patch_dropout=0.6, drop_path=0.2),
    "lit": config(objective=CLIP, views=(0, 0), locked=["vision"]),
    "locked text": config(locked=["text"]),
}


def student(run: Config, dtype: torch.dtype, micro: int) -> tuple[SilcModel, tuple[Any, ...]]:
    """The student and the arguments of its forward pass over `micro` random pairs."""
    plan, views, head = plan_views(run), run.views, run.model.head

    def pixels(count: int, side: int) -> torch.Tensor:
        return torch.randint(0, 256, (micro, count, 3, side, side), dtype=torch.uint8)

    large = pixels(plan.student_large, views.global_size)
    small = pixels(views.n_local, views.local_size) if views.n_local else None
    tokens = torch.randint(0, run.model.text.vocab_size, (micro, run.model.text.context_length))
    distill = None
    if run.objective.distill:
        distill = DistillInputs(
            teacher=F.normalize(torch.randn(views.n_global, micro, head.bottleneck), dim=-1).to(dtype),
            weight=F.normalize(torch.randn(head.prototypes, head.bottleneck), dim=-1).to(dtype),
            center=torch.zeros(head.prototypes),
            student_temp=0.1,
            teacher_temp=0.04,
            pair_weights=plan.pair_weights,
            student_views=plan.joined,
            backend="torch",
        )
    model = build(run).to(dtype)
    lock(model, run.optim)
    return model, (large, small, tokens, distill, Dropping(0, 0) if run.model.vision.drop_path else None)


def saved_bytes(model: SilcModel, arguments: tuple[Any, ...]) -> int:
    """Of the storages that autograd saves in a forward pass, each once; parameters and the batch are not counted."""
    batch = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    seen = {tensor.untyped_storage().data_ptr(): 0 for tensor in [*model.parameters(), *batch]}
    alive = []  # or a storage that is let go could leave its address to another one

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.extend(output for output in model(*arguments) if output is not None)
    return sum(seen.values())


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_for_the_backward_pass(name: str, dtype: torch.dtype) -> None:
    """Within 2 %. bf16 on a CPU takes the very path of a GPU: nothing is made again but by checkpoints."""
    run = CASES[name]
    for micro in (1, 2, 6):
        found = saved_bytes(*student(run, dtype, micro))
        assert kept(run, Machine(dtype, cuda=False), micro, recompute=False) == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("objective", [{}, ALL], ids=["silc", "every view"])
def test_what_is_kept_with_recomputation(objective: dict[str, Any]) -> None:
    run = config(recompute=True, objective=objective)
    for micro in (1, 4, 12):
        found = saved_bytes(*student(run, BF16, micro))
        assert kept(run, Machine(BF16, cuda=False), micro, recompute=True) == pytest.approx(found, rel=0.02)


def peak_bytes(call: Callable[[], None]) -> int:
    """Most bytes that are allocated at once while `call` runs, by torch's profiler."""
    call()  # what is made once is made before
    with torch.profiler.profile(activities=CPU_ALONE, profile_memory=True, acc_events=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
def test_the_peak_with_a_locked_image_tower(dtype: torch.dtype) -> None:
    """Within 10 %: a block's forward pass of the wide tower, or all that the narrow one keeps."""
    for text in ((64, 8), (192, 64)):
        run, micro = config(objective=CLIP, views=(0, 0), width=192, side=96, text=text, locked=["vision"]), 8
        model, arguments = student(run, dtype, micro)

        def step(model=model, arguments=arguments) -> None:
            image, text, _, _ = model(*arguments)
            (image.float().sum() + text.float().sum()).backward()
            model.zero_grad(set_to_none=True)

        machine = Machine.cpu(dtype)
        planned = kept(run, machine, micro, False) + working(run, machine, micro, micro, 1, False)
        assert planned == pytest.approx(peak_bytes(step), rel=0.1), text


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
def test_the_peak_of_a_forward_and_backward_pass(dtype: torch.dtype, recompute: bool) -> None:
    """Within 10 %, without the weights' gradients, which are small here and planned apart."""
    run, micro = config(recompute, width=192, side=96), 6
    model, arguments = student(run, dtype, micro)

    def step() -> None:
        image, text, loss, _ = model(*arguments)
        (image.float().sum() + text.float().sum() + loss).backward()
        model.zero_grad(set_to_none=True)

    machine = Machine.cpu(dtype)
    planned = kept(run, machine, micro, recompute) + working(run, machine, micro, micro, 1, recompute)
    assert planned == pytest.approx(peak_bytes(step), rel=0.1)
