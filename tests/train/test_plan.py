"""What a run is said to cost: operations against torch's own counter, memory by ZeRO stage, what fits, the words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from silc import config_io
from silc.commands.train import main
from silc.config import Config
from silc.config_rules import divisors, validate
from silc.model import build
from silc.model.dropping import Drawn, Dropping
from silc.train.estimate import head_macs, passes_flops, step_flops, text_macs, vision_macs
from silc.train.metrics import peak_flops
from silc.train.plan.activations import Machine
from silc.train.plan.gpus import GPUS, Gpu, gpu_named, gpu_of_device
from silc.train.plan.memory import ACTIVATIONS, memory, parameters
from silc.train.plan.plan import Plan, make_plan, visible_gpu
from silc.train.plan.text import plan_text
from tests.train import cases

PRESETS = Path(__file__).resolve().parents[2] / "silc" / "presets"


def preset(name: str, *overrides: str) -> Config:
    return config_io.load_config(name, overrides, presets=PRESETS)


H100 = gpu_named("h100-80gb")
GPU_BF16 = Machine(torch.bfloat16, cuda=True)
CPU_FP32 = Machine(torch.float32, cuda=False)


def counted(call) -> float:
    """Multiply-adds that torch's own counter sees. Attention is taken apart, or the counter would not know it."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("size", [8, 16])
