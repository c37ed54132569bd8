"""The folder of a run: which one it is, that no other run writes to it, and that it is there as long as the run.

The first rank holds a lock on the file `.lock` in the folder from the moment at which the folder is chosen, long before
the first file of the run is written. The system frees it when the process ends, however that ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from silc import config_io
from silc.config import Config
from silc.distributed import World, broadcast_object
from silc.files import advice
from silc.train.lock import LOCK, Held, Lock
from silc.train.metrics import MetricLog

if TYPE_CHECKING:  # a folder is chosen before the engine is loaded
    from silc.train.state import TrainState

FIRST = ("config.yaml", "deepspeed.json", "metrics.jsonl", "skipped_steps.jsonl", "tensorboard")  # made by a start
KINDS = {  # what a run writes by these names: a folder or a file
    "config.yaml": False,
    "deepspeed.json": False,
    "metrics.jsonl": False,
    "skipped_steps.jsonl": False,
    "evaluation.json": False,
    "tensorboard": True,
    "open_clip": True,
    "checkpoints": True,
    "checkpoints/latest": False,
}


@dataclass
class RunFolder:
    """The folder of this run.

    Attributes:
        path: of the folder, which exists.
        fresh: whether no run was begun in it before.
    """

    path: Path
    fresh: bool = False
    _lock: Lock | None = None  # of the first rank alone, as all below
    _made: list[Path] = field(default_factory=list)  # folders that were made for it, the innermost first
    _identity: tuple[int, int] = (0, 0)

    def leave(self) -> None:
        """Free the folder for other runs, and remove what a start that failed made; nothing where there is more."""
        if self._lock is not None:
            if self.fresh and not _trained_in(self.path):
                for name in FIRST:
                    _remove(self.path / name)
            self._lock.release()
            with contextlib.suppress(OSError):  # not empty, or gone
                for folder in self._made:
                    folder.rmdir()

    def keep(self, config: Config, state: TrainState, log: MetricLog | None) -> MetricLog | None:
        """The log, after the folder and its first files were made anew where they had been removed (first rank).

        Raises ValueError where that cannot be, or another run has taken the folder meanwhile.
        """
        if self._lock is None or (_taken(self.path) and self._lock.there()):
            return log
        gone = not _taken(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._lock.there():
                new = Lock(self.path)
                self._lock.release()
                self._lock = new
        except (OSError, Held) as error:
            raise ValueError(f"the run folder {self.path} was removed, and cannot be made again: {error}") from None
        if not gone:
            if self._identity != _identity(self.path):
                raise ValueError(f"the run folder {self.path} was removed, and another run has been there since")
            return log
        self._identity = _identity(self.path)
        print(f"the run folder {self.path} was removed while the run goes on: it is made again", flush=True)
        if log is not None:
            with contextlib.suppress(OSError):
                log.close()
        return open_folder(config, state, self.path)


def choose(config: Config, world: World) -> RunFolder:
    """`train.out`, or the first free one of runs/PRESET, runs/PRESET-2, ...; with resume=auto the newest of these
    (collective). It is made and locked.

    A run never writes over another one; only `auto` and a checkpoint inside the folder continue it. Raises ValueError
    on every rank.
    """
    found, wrong = RunFolder(Path()), None
    if world.main:
        try:
            found = _named(config) if config.train.out is not None else _numbered(config)
        except (ValueError, OSError) as error:
            wrong = str(error)
    path, wrong = broadcast_object((found.path, wrong))
    if wrong is not None:
        raise ValueError(wrong)
    return found if world.main else RunFolder(path)


def _named(config: Config) -> RunFolder:
    assert config.train.out is not None
    folder, resume = Path(config.train.out), config.train.resume
    goes_on = resume == "auto" or (resume is not None and Path(resume).resolve().is_relative_to(folder.resolve()))
    _check(folder, goes_on=goes_on)
    found = _locked(folder)
    try:
        _check(folder, goes_on=goes_on)  # another run may have come and gone before the lock
    except ValueError:
        found.leave()
        raise
    return found


def _check(folder: Path, *, goes_on: bool) -> None:
    """Refuse a folder that holds another run, or other things."""
    if _taken(folder):
        if not goes_on:
            raise ValueError(
                f"train.out={folder} holds an earlier run; take another folder, train.resume=auto to go on, or "
                "remove it"
            )
    elif strange := _other_files(folder):
        raise ValueError(
            f"train.out={folder} is not empty and holds no run (there is {strange[0]}, but no config.yaml); take "
            "a new or an empty folder"
        )


def _numbered(config: Config) -> RunFolder:
    base = Path("runs") / config.preset
    names = [base, *(base.with_name(f"{base.name}-{n}") for n in range(2, 10_000))]
    used = list(itertools.takewhile(_taken, names))
    if used and config.train.resume == "auto":
        return _locked(used[-1])
    for folder in names[len(used) :]:
        if _taken(folder):
            continue
        try:
            found = _locked(folder, patient=False)
        except Held:  # of a start that has not written its first file
            continue
        if not _taken(folder):
            return found
        found.leave()
    raise ValueError(f"{base} and its numbers up to {len(names)} are all taken; name another folder: train.out=FOLDER")


def _locked(folder: Path, *, patient: bool = True) -> RunFolder:
    """A folder, made where it is missing, and its lock. Raises Held, a ValueError."""
    fresh = not _taken(folder)
    nearest = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        why = "is not writable" if nearest.is_dir() else "is not a folder"
        what = "written to" if nearest == folder else "made"
        raise ValueError(
            f"the run folder {folder} cannot be {what}: {nearest} {why}; take another train.out{_there(folder)}"
        )
    made = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    try:
        _check_kinds(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return RunFolder(folder, fresh, Lock(folder, patient=patient), made, _identity(folder))
    except OSError as error:
        raise _unwritten(folder, error) from None


def _unwritten(folder: Path, error: OSError) -> ValueError:
    where = "" if error.filename is None else f" ({error.filename})"
    return ValueError(
        f"the run folder {folder} cannot be written: {error.strerror}{where}{advice(error)}, or take another "
        f"train.out{_there(folder)}"
    )


def _there(folder: Path) -> str:
    """How another folder goes on with the run in this one, for the end of a message."""
    return f" (with train.resume={folder} it goes on there)" if (folder / "checkpoints").is_dir() else ""


def _check_kinds(folder: Path) -> None:
    """Refuse a folder in which something else stands where a run will write."""
    for name, is_folder in KINDS.items():
        path = folder / name
        if path.exists() and not (path.is_dir() if is_folder else path.is_file()):
            kind = "a folder" if is_folder else "a file"
            raise ValueError(f"{path} is not {kind}, as which a run writes it: move it, or take another train.out")


def open_folder(config: Config, state: TrainState, folder: Path, *, finished: bool = False) -> MetricLog | None:
    """The run folder with its first files, and its log; None on all ranks but the main one. Raises ValueError.

    finished: nothing is left to train, and deepspeed.json goes on saying what it was trained with.
    """
    if not state.world.main:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config_io.to_yaml(config), encoding="utf-8")
        if not finished:
            (folder / "deepspeed.json").write_text(json.dumps(state.engine.json, indent=1), encoding="utf-8")
        return MetricLog(config, folder, state.counters.step, state.counters.position)
    except OSError as error:
        raise _unwritten(folder, error) from None


def _taken(folder: Path) -> bool:
    try:
        return (folder / "config.yaml").exists()
    except PermissionError:
        raise ValueError(
            f"the run folder {folder} cannot be looked into: permission denied; take another train.out"
        ) from None


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _trained_in(folder: Path) -> bool:
    """Whether a folder holds what a step, or a save, has left."""
    lines = any((folder / name).is_file() and (folder / name).stat().st_size for name in FIRST if "jsonl" in name)
    return lines or any(path.is_dir() for path in folder.glob("checkpoints/*"))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _other_files(folder: Path) -> list[str]:
    """Names in a folder that no run has begun; a start that was killed may have left an empty folder or checkpoints."""
    known = ("checkpoints", LOCK)
    return sorted(path.name for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []
