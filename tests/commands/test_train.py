"""`silc train`: help, keys, dry run, and mistakes that are found before torch is loaded."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
import torch
import yaml

from silc import config_io, errors, presets
from silc.commands.train import launch, main
from silc.model import SilcModel

from .conftest import PRESET, checkout, environment

NAMES = presets.names()


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


def test_help_says_how(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for part in (
        "silc train",
        "launch/train.py",
        "--num_gpus",
        "section.key=value",
        "--preset",
        "--dry-run",
        "--keys",
        "--config",
        *NAMES,
    ):
        assert part in text


def test_keys_are_listed_with_type_default_and_meaning(capsys):
    assert main(["--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "[]." not in line] == config_io.valid_keys()
    assert "optim.lr (float, default 0.001): peak learning rate" in lines
    after_rules = lines[[line.split()[0] for line in lines].index("optim.rules") + 1 :]
    assert [line.split(":")[0] for line in after_rules[:3]] == [
        "optim.rules[].pattern (str)",
        "optim.rules[].lr (float, default 1.0)",
        "optim.rules[].weight_decay (float, default 1.0)",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_dry_run_of_every_preset(capsys, name):
    assert main(["--dry-run", "--preset", name]) == 0
    text = capsys.readouterr().out
    config = config_io.load_config(name)
    assert config_io.build(yaml.safe_load(resolved_in(text))) == config
    with torch.device("meta"):
        model = SilcModel(config.model, with_head=config.objective.distill)
    assert number(text, "total") == sum(p.numel() for p in model.parameters())
    assert number(text, "image tower") == sum(p.numel() for p in model.visual.parameters())
    assert number(text, "training GFLOP per pair") > 0
    assert f"plan: {name} on 1 CPU rank" in text
    assert all(key in text.rpartition("no public source confirms")[2] for key in config.unverified)


def test_dry_run_says_which_shards_are_not_here(capsys, tmp_path):
    assert main(["--dry-run", f"data.shards=[{tmp_path}/nothere]"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"silc train: note: data\.shards: no such file .*nothere'? \(on this machine\); the run needs them", line
    )
    (tmp_path / "0.tar").touch()
    assert main(["--dry-run", f"data.sources=[{{shards: [{tmp_path}]}}, {{shards: [{tmp_path}/x.tar]}}]"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "note: data.sources.1.shards: no such file" in line


def test_dry_run_counts_tokens_and_plans_for_ranks(capsys):
    main(["--dry-run", "--preset", "silc_vit_b16"])
    alone = capsys.readouterr().out
    assert number(alone, "student tokens per image") == 2 * 16**2 + 8 * 6**2
    main(["--dry-run", "--preset", "silc_vit_b16", "--ranks", "64"])
    many = capsys.readouterr().out
    assert "64 CPU ranks" in many
    for part in ("fp32 master weights", "Adam moments", "activations kept for the backward pass"):
        assert columns(many, part) == pytest.approx([each / 64 for each in columns(alone, part)], rel=2e-2, abs=0.01)
    assert columns(many, "weights") == columns(alone, "weights")  # ZeRO-1 keeps them whole


def test_dry_run_for_a_gpu_ends_on_what_fits(capsys):
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


def test_dry_run_takes_the_mfu_for_gpu_hours(capsys):
    hours = []
    for mfu in ("0.2", "0.4"):
        main(["--dry-run", "--preset", "silc_vit_b16", "--gpu", "h100-80gb", "--mfu", mfu])
        hours.append(number(capsys.readouterr().out, f"GPU-hours at an MFU of {float(mfu):.0%}"))
    assert hours[0] == pytest.approx(2 * hours[1], rel=0.01)


def test_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
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
def test_a_slip_on_the_command_line(capsys, arguments, said):
    """One message and nothing after it, in this process and where a launcher would be started."""
    for command in (main, launch):
        with pytest.raises(SystemExit) as leaving:
            command(arguments)
        assert leaving.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("silc train: ")
        assert said in message.splitlines()[-1]
        assert "usage" not in message


def test_options_may_stand_between_overrides(capsys):
    assert main(["train.global_batch=6", "--dry-run", "train.micro_batch=3", "--ranks", "2", "train.steps=1000"]) == 0
    text = capsys.readouterr().out
    assert "micro_batch: 3" in text
    assert "steps: 1000" in text


def test_other_ranks_leave_the_first_one_time_to_print_a_mistake(capsys, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    for rank, expected in (("0", []), ("1", [errors.PAUSE])):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit, match="2"):
            main(["optim.lrr=1"])
        assert waited == expected
        assert "did you mean 'optim.lr'" in capsys.readouterr().err  # it may be a mistake that the first did not find


def test_an_earlier_name_wins_over_the_preset_with_a_note(capsys):
    words = ["eval.picture=false", "kernels.distill=reference"]
    assert main(["--dry-run", *words]) == 0
    text = capsys.readouterr()
    assert "contact_sheet: false" in text.out
    assert "distill: torch" in text.out
    notes = [line for line in text.err.splitlines() if line.startswith("silc train: ")]
    assert notes == [
        "silc train: eval.picture=false is now eval.contact_sheet=false",
        "silc train: kernels.distill=reference is now kernels.distill=torch",
    ]


def test_a_batch_that_the_jobs_ranks_do_not_divide(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")  # as the launcher sets it
    with pytest.raises(SystemExit) as leaving:
        main(["train.global_batch=128"])
    assert leaving.value.code == 2
    assert "train.global_batch=128 is not divisible by the 3 ranks; take 126" in capsys.readouterr().err


def test_the_launchers_own_argument_is_taken(capsys):
    assert main(["--local_rank=1", "--keys"]) == 0


@pytest.mark.parametrize(("words", "status"), [(["optim.lrr=1"], 2), (["--keys"], 0), (["--help"], 0)])
def test_what_needs_no_torch_is_answered_without(tmp_path, words, status):
    command = [sys.executable, "-m", "silc", "train", "--num_gpus", "2", *words]
    env = environment(PYTHONPATH=checkout(), PYTHONPROFILEIMPORTTIME="1")
    done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=500, check=False)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert done.returncode == status, done.stderr
    assert "pydantic" in loaded
    assert not loaded & {"torch", "deepspeed", "open_clip", "numpy"}
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_laid_over_a_preset_by_path(capsys, tmp_path):
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
