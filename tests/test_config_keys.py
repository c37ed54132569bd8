"""Every key of the configuration is read by the code, described, and documented."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from silc import config_io, presets
from silc.config import Config

from .config_reads import fields, reads

ROOT = Path(__file__).resolve().parents[1]
NAMES = presets.names()


def load(*overrides: str, preset: str | Path = "sample", file: Path | None = None) -> Config:
    return config_io.load_config(preset, overrides, file=file)


def refusal(*overrides: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        load(*overrides)
    return str(caught.value)


def test_every_key_is_read_somewhere():
    unread = fields() - reads(ROOT)
    assert not unread, f"no code reads {sorted(unread)}"


def test_the_reader_sees_reads_and_nothing_else(tmp_path):
    for folder in ("silc", "launch", "kernels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "silc/config").mkdir()
    (tmp_path / "silc/config/__init__.py").write_text(
        "class Config:\n"
        "    def ema_momentum(self): return self.train.global_batch\n"
        "    def n_original(self): return self.objective.contrastive_views\n"
    )
    (tmp_path / "silc/some.py").write_text(
        "def f(config: Config, other):\n"
        "    views, optim = config.views, config.optim\n"
        "    views.flip; other.n_local; config.ema_momentum\n"
        "    config.train.seed = 3\n"
        "    return [rule.pattern for rule in optim.rules]\n"
        "class A:\n"
        "    def g(self): return self.data.workers\n"
        "    def __init__(self, config: DataConfig): self.data = config\n"
    )
    sections = {("Config", name) for name in ("views", "optim", "train")}
    assert reads(tmp_path) - sections == {
        ("ViewsConfig", "flip"),
        ("TrainConfig", "global_batch"),
        ("OptimConfig", "rules"),
        ("ParameterRule", "pattern"),
        ("DataConfig", "workers"),
    }


def test_every_key_has_a_meaning_a_type_and_a_default():
    rows = list(config_io.describe())
    assert len(rows) > 90
    for dotted, kind, default, meaning in rows:
        assert len(meaning) > 5, dotted
        assert kind, dotted
        assert default != "", dotted


def test_the_entries_of_a_list_are_described_after_it():
    keys = [dotted for dotted, *_ in config_io.describe()]
    at = keys.index("optim.rules") + 1
    assert keys[at : at + 3] == [f"optim.rules[].{name}" for name in ("pattern", "lr", "weight_decay")]
    assert not any("[]" in key for key in config_io.valid_keys())


def test_the_reference_holds_every_key_once():
    lines = config_io.reference_markdown().splitlines()
    cells = [re.match(r"\| `([\w.\[\]]+)` \| `", line) for line in lines]
    assert [cell[1] for cell in cells if cell] == [dotted for dotted, *_ in config_io.describe()]
    assert lines.count("**`optim`**") == 1


def test_the_docs_have_the_current_reference(tmp_path):
    command = [sys.executable, str(ROOT / "tools/update_docs.py"), "--check"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ["README.md", "docs/configuration.md", "silc/commands/train.py"])
def test_the_commands_shown_are_valid(file):
    text = re.sub(r"\\+\n\s*", " ", (ROOT / file).read_text(encoding="utf-8"))
    commands = re.findall(r"^ *((?:deepspeed .*launch/train\.py|silc train).*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        words = shlex.split(command.split("   ")[0], comments=True)
        preset = words[words.index("--preset") + 1] if "--preset" in words else "sample"
        load(*[word for word in words if "=" in word], preset=preset)


@pytest.mark.parametrize(("old", "new"), config_io.RENAMED.items())
def test_a_key_with_an_earlier_name_is_read(old, new):
    section, name = old.split(".")
    before, after = ({section: {key: 1}} for key in (name, new.split(".")[1]))
    if old == "eval.picture":
        before, after = {section: {name: False}}, {section: {"contact_sheet": False}}
    assert config_io.build(before) == config_io.build(after) != config_io.build({})


@pytest.mark.parametrize("old", config_io.RENAMED)
def test_an_earlier_name_in_a_later_layer_wins(old, tmp_path):
    section, name = config_io.RENAMED[old].split(".")
    value = False if name == "contact_sheet" else 3
    before = True if name == "contact_sheet" else 7
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({section: {name: before}}))
    (tmp_path / "over.yaml").write_text(yaml.safe_dump({section: {old.split(".")[1]: value}}))
    word = f"{old}={value}"
    for config in (
        load(word, preset=tmp_path / "base.yaml"),
        load(preset=tmp_path / "base.yaml", file=tmp_path / "over.yaml"),
        config_io.override(load(preset=tmp_path / "base.yaml"), [word]),
    ):
        assert getattr(config.eval, name) == value
    assert config_io.with_new_name(word) == f"{section}.{name}={value}"
    assert "unknown key" in refusal(f"{section}={{{name}: {value}, {old.split('.')[1]}: {value}}}")


def test_the_earlier_name_of_a_backend_is_read():
    assert load("kernels.distill=reference", "kernels.contrastive=triton").kernels.distill == "torch"
    assert config_io.build({"kernels": {"patch_embed": "reference"}}).kernels.patch_embed == "torch"
    assert config_io.with_new_name("kernels.distill=reference") == "kernels.distill=torch"
    assert config_io.with_new_name("train.out=reference") == "train.out=reference"


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n" for before, after in itertools.pairwise("abcdefghijkl")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"alias \*a is not allowed"),
        ("train: &x {steps: 3}\n<<: *x\n", r"alias \*x is not allowed"),
        ("train: {steps: 3, steps: 4}\n", r"key 'steps' is given twice"),
        ("train: {steps: 3}\neval: {batch: 2}\ntrain: {seed: 4}\n", r"key 'train' is given twice"),
        ("#" * ((1 << 20) + 1), r"at most 1048576 are read"),
        ("[" * 100_000, r"nests values too deep"),
    ],
    ids=["bomb", "merge", "key twice", "section twice", "large", "deep"],
)
def test_hostile_yaml_is_refused(tmp_path, text, message):
    """As a preset, as a file laid over one, and as a checkpoint's configuration."""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for read in (lambda: load(preset=path), lambda: load(file=path), lambda: config_io.read_config(path)):
        with pytest.raises(ValueError, match=message):
            read()


def test_a_pipe_is_no_configuration(tmp_path):
    """Reading it would wait for ever."""
    path = tmp_path / "config.yaml"
    os.mkfifo(path)
    for read in (lambda: load(file=path), lambda: config_io.read_config(path)):
        with pytest.raises(ValueError, match="a pipe, socket or device"):
            read()
