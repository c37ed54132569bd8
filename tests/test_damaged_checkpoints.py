"""silc.load of files that are damaged, or that somebody made to do harm."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import silc
from silc import config_io
from silc.config import Config
from tests.test_pretrained import make_config, make_weights, write_manifest, write_run


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config()


@pytest.fixture(scope="module")
def run(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, config, make_weights(config, 1), make_weights(config, 2))
    return folder


def damaged(data: bytes) -> bytes:
    """Of the same size, so that the manifest does not show it."""
    return b"\xff" * 64 + data[64:]


class Hostile:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_damaged_files_are_refused_by_name(run, tmp_path):
    for name in ("student.safetensors", "trainer.pt"):
        copy = tmp_path / name
        shutil.copytree(run, copy)
        file = copy / "checkpoints" / "step_00000007" / name
        file.write_bytes(damaged(file.read_bytes()))
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            silc.load(copy, device="cpu")
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(ValueError, match=rf"{name} should hold \d+ bytes, found 100"):
            silc.load(copy, device="cpu")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"files": 3}', "[" * 100_000, '{"files": ["a", "b"]}', '{"files": [[1, 2]]}']
)
def test_a_damaged_manifest_is_refused(run, tmp_path, text):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_00000007"
    (path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        silc.load(path)


def test_no_code_in_a_checkpoint_is_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path, trap = tmp_path / "run" / "checkpoints" / "step_00000007", tmp_path / "executed"
    archive = io.BytesIO()
    torch.save(Hostile(trap), archive)
    for data in (archive.getvalue(), pickle.dumps(Hostile(trap), protocol=2)):
        (path / "trainer.pt").write_bytes(data)
        write_manifest(path)
        with pytest.raises(ValueError, match=r"trainer\.pt is damaged"):
            silc.load(path)
    assert not trap.exists()


def test_a_configuration_of_another_depth_is_refused_before_a_model_is_built(config, tmp_path):
    """Laying out many blocks takes long."""
    there = make_config()
    there.model.text.depth = 1000
    path = write_run(tmp_path, config, make_weights(config, 1), make_weights(config, 2))
    trainer = torch.load(path / "trainer.pt", weights_only=True) | {"config": config_io.to_dict(there)}
    torch.save(trainer, path / "trainer.pt")
    (path / "config.yaml").write_text(config_io.to_yaml(there))
    write_manifest(path)
    with pytest.raises(ValueError, match=r"2 blocks text\.transformer\.resblocks, the \w+ (has|says) 1000"):
        silc.load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.vision.width", 10**9),
        ("model.vision.image_size", 8 * 10**9),
        ("model.text.vocab_size", 8 * 10**30),
        ("model.vision.mlp_ratio", 1e30),
        ("model.text.mlp_ratio", 1e308),
        ("model.text.context_length", 10**12),
        ("model.text.depth", 10**9),
        ("model.head.prototypes", 10**30),
        ("objective.max_scale", 1e308),
        ("views.global_size", 8 * 10**9),
        ("train.steps", 10**400),
    ],
)
def test_absurd_sizes_are_refused_by_name(run, tmp_path, key, value):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_00000007"
    tree = yaml.safe_load((path / "config.yaml").read_text())
    *sections, name = key.split(".")
    inside = tree
    for section in sections:
        inside = inside[section]
    inside[name] = value
    (path / "config.yaml").write_text(yaml.safe_dump(tree))
    write_manifest(path)
    with pytest.raises(ValueError, match=rf"{key}=.*less than or equal to"):
        silc.load(path, device="cpu")


def test_the_largest_sizes_are_compared_without_a_model(run, tmp_path):
    """At the limits, too, it is a ValueError, and soon."""
    for key in ("width", "image_size", "mlp_ratio", "heads"):
        copy = tmp_path / key
        shutil.copytree(run, copy)
        path = copy / "checkpoints" / "step_00000007"
        tree = yaml.safe_load((path / "config.yaml").read_text())
        tree["model"]["vision"][key] = {"mlp_ratio": 64, "heads": 1024}.get(key, 65_536)
        (path / "config.yaml").write_text(yaml.safe_dump(tree))
        write_manifest(path)
        with pytest.raises(ValueError, match=r"do(es)? not (fit|divide)"):
            silc.load(path, device="cpu")


def test_weights_of_another_size_are_refused(run, config, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_00000007"
    weights = make_weights(config, 1)
    weights["visual.trunk.pos_embed"] = torch.zeros(1, 4, 32)
    save_file(weights, path / "student.safetensors")
    write_manifest(path)
    with pytest.raises(ValueError, match=r"visual\.trunk\.pos_embed has shape \[1, 4, 32\], not \[1, 9, 32\]"):
        silc.load(path, device="cpu")
