"""The command line: help, keys, dry run, and mistakes that are told before torch is loaded."""

from __future__ import annotations

import importlib.util
import re
import time

import pytest
import torch
import yaml

from silc import config_io
from silc.model import SilcModel

from .conftest import PRESET, ROOT, run_train

NAMES = sorted(path.stem for path in (ROOT / "silc/presets").glob("*.yaml"))


@pytest.fixture(scope="session")
def main():
    """launch/train.py's main."""
    spec = importlib.util.spec_from_file_location("silc_launch_train", ROOT / "launch" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def number(text: str, label: str) -> float:
    """The number at the end of the line that begins with a label."""
    found = re.search(rf"^ *{re.escape(label)} +([\d,.]+)$", text, re.MULTILINE)
    assert found, f"no line {label!r} in {text}"
    return float(found[1].replace(",", ""))


def resolved_in(text: str) -> str:
    """The resolved configuration, YAML, in what --dry-run prints."""
    printed = text[text.index("preset: ") :].partition("\n====")[0]  # DeepSpeed may print something first
    return printed.partition("\nvalues that no public source confirms")[0]


def columns(text: str, label: str) -> list[float]:
    """The two numbers at the end of the line that begins with a label: without and with recomputation."""
    found = re.search(rf"^ *{re.escape(label)} +([\d,.]+) +([\d,.]+)$", text, re.MULTILINE)
    assert found, f"no line {label!r} in {text}"
    return [float(value.replace(",", "")) for value in found.groups()]


def test_help_says_how(main, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for part in (
        "deepspeed launch/train.py",
        "section.key=value",
        "--preset",
        "--dry-run",
        "--keys",
        "--config",
        *NAMES,
    ):
        assert part in text


def test_keys_are_listed_with_type_default_and_meaning(main, capsys):
    assert main(["--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == config_io.valid_keys()
    assert "optim.lr (float, default 0.001): peak learning rate" in lines


@pytest.mark.parametrize("name", NAMES)
def test_dry_run_of_every_preset(main, capsys, name):
    assert main(["--dry-run", "--preset", name]) == 0
    text = capsys.readouterr().out
    config = config_io.load_config(name, presets=ROOT / "silc/presets")
    assert config_io.build(yaml.safe_load(resolved_in(text))) == config
    with torch.device("meta"):
        model = SilcModel(config.model, with_head=config.objective.distill)
    assert number(text, "total") == sum(p.numel() for p in model.parameters())
    assert number(text, "image tower") == sum(p.numel() for p in model.visual.parameters())
    assert number(text, "training GFLOP per pair") > 0
    assert f"plan: {name} on 1 CPU rank" in text
    assert all(key in text.rpartition("no public source confirms")[2] for key in config.unverified)


def test_dry_run_counts_tokens_and_plans_for_ranks(main, capsys):
    main(["--dry-run", "--preset", "silc_vit_b16"])
    alone = capsys.readouterr().out
    assert number(alone, "student tokens per image") == 2 * 16**2 + 8 * 6**2
    main(["--dry-run", "--preset", "silc_vit_b16", "--ranks", "64"])
    many = capsys.readouterr().out
    assert "64 CPU ranks" in many
    for part in ("fp32 master weights", "Adam moments", "activations kept for the backward pass"):
        assert columns(many, part) == pytest.approx([each / 64 for each in columns(alone, part)], rel=2e-2, abs=0.01)
    assert columns(many, "weights") == columns(alone, "weights")  # ZeRO-1 keeps them whole


def test_dry_run_for_a_gpu_ends_on_what_fits(main, capsys):
    asked = ["--dry-run", "--preset", "silc_vit_b16", "--gpu", "A100-40gb"]
    assert main([*asked, "--ranks", "64"]) == 1
    refused = capsys.readouterr().out
    assert "bf16, 64 ranks, ZeRO stage 1" in refused
    last = refused.splitlines()[-1]
    assert last.startswith("does not fit: ")
    way = re.search(r"train\.micro_batch=\d+", last)[0]
    for change in (way, "model.checkpoint_activations=true"):
        assert main([*asked, "--ranks", "64", change]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("fits: ")


def test_dry_run_takes_the_mfu_for_gpu_hours(main, capsys):
    hours = []
    for mfu in ("0.2", "0.4"):
        main(["--dry-run", "--preset", "silc_vit_b16", "--gpu", "h100-80gb", "--mfu", mfu])
        hours.append(number(capsys.readouterr().out, f"GPU-hours at an MFU of {float(mfu):.0%}"))
    assert hours[0] == pytest.approx(2 * hours[1], rel=0.01)


def test_dry_run_writes_nothing(main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--dry-run", "train.steps=600"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optim.lrr=1"], "did you mean 'optim.lr'"),
        (["train.steps=many"], "train.steps='many'"),
        (["--preset", "sampel"], "did you mean 'sample'"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["train.global_batch=100", "train.micro_batch=64"], "train.micro_batch=64"),
        (["--ranks", "2"], "--ranks goes with --dry-run"),
        (["--dry-run", "--ranks", "3", "train.global_batch=128"], "not divisible by the 3 ranks"),
        (["--stepz", "3"], "--stepz"),
        (["--dry-run", "--ranks", "0"], "--ranks 0: give at least 1"),
        (["--gpu", "h100-80gb"], "--gpu goes with --dry-run"),
        (["--mfu", "0.4"], "--mfu goes with --dry-run"),
        (["--dry-run", "--gpu", "h100"], "did you mean 'h100-80gb'"),
        (["--dry-run", "--gpu", "h100-80gb", "--mfu", "40"], "--mfu 40: give a fraction of the peak"),
    ],
)
def test_a_slip_on_the_command_line(main, capsys, arguments, said):
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2
    assert said in capsys.readouterr().err


def test_options_may_stand_between_overrides(main, capsys):
    assert main(["train.global_batch=6", "--dry-run", "train.micro_batch=3", "--ranks", "2", "train.steps=1000"]) == 0
    text = capsys.readouterr().out
    assert "micro_batch: 3" in text
    assert "steps: 1000" in text


def test_a_machine_tells_of_a_mistake_once(main, capsys, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as leaving:
        main(["optim.lrr=1"])
    assert leaving.value.code == 2
    assert capsys.readouterr().err == ""


def test_a_batch_that_the_jobs_ranks_do_not_divide(main, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")  # as the launcher sets it
    with pytest.raises(SystemExit) as leaving:
        main(["train.global_batch=128"])
    assert leaving.value.code == 2
    assert "train.global_batch=128 is not divisible by the 3 ranks; take 126" in capsys.readouterr().err


def test_the_launchers_own_argument_is_taken(main, capsys):
    assert main(["--local_rank=1", "--keys"]) == 0


def test_a_typo_is_told_before_torch_is_loaded(tmp_path):
    done = run_train("optim.lrr=1", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert done.returncode == 2
    assert "pydantic" in loaded
    assert not loaded & {"torch", "deepspeed", "open_clip", "numpy"}
    assert "did you mean 'optim.lr'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_laid_over_a_preset_by_path(main, capsys, tmp_path):
    (tmp_path / "tiny.yaml").write_text(PRESET)
    (tmp_path / "over.yaml").write_text("train: {steps: 77, global_batch: 4}")
    arguments = [
        "--preset",
        str(tmp_path / "tiny.yaml"),
        "--config",
        str(tmp_path / "over.yaml"),
        "train.global_batch=6",
    ]
    assert main(["--dry-run", *arguments]) == 0
    text = capsys.readouterr().out
    resolved = yaml.safe_load(resolved_in(text))
    assert (resolved["preset"], resolved["train"]["steps"], resolved["train"]["global_batch"]) == ("tiny", 77, 6)
