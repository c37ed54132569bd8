"""Checkpoints are whole or absent. One process; the engine is a stand-in that writes a file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch

from silc.config import Config, TrainConfig
from silc.distributed import World
from silc.errors import RunStopped
from silc.model import LogitScale
from silc.train import checkpoint, saving
from silc.train.state import Counters, TrainState

CPU = torch.device("cpu")


class Written:
    """What an engine's moments are."""

    name = "shard"

    def serialized(self) -> bytes:
        return bytes(100)


class StandIn:
    """Serves as engine and as teacher."""

    loaded = ""

    def moments(self, *, copied: bool) -> Written:
        return Written()

    def master_weights(self, keep: bool) -> dict[str, torch.Tensor]:
        return {"w": torch.arange(3.0)}

    def load(self, folder: Path, masters: dict[str, torch.Tensor]) -> None:
        assert torch.equal(masters["w"], torch.arange(3.0))
        self.loaded = folder.name

    def load_average(self, whole: dict[str, torch.Tensor]) -> None:
        assert torch.equal(whole["w"], torch.ones(3))
        self.loaded = "average"

    def average(self) -> dict[str, torch.Tensor]:
        return {"w": torch.ones(3)}


def state_at(step: int, teacher: StandIn | None = None, engine: StandIn | None = None) -> TrainState:
    scale = LogitScale("sigmoid")
    optimizer = torch.optim.AdamW(scale.parameters())
    counters = Counters(step, position=8 * step, skipped_samples=3)
    return TrainState(World(0, 1, CPU), engine or StandIn(), scale, optimizer, teacher, torch.zeros(4), counters)


def save(run: Path, step: int, keep: int = 10, teacher: StandIn | None = None, engine: StandIn | None = None) -> Path:
    config = Config(preset="mine", train=TrainConfig(keep_checkpoints=keep))
    return saving.Saver(run, config, state_at(step, teacher, engine)).save()


def steps(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


def test_holds_everything_and_says_so(tmp_path: Path) -> None:
    path = save(tmp_path, 12, teacher=StandIn())
    assert path == tmp_path / "checkpoints" / "step_00000012"
    manifest = json.loads((path / "manifest.json").read_text())
    present = {str(f.relative_to(path)): f.stat().st_size for f in path.rglob("*") if f.is_file()}
    present.pop("manifest.json")
    assert manifest["files"] == present
    assert manifest["sha256"] == {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in present}
    parts = {"engine/shard", "student.safetensors", "teacher.safetensors", "trainer.pt", "config.yaml"}
    assert present.keys() == parts
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000012\n"
    assert checkpoint.load_trainer(path, CPU)["counters"]["step"] == 12
    assert checkpoint.load_config(path).preset == "mine"
    assert torch.equal(checkpoint.load_weights(path, "student")["w"], torch.arange(3.0))
    assert torch.equal(checkpoint.load_weights(path, "teacher")["w"], torch.ones(3))


def test_a_state_comes_back_whole(tmp_path: Path) -> None:
    saved = state_at(12, teacher=StandIn())
    saved.center += torch.arange(4.0)
    sum(parameter.sum() for parameter in saved.scale.parameters()).backward()
    saved.scale_optimizer.step()
    config = Config(preset="mine")
    path = saving.Saver(tmp_path, config, saved).save()
    state = state_at(0, teacher=StandIn())
    checkpoint.restore(path, checkpoint.load_trainer(path, CPU), state, checkpoint.load_weights(path, "student"))
    assert (state.engine.loaded, state.teacher.loaded) == (path.name, "average")
    assert state.counters == Counters(12, position=96, skipped_samples=3)
    torch.testing.assert_close(state.state_dict(), saved.state_dict(), rtol=0, atol=0)
    assert checkpoint.load_config(path) == config


@pytest.mark.parametrize("umask", [0o022, 0o027], ids=["022", "027"])
def test_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = save(tmp_path, 1, teacher=StandIn())
    finally:
        os.umask(before)
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    assert len(files) == 7  # six and `latest`
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~umask}


def test_without_a_teacher_there_are_no_teacher_weights(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(ValueError, match="has no teacher weights"):
        checkpoint.load_weights(path, "teacher")


@pytest.mark.parametrize("name", ["trainer.pt", "engine/shard"])
def test_a_truncated_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    file = path / name
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2])
    with pytest.raises(ValueError, match=rf"{name} should hold {size} bytes, found {size // 2}"):
        checkpoint.find(path)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        checkpoint.find(tmp_path)


def test_what_was_not_finished_is_not_seen(tmp_path: Path) -> None:
    """A draft without its manifest, and a folder without one."""
    path = save(tmp_path, 1)
    path.rename(path.with_suffix(".tmp"))
    (path.with_suffix(".tmp") / "manifest.json").unlink()
    (tmp_path / "checkpoints" / "step_00000002").mkdir()
    with pytest.raises(ValueError, match="no whole checkpoint; give"):
        checkpoint.find(tmp_path)
    assert checkpoint.newest(tmp_path) is None
    assert save(tmp_path, 1) == checkpoint.find(tmp_path)


