"""Checkpoints that are whole or absent.

    run/checkpoints/
        latest                   name of the newest whole checkpoint
        step_00012000/
            engine/              the optimiser's moments, one file a rank, see silc.train.moments
            student.safetensors  the student's fp32 master weights, whole: also for export and other programs
            teacher.safetensors  the teacher's fp32 average, whole
            trainer.pt           counters, data position, center, logit scale and bias with their optimiser's state
            config.yaml          the resolved configuration
            manifest.json        names and sizes of all of the above, written last

A checkpoint is written as `step_*.tmp` and renamed when its manifest is in place; readers trust only folders with a
manifest that matches. All that the trainer needs to resume is here; nothing random is kept because order and
augmentation are functions of (seed, position). The number of ranks and the ZeRO stage are no part of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from silc.config import Config
from silc.config_io import read_config, to_yaml
from silc.distributed import barrier, broadcast_object
from silc.errors import RunStopped
from silc.files import check_regular, replacing, write_text
from silc.model.export import export, loading_call
from silc.model.scale import LogitScale

if TYPE_CHECKING:  # to read weights, no engine is needed
    from silc.train.state import TrainState

# 1 and 2 had the optimiser's state in DeepSpeed's pickles, which are never loaded: they are not resumed. Their weights
# are read.
FORMAT = 3
MAX_MANIFEST, MAX_NAME = 64 << 20, 4096  # bytes


def place(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint, whether it is there or not."""
    return run / "checkpoints" / f"step_{step:08d}"


def save(run: Path, state: TrainState, config: Config) -> Path:
    """Write a checkpoint below the folder of a run (collective: every rank must call it). Returns its path.

    Raises RunStopped when it cannot be written, a full disk for one; the checkpoints before it are untouched.
    """
    world, step = state.world, state.counters.step
    final = place(run, step)
    draft = final.with_suffix(".tmp")
    with _or_stop(draft):
        if world.main:
            for left in final.parent.glob("step_*.tmp"):  # by jobs that ended while they wrote
                shutil.rmtree(left)
            draft.mkdir(parents=True)
        barrier()
        state.engine.save(draft)
        student = state.engine.master_weights(keep=world.main)
        average = state.teacher.average() if state.teacher is not None else {}
        trainer = {"format": FORMAT, "world_size": world.size, **state.state_dict()}
        barrier()
        if world.main:
            with replacing(draft / "student.safetensors") as file:
                save_file(student, file)
            if average:
                with replacing(draft / "teacher.safetensors") as file:
                    save_file({k: v.cpu().contiguous() for k, v in average.items()}, file)
            torch.save(trainer, draft / "trainer.pt")
            (draft / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
            files = {str(p.relative_to(draft)): p.stat().st_size for p in sorted(draft.rglob("*")) if p.is_file()}
            write_text(draft / "manifest.json", json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1))
            shutil.rmtree(final, ignore_errors=True)
            # Before the renaming: a job that ends between the two leaves a name without a folder, which is passed over.
            write_text(final.parent / "latest", final.name + "\n")
            draft.rename(final)
            for old in _whole(final.parent)[: -config.train.keep_checkpoints]:
                shutil.rmtree(old)
    barrier()
    return final