def test_image_tower(size: int) -> None:
    """Patch embedding and resize are ops of their own, out of the counter's sight: the one adds tokens x width x 3 p^2,
    the other is done once a batch and not counted.
    """
    run = cases.config()
    model, vision = build(run), run.model.vision
    crop = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    embedding = (size // vision.patch_size) ** 2 * vision.width * 3 * vision.patch_size**2
    assert vision_macs(vision, size) == counted(lambda: model.visual([crop])) + embedding


@pytest.mark.parametrize("dropout", [0.3, 0.75, 0.99])
def test_image_tower_with_patch_dropout(dropout: float) -> None:
    run = cases.config()
    run.model.vision.patch_dropout = dropout
    model, vision = build(run), run.model.vision
    drawn = [Drawn(Dropping(0, 0).keys(1, range(1), "cpu"), whole=False)]
    crop = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    embedding = 16 * vision.width * 3 * vision.patch_size**2
    found = counted(lambda: model.visual([crop], drawn)) + embedding
    assert vision_macs(vision, 16, dropout=dropout) == found


def test_patch_dropout_thins_the_students_large_crops_alone() -> None:
    plain, thin = preset("silc_vit_b16"), preset("silc_vit_b16", "model.vision.patch_dropout=0.5")
    saved = vision_macs(plain.model.vision, 256) - vision_macs(plain.model.vision, 256, dropout=0.5)
    assert step_flops(plain) - step_flops(thin) == pytest.approx(2 * 3 * 2 * saved)  # not the teacher's
    assert passes_flops(plain).contrastive - passes_flops(thin).contrastive == pytest.approx(2 * 2 * saved)
    assert make_plan(thin, 64, H100).tokens_per_image == 2 * 128 + 8 * 36


def test_a_locked_tower_runs_forward_and_is_not_repeated() -> None:
    plain, lit = preset("clip_vit_b16"), preset("clip_vit_b16", "optim.locked=[vision]")
    image = 2 * vision_macs(plain.model.vision, 256)
    assert step_flops(plain) - step_flops(lit) == pytest.approx(2 * image)
    text = 2 * text_macs(plain.model.text, plain.model.vision.width)
    assert passes_flops(lit) == pytest.approx((text, text))
    other = preset("silc_vit_b16", "optim.locked=[text]")
    assert step_flops(preset("silc_vit_b16")) - step_flops(other) == pytest.approx(2 * text)


def test_a_locked_tower_has_weights_and_nothing_else() -> None:
    run = cases.config("lit")
    counts = parameters(run)
    sizes, text = held(run, GPU_BF16), counts["text tower"]
    assert sizes["weights"] == 2 * sum(counts.values())
    assert sizes["gradients"] == 2 * text / 4
    assert sizes["fp32 master weights"] == 4 * text / 4
    assert sizes["Adam moments"] == 8 * text / 4
    row = next(line for line in plan_text(make_plan(run, 4, H100)).splitlines() if "of these locked" in line)
    assert row.split()[-1] == f"{counts['image tower']:,}"


def test_text_tower_and_head() -> None:
    run = cases.config()
    model = build(run)
    tokens = torch.zeros(1, cases.CONTEXT, dtype=torch.long)
    assert text_macs(run.model.text, run.model.vision.width) == counted(lambda: model.text(tokens))
    features = torch.zeros(1, run.model.vision.width)
    assert head_macs(run) == counted(lambda: model.head.bottleneck(features) @ model.head.weight().T)


@pytest.mark.parametrize(("size", "giga"), [(256, 22.97), (96, 3.08)])
def test_published_size_of_the_base_tower(size: int, giga: float) -> None:
    """Counted by hand from its blocks alone; the patch embedding and the pool are 1 % more."""
    assert vision_macs(preset("silc_vit_b16").model.vision, size) == pytest.approx(giga * 1e9, rel=0.02)


@pytest.mark.parametrize(("changes", "times"), [([], 3.22), (["views.n_global=1"], 2.14)])
def test_cost_relative_to_plain_clip(changes: list[str], times: float) -> None:
    ratio = step_flops(preset("silc_vit_b16", *changes)) / step_flops(preset("clip_vit_b16"))
    assert ratio == pytest.approx(times, rel=0.03)


def test_repeated_forward_passes() -> None:
    """Recomputation runs the towers forward once more: a third of what they cost, which is nearly all of plain CLIP."""
    run = preset("clip_vit_b16")
    assert passes_flops(run).blocks == pytest.approx(step_flops(run) / 3)
    silc = preset("silc_vit_b16")
    local = 8 * 2 * vision_macs(silc.model.vision, 96)
    assert passes_flops(silc).blocks - passes_flops(silc).contrastive == pytest.approx(local)


@pytest.mark.parametrize("distill", [True, False])
def test_parameters_are_those_of_the_model(distill: bool) -> None:
    run = cases.config()
    run.objective.distill = distill
    model = build(run)
    found = parameters(run)
    parts = {"image tower": model.visual, "text tower": model.text, "distillation head": model.head}
    for name, part in parts.items():
        assert found[name] == (0 if part is None else sum(p.numel() for p in part.parameters()))
    assert (found["distillation head"] > 0) == distill


def test_tokens_per_image() -> None:
    assert make_plan(preset("silc_vit_b16"), 64, H100).tokens_per_image == 2 * 256 + 8 * 36
    assert make_plan(preset("clip_vit_b16"), 64, H100).tokens_per_image == 256


def held(run: Config, machine: Machine, *, micro: int = 2, recompute: bool = False) -> dict[str, float]:
    """Bytes by purpose on one of four ranks, whose share is two pairs."""
    return memory(run, parameters(run), machine, 4, micro, recompute).by_purpose


@pytest.mark.parametrize(
    ("stage", "micro", "gradients"), [(1, 2, 1 / 4), (1, 1, 1), (2, 2, 1 / 4), (2, 1, 2 / 4), (3, 1, 1 / 4)]
)
def test_memory_is_divided_as_the_stage_says(stage: int, micro: int, gradients: float) -> None:
    """bf16 on four GPUs: masters and moments always a quarter. Stage 1 keeps whole gradients while it accumulates."""
    run = cases.config(stage=stage)
    counts = parameters(run)
    total = sum(counts.values())
    followed = total - counts["text tower"]
    sizes = held(run, GPU_BF16, micro=micro)
    assert sizes["weights"] == (2 * total if stage < 3 else 2 * (total / 4 + total))  # all of it fits the live limit
    assert sizes["gradients"] == 2 * total * gradients
    assert sizes["buckets of the reduction"] == 2 * 2 * run.engine.reduce_bucket_size
    assert sizes["fp32 master weights"] == 4 * total / 4
    assert sizes["Adam moments"] == 8 * total / 4
    assert sizes["teacher"] == 2 * followed + 4 * followed / 4
    views = run.views
    assert sizes["crops of the rank's share, uint8"] == 2 * 3 * (2 * views.global_size**2 + 3 * views.local_size**2)


def test_zero_3_gathers_up_to_its_limit() -> None:
    run = cases.config(stage=3)
    run.engine.max_live_parameters = 1000
    total = sum(parameters(run).values())
    assert held(run, GPU_BF16)["weights"] == 2 * (total / 4 + 1000)


def test_fp32_keeps_no_second_average_and_stage_3_no_masters() -> None:
    run = cases.config(stage=3)
    counts = parameters(run)
    sizes = held(run, CPU_FP32)
    assert sizes["teacher"] == 4 * (sum(counts.values()) - counts["text tower"])
    assert sizes["fp32 master weights"] == 0
    assert held(cases.config(), CPU_FP32)["fp32 master weights"] == sum(counts.values())


def test_without_distillation_there_is_no_teacher() -> None:
    run = preset("clip_vit_b16")
    assert memory(run, parameters(run), GPU_BF16, 64, 256, False).by_purpose["teacher"] == 0


def test_the_plan_of_a_gpu_is_in_bf16_and_that_of_a_cpu_in_fp32() -> None:
    run = preset("silc_vit_b16")
    assert make_plan(run, 64, H100).machine == GPU_BF16
    assert make_plan(run, 64, None).machine == CPU_FP32
    run.engine.precision = "fp32"
    assert make_plan(run, 64, H100).machine == Machine(torch.float32, cuda=True)


def test_operations_and_hours() -> None:
    run = preset("silc_vit_b16")
    found = make_plan(run, 64, H100, mfu=0.5)
    assert found.flops == step_flops(run) * 16384 * 1_220_000
    assert found.gpu_hours == pytest.approx(found.flops / (989e12 * 0.5 * 3600))
    run.train.peak_tflops = 100.0
    assert make_plan(run, 64, H100, mfu=0.5).gpu_hours == pytest.approx(found.flops / (100e12 * 0.5 * 3600))
    assert make_plan(run, 64, None).gpu_hours is None
    run.train.peak_tflops, run.engine.precision = None, "fp32"
    assert make_plan(run, 64, H100).gpu_hours is None
    assert "the fp32 peak of h100-80gb is not known here" in plan_text(make_plan(run, 64, H100))
    with pytest.raises(ValueError, match="--mfu 40"):
        make_plan(run, 64, H100, mfu=40)


def small_gpu(run: Config, ranks: int, micro: int, recompute: bool) -> Gpu:
    """A GPU whose usable memory is what this micro-batch needs, and a little more."""
    need = memory(run, parameters(run), GPU_BF16, ranks, micro, recompute).total
    return Gpu("small", need * 1.001 / 0.9 / 2**30, 100)


def test_the_largest_micro_batch_is_a_divisor_that_fits() -> None:
    run = preset("silc_vit_b16", "train.global_batch=1536")  # a share of 96
    found = make_plan(run, 16, small_gpu(run, 16, 33, False))
    kept, recomputed = found.choices
    assert (kept.recompute, kept.fits, kept.largest) == (False, False, 32)
    assert recomputed.recompute
    assert recomputed.fits
    assert recomputed.largest == 96
    for choice in found.choices:
        assert memory(run, found.parameters, GPU_BF16, 16, choice.largest, choice.recompute).total <= found.usable
    assert not found.fits
    assert last_line(found).endswith(
        "would fit: train.micro_batch=32 (exact accumulation), or model.checkpoint_activations=true"
    )


def test_what_was_said_to_fit_fits() -> None:
    run = preset("silc_vit_b16", "train.global_batch=1536")
    gpu = small_gpu(run, 16, 33, False)
    for change in ("train.micro_batch=32", "model.checkpoint_activations=true"):
        found = make_plan(preset("silc_vit_b16", "train.global_batch=1536", change), 16, gpu)
        assert found.fits
        assert last_line(found).startswith("fits: ")


def test_nothing_fits() -> None:
    found = make_plan(preset("silc_vit_b16"), 64, Gpu("tiny", 1, 100))
    assert [choice.largest for choice in found.choices] == [None, None]
    assert "not even one pair at a time would: take engine.zero_stage=2, more ranks or a larger GPU" in last_line(found)


def last_line(found: Plan) -> str:
    return plan_text(found).splitlines()[-1]


def test_words_of_a_plan() -> None:
    text = plan_text(make_plan(preset("silc_vit_l16"), 64, H100))
    for said in (
        "plan: silc_vit_l16 on 64 x h100-80gb",
        "bf16, 64 ranks, ZeRO stage 1",
        "16,384 = 64 ranks x 256 pairs at a time",
        "80 GiB, of which 10% is left",
        "GPU-hours assume an MFU of 40%",
        "recomputation repeats 28% of these operations, which is not counted: expect a lower MFU",
        "true (as set)",
    ):
        assert said in text
    one = plan_text(make_plan(preset("sample", "train.micro_batch=1"), 1, H100))
    assert "bf16, 1 rank, ZeRO" in one
    assert "64 = 1 rank x 64 x 1 pairs, accumulated exactly" in one
    assert "exact accumulation repeats" in one
    both = plan_text(make_plan(preset("silc_vit_l16", "train.micro_batch=64"), 64, H100))
    assert "recomputation repeats 28% and exact accumulation repeats 18% of these operations, neither of which" in both


def test_words_of_a_plan_for_a_cpu() -> None:
    text = plan_text(make_plan(preset("sample"), 1, None))
    assert "plan: sample on 1 CPU rank" in text
    assert "fp32, 1 rank" in text
    assert "no GPU that PyTorch sees. To plan for one: --gpu h100-80gb" in text
    assert "GPU-hours" not in text
    assert text.splitlines()[-1].startswith("not checked: needs about ")


def test_the_visible_gpu_has_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a GPU has less than the table says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA A100-SXM4-40GB MIG 3g.20gb")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=20 * 2**30))
    assert visible_gpu() == Gpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20, 312)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert visible_gpu() is None


def test_an_unknown_peak_is_said() -> None:
    found = make_plan(preset("sample"), 1, Gpu("Some GPU", 24, None))
    assert found.gpu_hours is None
    assert "the bf16 peak of Some GPU is not known here; set train.peak_tflops" in plan_text(found)


def test_activations_shrink_with_the_micro_batch() -> None:
    run = preset("silc_vit_b16", "model.head.prototypes=16")
    whole, half = (memory(run, parameters(run), GPU_BF16, 64, micro, False) for micro in (256, 128))
    assert half.by_purpose[ACTIVATIONS] == pytest.approx(whole.by_purpose[ACTIVATIONS] / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "near"),
    [("h100", "h100-80gb"), ("a100", "a100-40gb"), ("h100-80", "h100-80gb"), ("4090", "rtx4090-24gb")],
)
def test_an_unknown_gpu_names_the_nearest(given: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{near}'"):
        gpu_named(given)


def test_a_gpu_is_found_in_any_case() -> None:
    assert gpu_named("H100-80GB") is H100
    with pytest.raises(ValueError, match="Known: gb200"):
        gpu_named("zzz")


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA H100 NVL", "h100-nvl-94gb"),
        ("NVIDIA H200", "h200-141gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA A10G", "a10g-24gb"),
        ("NVIDIA A10", "a10-24gb"),
        ("NVIDIA L40S", "l40s-48gb"),
        ("NVIDIA B200", "b200-180gb"),
        ("NVIDIA GB200", "gb200-186gb"),
        ("NVIDIA GeForce RTX 4090", "rtx4090-24gb"),
        ("NVIDIA RTX A6000", "a6000-48gb"),
    ],
)
def test_one_table_serves_the_plan_and_the_mfu(device: str, name: str) -> None:
    assert gpu_of_device(device) is gpu_named(name)
    assert peak_flops(preset("sample"), device) == gpu_named(name).tflops * 1e12