def test_a_draft_left_behind_does_not_disturb(tmp_path: Path) -> None:
    draft = tmp_path / "checkpoints" / "step_00000003.tmp"
    draft.mkdir(parents=True)
    (draft / "half").write_text("written")
    path = save(tmp_path, 3)
    assert not draft.exists()
    assert not (path / "half").exists()


def test_drafts_of_other_steps_go_at_the_next_save(tmp_path: Path) -> None:
    draft = tmp_path / "checkpoints" / "step_00000002.tmp"
    draft.mkdir(parents=True)
    save(tmp_path, 3)
    assert not draft.exists()


class FullDisk(StandIn):
    """A disk that has no room for this rank's shard."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def moments(self, *, copied: bool) -> FullDisk:
        return self

    name = "half"

    def serialized(self) -> bytes:
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_ends_the_run_with_a_message_and_leaves_no_draft(tmp_path: Path, error: Exception) -> None:
    before = save(tmp_path, 1)
    with pytest.raises(RunStopped, match=rf"{tmp_path}/checkpoints/step_00000002 could not be written: .*GB are free"):
        save(tmp_path, 2, engine=FullDisk(error))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["step_00000001"]
    assert checkpoint.find(tmp_path) == before


def test_a_manifest_that_was_cut_is_named(tmp_path: Path) -> None:
    manifest = save(tmp_path, 1) / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])
    with pytest.raises(ValueError, match=rf"{manifest} is damaged"):
        checkpoint.find(tmp_path)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3, teacher=StandIn())
    path = save(tmp_path, 3)
    assert checkpoint.verify(path) == path
    assert not (path / "teacher.safetensors").exists()


def test_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 10, 11):
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [10, 11]
    assert checkpoint.find(tmp_path).name == "step_00000011"
    assert checkpoint.newest(tmp_path).name == "step_00000011"


def test_after_going_back_the_newest_is_the_one_written_last(tmp_path: Path) -> None:
    """A run that resumed from step 10 and saves step 15 goes on from 15, not from the 20 and 30 it gave up."""
    for step in (10, 20, 30):
        save(tmp_path, step)
    path = save(tmp_path, 15, keep=2)
    assert path.exists()
    assert checkpoint.find(tmp_path) == path
    assert steps(tmp_path) == [15, 30]


def test_the_newest_passes_over_a_damaged_one_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    (newer / "trainer.pt").write_bytes(b"")
    assert checkpoint.newest(tmp_path) == older
    assert "passed over: checkpoint" in capsys.readouterr().out
    (older / "trainer.pt").unlink()
    with pytest.raises(ValueError, match="no undamaged checkpoint"):
        checkpoint.newest(tmp_path)


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    with pytest.raises(ValueError, match="no whole checkpoint; give a run folder or"):
        checkpoint.find(tmp_path)


@pytest.mark.parametrize("form", [1, 2, 99, "x", None])
def test_other_formats_are_not_resumed_but_their_weights_are_read(tmp_path: Path, form: object) -> None:
    """Formats 1 and 2 had the optimiser's state in pickles."""
    path = save(tmp_path, 1)
    found = torch.load(path / "trainer.pt", weights_only=True)
    torch.save(found | {"format": form}, path / "trainer.pt")
    with pytest.raises(
        ValueError, match=rf"has format {form!r}, this version resumes from 3; its weights can still be"
    ):
        checkpoint.load_trainer(path, CPU)
    assert torch.equal(checkpoint.load_weights(path, "student")["w"], torch.arange(3.0))


@pytest.mark.parametrize("content", [b"", b"no archive", [1, 2], {"format": 3}])
def test_a_damaged_trainer_file_is_named(tmp_path: Path, content: object) -> None:
    path = save(tmp_path, 1)
    if isinstance(content, bytes):
        (path / "trainer.pt").write_bytes(content)
    else:
        torch.save(content, path / "trainer.pt")
    with pytest.raises(ValueError, match=r"trainer\.pt is damaged"):
        checkpoint.restore(
            path, checkpoint.load_trainer(path, CPU), state_at(0), checkpoint.load_weights(path, "student")
        )


def test_nothing_waits_for_a_pipe(tmp_path):
    path = save(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe")
    mark = tmp_path / "checkpoints" / "latest"
    for file, read in (
        (path / "trainer.pt", lambda: checkpoint.load_trainer(path, CPU)),
        (path / "trainer.pt", lambda: checkpoint.load_config_and_scale(path)),
        (path / "student.safetensors", lambda: checkpoint.load_weights(path, "student")),
        (path / "config.yaml", lambda: checkpoint.load_config(path)),
        (path / "manifest.json", lambda: checkpoint.find(tmp_path)),
    ):
        kept = file.read_bytes()
        file.unlink()
        (tmp_path / "pipe").rename(file)
        with pytest.raises(ValueError, match=f"{file.name}"):
            read()
        file.rename(tmp_path / "pipe")
        file.write_bytes(kept)
    mark.unlink()
    (tmp_path / "pipe").rename(mark)
    assert checkpoint.find(tmp_path) == path