@contextmanager
def _or_stop(draft: Path) -> Iterator[None]:
    """Whatever keeps a checkpoint from being written ends the run with a message, and leaves no draft on the disk."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save has RuntimeError for a full disk
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, FileNotFoundError):
            raise RunStopped(
                f"the checkpoint {draft.with_suffix('')} could not be written: {error.filename} is gone. Was the run "
                "folder removed, or does each machine have one of its own? It must be on a disk that all share"
            ) from error
        disk = next(path for path in draft.parents if path.exists())
        raise RunStopped(
            f"the checkpoint {draft.with_suffix('')} could not be written: {str(error).partition(chr(10))[0]} "
            f"({shutil.disk_usage(disk).free / 1e9:.1f} GB are free in {disk}); make room on that disk, then continue "
            "from the last whole checkpoint with train.resume=auto"
        ) from error


def find(where: str | Path, *, or_export: bool = False) -> Path:
    """A whole checkpoint from its own path, or the newest one of a run folder.

    or_export: whether the caller takes an export too, which this is not; for the message.

    Raises ValueError saying what is wrong.
    """
    path = Path(where)
    kinds = "a run folder, a checkpoint or an export" if or_export else "a run folder or a checkpoint"
    if not path.is_dir():
        wrong = "is not a folder" if path.exists() else "does not exist"
        raise ValueError(f"{str(where)!r} {wrong}; give {kinds}")
    if (path / "manifest.json").is_file():
        return verify(path)
    whole = _whole(path / "checkpoints")
    if not whole:
        nothing = "neither a checkpoint nor an export" if or_export else "no whole checkpoint"
        raise ValueError(f"{path} holds {nothing}; give {kinds}")
    return verify(whole[-1])


def verify(path: Path) -> Path:
    """Check a checkpoint against its manifest. Raises ValueError naming the first file that differs."""
    manifest = path / "manifest.json"
    try:
        check_regular(manifest, MAX_MANIFEST)
        files = dict(json.loads(manifest.read_text(encoding="utf-8"))["files"])
        if not all(isinstance(name, str) and "\0" not in name for name in files):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{manifest} is damaged; take an older checkpoint") from None
    for name, size in files.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            raise ValueError(
                f"checkpoint {path}: {name} should hold {size} bytes, found {found}; take an older checkpoint"
            )
    return path


def load_config(path: Path) -> Config:
    """The configuration that a checkpoint was trained with. Raises ValueError for one that this version cannot read."""
    return read_config(path / "config.yaml")


def load_trainer(path: Path, device: torch.device) -> dict[str, Any]:
    """`trainer.pt`: `TrainState.state_dict` and the number of ranks that wrote it.

    Raises ValueError for one that is damaged, or of a format that this version does not resume from.
    """
    trainer = _load(path / "trainer.pt", device)
    if trainer.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint {path} has format {trainer.get('format')!r:.20}, this version resumes from "
            f"{FORMAT}; its weights can still be evaluated and exported"
        )
    counters = trainer.get("counters")
    if not isinstance(counters, dict) or not all(type(counters.get(name)) is int for name in ("step", "position")):
        raise ValueError(f"{path / 'trainer.pt'} is damaged (it has no counters); take an older checkpoint")
    return trainer


def _load(file: Path, device: torch.device | str) -> dict[str, Any]:
    """A dictionary of tensors and plain values. Raises ValueError for anything else; no code in it is run."""
    check_regular(file)
    try:
        found = torch.load(file, map_location=device, weights_only=True)
        if not isinstance(found, dict):
            raise TypeError(f"it holds a {type(found).__name__}")
    except Exception as error:  # on arbitrary bytes torch's reader raises nearly any
        raise ValueError(f"{file} is damaged ({str(error).partition(chr(10))[0]}); take an older checkpoint") from None
    return found


def restore(path: Path, trainer: dict[str, Any], state: TrainState, student: dict[str, Tensor]) -> None:
    """Bring a state to where it was when :func:`save` wrote it, on any number of ranks (collective).

    trainer: of :func:`load_trainer`. student: of :func:`load_weights`; the engine must have begun with them.
    """
    state.engine.load(path, student)
    if state.teacher is not None:
        state.teacher.load_average(load_weights(path, "teacher"))
    try:
        state.load_state_dict(trainer)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path / 'trainer.pt'} is damaged ({str(error)[:200]}); take an older checkpoint") from None


def load_weights(path: Path, name: str) -> dict[str, Tensor]:
    """`student` or `teacher`: whole fp32 weights on the CPU. Raises ValueError when the checkpoint has none."""
    file = path / f"{name}.safetensors"
    if not file.is_file():
        raise ValueError(f"checkpoint {path} has no {name} weights ({file.name})")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); take an older checkpoint") from None


def load_teacher_tower(path: Path) -> dict[str, Tensor]:
    """Whole fp32 weights of the teacher's image tower, on the CPU. Raises ValueError when the checkpoint has none."""
    tower = {name: value for name, value in load_weights(path, "teacher").items() if name.startswith("visual.")}
    if not tower:
        raise ValueError(f"checkpoint {path}: a head-only EMA teacher has no image tower of its own; take the student")
    return tower


def load_config_and_scale(path: Path) -> tuple[Config, LogitScale]:
    """A checkpoint's configuration, and the scale and bias of its contrastive logits. Raises ValueError if damaged."""
    config, file = load_config(path), path / "trainer.pt"
    scale = LogitScale.of(config.objective)
    try:
        scale.load_state_dict(_load(file, "cpu")["scale"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({str(error).partition(chr(10))[0]}); take an older checkpoint") from None
    return config, scale


def export_open_clip(path: Path, out: Path, *, teacher: bool = False) -> str:
    """Write a checkpoint as an open_clip folder: the student, or the teacher's image tower with the student's text
    tower.

    Returns the Python that loads it. Raises ValueError when the checkpoint has no such weights.
    """
    config, scale = load_config_and_scale(path)
    weights = load_weights(path, "student")
    if teacher:
        weights |= load_teacher_tower(path)
    export(weights, scale, config, out)
    return loading_call(config, out.resolve())


def newest(run: Path) -> Path | None:
    """The newest undamaged checkpoint of a run folder as rank 0 sees it, the same on every rank; None when it has none.

    Raises ValueError when all of them are damaged: to start from nothing would lose the run silently.
    """

    def look() -> tuple[str | None, str | None]:
        damaged = None
        for path in reversed(_whole(run / "checkpoints")):
            try:
                return str(verify(path)), None
            except ValueError as error:
                damaged = str(error)
                print(f"passed over: {error}", flush=True)
        return None, damaged

    found, damaged = broadcast_object(look())
    if damaged is not None:
        raise ValueError(f"no undamaged checkpoint in {run}; the oldest: {damaged}")
    return None if found is None else Path(found)


def _whole(folder: Path) -> list[Path]:
    """Folders with a manifest, by step. The one that `latest` names comes last: when a run went back to an earlier
    checkpoint, it is not the highest.
    """
    mark, last = folder / "latest", ""
    if mark.exists():
        check_regular(mark, MAX_NAME)
        last = mark.read_text(encoding="utf-8").strip()
    whole = [path.parent for path in folder.glob("step_*/manifest.json") if path.parent.suffix != ".tmp"]
    return sorted(whole, key=lambda path: (path.name == last, path.name))