def test_no_mfu_for_what_is_not_in_the_table() -> None:
    assert peak_flops(preset("sample"), "cpu") is None
    assert peak_flops(preset("sample", "train.peak_tflops=2"), "cpu") == 2e12
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


def test_a_batch_that_is_a_large_prime_is_planned_at_once() -> None:
    run = preset("sample", "train.global_batch=999999937", "train.micro_batch=1")
    assert make_plan(run, 1, Gpu("small", 80.0, None)).choices[0].largest is None
    assert divisors(999_999_937) == [999_999_937, 1]
    assert divisors(36) == [36, 18, 12, 9, 6, 4, 3, 2, 1]
    assert divisors(1) == [1]
    with pytest.raises(ValueError, match=r"train\.micro_batch=900000000 does not divide .*take 1$"):
        validate(preset("sample", "train.global_batch=999999937", "train.micro_batch=900000000"), 1)


@pytest.mark.parametrize("error", [OverflowError, RuntimeError])
def test_what_cannot_be_counted_is_told_in_words(monkeypatch, capsys, error) -> None:
    def fails(*_):
        raise error("too large\nframe")

    monkeypatch.setattr("silc.train.plan.plan.parameters", fails)
    assert main(["--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "silc train: no plan can be made of a model, batch or length as large as this (too large)" in said
