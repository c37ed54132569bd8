"""Checkpoints that are whole or absent.

    run/checkpoints/
        latest                   name of the newest whole checkpoint
        step_00012000/
            engine/              the optimiser's moments, one file a rank, see silc.train.moments
            student.safetensors  the student's fp32 master weights, whole: also for export and other programs
            teacher.safetensors  the teacher's fp32 average, whole
            trainer.pt           counters, data position, center, logit scale and bias with their optimiser's state
            config.yaml          the resolved configuration
            tokenizer/           files of a Hugging Face tokenizer, see silc.train.own_tokenizer
            manifest.json        names, sizes and hashes of all of the above, written last
        step_00013000.tmp/       one that is being written
        step_00012000.old/       one that is being removed, or replaced by another of its step
        step_00011000.damaged/   one that train.resume=auto found damaged and passed over

A checkpoint is written as `step_*.tmp` and renamed when its manifest is in place (:mod:`silc.train.saving`); readers
trust only folders with a manifest that matches. All that the trainer needs to resume is here; nothing random is kept
because order and augmentation are functions of (seed, position). The number of ranks and the ZeRO stage are no part of
it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from silc.config import Config
from silc.config_io import read_config
from silc.distributed import of_first
from silc.files import check_regular
from silc.model.scale import LogitScale
from silc.text import plural
from silc.train import manifest
from silc.train.own_tokenizer import NAMES, with_own_tokenizer

if TYPE_CHECKING:  # to read weights, no engine is needed
    from silc.train.state import TrainState

# 1 and 2 had the optimiser's state in DeepSpeed's pickles, which are never loaded: they are not resumed. Their weights
# are read.
FORMAT = 3
MAX_NAME = 4096  # bytes of `latest`
NAMED = re.compile(r"step_[0-9]{8,18}")  # of a checkpoint; what a user calls otherwise, a copy say, is left alone
# What is read of a model.
WEIGHTS = ("student.safetensors", "teacher.safetensors", "trainer.pt", "config.yaml", *NAMES)


def place(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint, whether it is there or not."""
    return run / "checkpoints" / f"step_{step:08d}"


def find(where: str | Path, *, or_export: bool = False, only: Collection[str] | None = None) -> Path:
    """A whole checkpoint from its own path, or the newest one of a run folder.

    Args:
        where: its path.
        or_export: whether the caller takes an export too, which this is not; for the message.
        only: files whose content is compared with the manifest, see :func:`verify`.

    Raises ValueError saying what is wrong.
    """
    path = Path(where)
    others = ", an export, or a SigLIP model of another library (docs/models.md)"
    kinds = f"a run folder, a checkpoint{others}" if or_export else "a run folder or a checkpoint"
    if not path.is_dir():
        wrong = "is not a folder" if path.exists() else "does not exist"
        raise ValueError(f"{str(where)!r} {wrong}; give {kinds}")
    if (path / manifest.NAME).is_file():
        return verify(path, only)
    found = whole(path / "checkpoints")
    if not found:
        nothing = "neither a checkpoint nor an export" if or_export else "no whole checkpoint"
        drafts = [left.name for left in _left(path / "checkpoints") if _complete(left)]
        more = f" (train.resume=auto takes {drafts[-1]}, which was written but not put in place)" if drafts else ""
        raise ValueError(f"{path} holds {nothing}{more}; give {kinds}")
    return verify(found[-1], only)


def verify(path: Path, only: Collection[str] | None = None) -> Path:
    """Check a checkpoint against its manifest: all sizes, and the SHA-256 of the files in `only` (None: of all).

    Raises ValueError naming the first file that differs.
    """
    try:
        wrong = manifest.faults(path, only)
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}; {manifest.OLDER}") from None
    if wrong:
        more = f" (and {plural(len(wrong) - 1, 'more fault')})" if len(wrong) > 1 else ""
        raise ValueError(f"checkpoint {path}: {wrong[0]}{more}; {manifest.OLDER}")
    return path


def load_config(path: Path) -> Config:
    """The configuration that a checkpoint was trained with. Raises ValueError for one that this version cannot read."""
    return read_config(path / "config.yaml")


def load_model_config(path: Path) -> Config:
    """The same, to use the model: with the tokenizer that the checkpoint holds."""
    return with_own_tokenizer(load_config(path), path)


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

    trainer: of :func:`load_trainer`. student: of :func:`load_weights`.
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
    config, file = load_model_config(path), path / "trainer.pt"
    scale = LogitScale.of(config.objective)
    try:
        scale.load_state_dict(_load(file, "cpu")["scale"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({str(error).partition(chr(10))[0]}); take an older checkpoint") from None
    return config, scale


def sought(where: str) -> Path:
    """The checkpoint that `where` names, or the newest undamaged one of a run folder, the same on every rank
    (collective; the main rank looks, and says what it passes over).

    Raises ValueError on every rank when there is none.
    """

    def look() -> tuple[str | None, str]:
        try:
            for path in [] if (Path(where) / manifest.NAME).is_file() else reversed(whole(Path(where) / "checkpoints")):
                try:
                    return str(verify(path)), ""
                except ValueError as error:
                    print(f"passed over: {error}", flush=True)
            return str(find(where)), ""
        except (OSError, ValueError) as error:
            return None, str(error)

    found, wrong = of_first(look)
    if found is None:
        raise ValueError(wrong)
    return Path(found)


def newest(run: Path) -> Path | None:
    """The newest undamaged checkpoint of a run folder that is to go on, the same on every rank; None when it has none
    (collective; the main rank looks, and says what it passes over).

    What was written but not put in place is taken, and what is damaged is set aside under another name, so that it does
    not count among the checkpoints that are kept.

    Raises ValueError when all of them are damaged: to start from nothing would lose the run silently.
    """

    def look() -> tuple[str | None, str | None]:
        folder, damaged = run / "checkpoints", []
        aside = sorted(folder.glob("step_*.damaged"))
        try:
            for note in adopt(folder):
                print(note, flush=True)
            for path in reversed(whole(folder)):
                try:
                    return str(verify(path)), None
                except ValueError as error:
                    damaged.append(str(error).removesuffix(f"; {manifest.OLDER}"))
                    print(f"passed over: {damaged[-1]}", flush=True)
                    with contextlib.suppress(OSError):  # where it cannot be renamed it stays
                        path.rename(path.with_suffix(".damaged"))
        except (OSError, ValueError) as error:
            return None, f"{folder} cannot be read ({error})"
        damaged += [f"{path} has no {manifest.NAME}" for path in _bare(folder)]
        damaged += [f"{path} was set aside by an earlier start" for path in aside]
        left = [path.name for path in _left(folder)]
        if not damaged and left:
            print(f"{folder} holds no whole checkpoint: {left[-1]} was not finished", flush=True)
        more = f" and {len(damaged) - 4} more" if len(damaged) > 4 else ""
        return None, f"{'; '.join(damaged[:4])}{more}" if damaged else None

    found, damaged = of_first(look)
    if damaged is not None:
        raise ValueError(
            f"no undamaged checkpoint in {run}: {damaged}. Put one back from a copy (train.resume=PATH takes it from "
            "anywhere), or start anew with another train.out"
        )
    return None if found is None else Path(found)


def adopt(folder: Path) -> list[str]:
    """Put in place what was written whole but not renamed, or was about to be replaced, when a job ended.

    Returns a sentence for each. Raises OSError.
    """
    notes = []
    for left in reversed(_left(folder)):  # a draft before what it was to replace
        final = left.with_suffix("")
        replaces = left.suffix == ".tmp" and final.is_dir() and _written(left) > _written(final)
        if (replaces or not final.exists()) and _complete(left):
            if replaces and not final.with_suffix(".old").exists():
                final.rename(final.with_suffix(".old"))
            elif replaces:
                continue
            left.rename(final)
            notes.append(f"{left} is whole, the job ended before it was put in place: it is now {final.name}")
    return notes


def _left(folder: Path) -> list[Path]:
    """What jobs that ended while they wrote have left: by step, drafts last."""
    found = [
        path
        for path in folder.glob("step_*")
        if path.suffix in (".tmp", ".old") and NAMED.fullmatch(path.stem) and path.is_dir()
    ]
    return sorted(found, key=lambda path: (path.stem, path.suffix))


def _bare(folder: Path) -> list[Path]:
    """Checkpoints that have lost their manifest; an empty folder is none."""
    found = [path for path in sorted(folder.glob("step_*")) if NAMED.fullmatch(path.name) and path.is_dir()]
    return [path for path in found if not (path / manifest.NAME).exists() and any(path.iterdir())]


def _complete(path: Path) -> bool:
    try:
        return not manifest.faults(path, only=())
    except (OSError, ValueError):
        return False


def whole(folder: Path) -> list[Path]:
    """Folders with a manifest, the one written last at the end. Raises OSError.

    `latest` names it; where that is missing or names nothing, the times in the manifests say which: when a run went
    back to an earlier checkpoint, it is not the highest step.
    """
    found = [path.parent for path in folder.glob(f"step_*/{manifest.NAME}") if NAMED.fullmatch(path.parent.name)]
    last = _marked(folder)
    return sorted(found, key=lambda path: (path.name == last, _written(path), path.name))


def _marked(folder: Path) -> str:
    try:
        check_regular(folder / "latest", MAX_NAME)
        return (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _written(path: Path) -> float:
    try:
        return manifest.read(path).written
    except (OSError, ValueError):
        return 0.0
