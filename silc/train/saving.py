"""Writing checkpoints: a copy of the state, then the files, then the name. See :mod:`silc.train.checkpoint`.

Three parts, so that the second and third can run beside the steps that follow (train.save_in_background):

1. all ranks copy the state to the CPU, with the collectives that this needs;
2. each rank writes its files into `step_*.tmp`, and hashes them;
3. the main rank writes the manifest and renames the folder, when the files of all ranks are on the disk.

What fails on one rank ends the run on all of them, with a message. A checkpoint is removed only when its successor is
in place; what a kill can leave behind at any moment is put right by the next start or save, see :func:`adopt`.
"""

from __future__ import annotations

import errno
import io
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save as serialize
from torch import Tensor

from silc.config import Config
from silc.config_io import to_yaml
from silc.distributed import all_gather_objects, apart
from silc.errors import RunStopped
from silc.files import advice, sync_folder, write_text
from silc.train import manifest, peers
from silc.train.checkpoint import FORMAT, adopt, place, whole
from silc.train.manifest import FileRecord
from silc.train.moments import Moments
from silc.train.own_tokenizer import FOLDER, tokenizer_files
from silc.train.retention import superfluous
from silc.train.state import TrainState
from silc.train.stop import undisturbed

T = TypeVar("T")
Exchange = Callable[[Any], list[Any]]  # every rank's value, in the order of ranks (collective)


@dataclass(frozen=True)
class Snapshot:
    """What this rank writes of a state; nothing in it is changed by later steps if it was copied.

    student, average, trainer, tokenizer: whole fp32 weights, the content of trainer.pt, and that of the tokenizer's
    files by their names; empty on all ranks but the main one.
    """

    step: int
    main: bool
    moments: Moments
    student: dict[str, Tensor]
    average: dict[str, Tensor]
    trainer: bytes
    config: str
    tokenizer: Mapping[str, bytes]

    @classmethod
    def of(cls, state: TrainState, config: Config, tokenizer: Mapping[str, bytes], *, copied: bool) -> Snapshot:
        """Of a state (collective)."""
        main = state.world.main
        moments = state.engine.moments(copied=copied)
        student = state.engine.master_weights(keep=main)
        average = state.teacher.average() if state.teacher is not None else {}
        kept = {name: value.cpu().contiguous() for name, value in average.items()} if main else {}
        trainer = io.BytesIO()
        torch.save({"format": FORMAT, "world_size": state.world.size, **state.state_dict()}, trainer)
        written = trainer.getvalue() if main else b""
        return cls(state.counters.step, main, moments, student, kept, written, to_yaml(config), tokenizer)

    def write(self, draft: Path) -> dict[str, FileRecord]:
        """Write this rank's files below `draft`, which must exist. Returns their records. Raises OSError."""
        found = {}
        for name, content in self._contents():
            (draft / name).parent.mkdir(exist_ok=True)
            found[name] = manifest.write_file(draft / name, content)
        return found

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of this rank's files, one after another: each is a copy in memory for as long as it is
        written.
        """
        yield f"engine/{self.moments.name}", self.moments.serialized()
        if not self.main:
            return
        for name, weights in (("student", self.student), ("teacher", self.average)):
            if weights:
                yield f"{name}.safetensors", serialize(weights)
        yield "trainer.pt", self.trainer
        yield "config.yaml", self.config.encode()
        yield from ((f"{FOLDER}/{name}", content) for name, content in self.tokenizer.items())


class Saver:
    """Writes the checkpoints of a run, one at a time.

    Args:
        run: the run folder.
        config: of the run.
        state: what is saved.
        last: the checkpoint that the state was taken from, if it is one of this run folder.

    Attributes:
        last: the newest checkpoint of this course of the run; None before the first.
        course: the checkpoints of this course by their steps; one may have been removed since.
    """

    def __init__(self, run: Path, config: Config, state: TrainState, last: Path | None = None) -> None:
        self.run, self.config, self.state, self.last = run, config, state, last
        self.course: dict[int, Path] = {}
        self._tokenizer = tokenizer_files(config.data.tokenizer) if state.world.main else {}
        self._apart: Exchange | None = None
        self._thread: threading.Thread | None = None
        self._failure: RunStopped | None = None

    def save(self, *, background: bool = False) -> Path:
        """Write a checkpoint (collective). Returns its path.

        background: return when the state is copied; :meth:`settle` waits for the rest.

        Raises RunStopped on all ranks when it cannot be written, a full disk for one, or when an earlier one could not;
        the checkpoints before it are untouched.
        """
        peers.note("saving", self.state.counters.step)
        self.settle()
        path = place(self.run, self.state.counters.step)
        snapshot = Snapshot.of(self.state, self.config, self._tokenizer, copied=background)
        self.last = self.course[snapshot.step] = path
        if background:
            self._apart = self._apart or apart()
            # Not a daemon: a process that ends meanwhile ends when the files are written.
            self._thread = threading.Thread(target=self._write_apart, args=(snapshot, path, self._apart))
            self._thread.start()
        else:
            with undisturbed():
                write(snapshot, path, self.config, all_gather_objects)
        return path

    def _write_apart(self, snapshot: Snapshot, path: Path, exchange: Exchange) -> None:
        try:
            write(snapshot, path, self.config, exchange)
        except RunStopped as error:
            self._failure = error
        except Exception as error:  # a rank that has gone, say: above a thread there is no one
            self._failure = RunStopped(f"the checkpoint {path} could not be written: {error}")

    def settle(self) -> None:
        """Wait for a checkpoint that is being written. Raises RunStopped where it could not be."""
        failure = self.drain()
        if failure is not None:
            raise RunStopped(failure)

    def drain(self) -> str | None:
        """Wait for a checkpoint that is being written. Returns why it could not be; None where it could."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is None:
            return None
        failure, self._failure, self.last = str(self._failure), None, None
        return failure

    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def failure(self) -> str | None:
        """Why the checkpoint that was being written could not be; None while it is, or if it is there."""
        return None if self._failure is None else str(self._failure)


def write(snapshot: Snapshot, final: Path, config: Config, exchange: Exchange) -> None:
    """The files and the name of a checkpoint (collective, over `exchange`). Raises RunStopped on all ranks."""
    draft = final.with_suffix(".tmp")
    try:
        _all(final, exchange, lambda: _begin(draft) if snapshot.main else None)
        files = _all(final, exchange, lambda: snapshot.write(draft))
        together = {name: one for rank in files for name, one in rank.items()}
        _all(final, exchange, lambda: _finish(draft, final, snapshot.step, together, config) if snapshot.main else None)
    except RunStopped:
        if snapshot.main:
            shutil.rmtree(draft, ignore_errors=True)
        raise


def _begin(draft: Path) -> None:
    """An empty draft; what jobs that ended while they wrote have left is taken or removed."""
    adopt(draft.parent)
    for left in (*draft.parent.glob("step_*.tmp"), *draft.parent.glob("step_*.old")):
        _remove(left)
    (draft / "engine").mkdir(parents=True)


def _finish(draft: Path, final: Path, step: int, files: dict[str, FileRecord], config: Config) -> None:
    """The manifest, and the name; then what the checkpoint replaces goes."""
    manifest.write(draft, step, files)
    for folder in {(draft / name).parent for name in files} - {draft}:
        sync_folder(folder)
    sync_folder(draft)
    # Before the renaming: a job that ends between the two leaves a name without a folder, which is passed over.
    write_text(final.parent / "latest", final.name + "\n")
    if final.exists() and not final.is_dir():
        raise FileExistsError(errno.EEXIST, "a file, where a checkpoint is to be", str(final))
    if final.exists():  # of this step, of another course of the run
        final.rename(final.with_suffix(".old"))
    draft.rename(final)
    sync_folder(final.parent)
    for old in (*final.parent.glob("step_*.old"), *superfluous(whole(final.parent), config.train)):
        _remove(old)


def _remove(path: Path) -> None:
    """Remove a checkpoint; one that is half removed does not look like one."""
    aside = path if path.suffix else path.with_suffix(".old")
    try:
        if path != aside:
            path.rename(aside)
        (aside / manifest.NAME).unlink(missing_ok=True)
        shutil.rmtree(aside)
    except OSError as error:  # the one that was written is in place all the same
        print(f"{path}, which is superseded, could not be removed: {error.strerror}", flush=True)


def _all(final: Path, exchange: Exchange, act: Callable[[], T]) -> list[T]:
    """What `act` returns on every rank. Raises RunStopped on all of them where it fails on any."""
    made, wrong = None, None
    try:
        made = act()
    except Exception as error:  # whatever it is: a rank that left here alone would keep the others waiting
        wrong = _why(final, error)
    found = exchange((made, wrong))
    for rank, (_, text) in enumerate(found):
        if text is not None:
            raise RunStopped(text if len(found) == 1 else f"{text} (rank {rank})")
    return [each for each, _ in found]


def _why(final: Path, error: Exception) -> str:
    """In words, with the way out."""
    what = f"the checkpoint {final} could not be written"
    if isinstance(error, FileNotFoundError):
        return (
            f"{what}: {error.filename} is gone. Was the run folder removed, or does each machine have one of its own? "
            "It must be on a disk that all share"
        )
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return f"{what}: {error.filename} is in the way ({error.strerror}); move it, then go on with train.resume=auto"
    advised = advice(error) if isinstance(error, OSError) else ""
    said = str(error).partition("\n")[0][:300] or type(error).__name__
    return (
        f"{what}: {said}{_free(final)}{advised or '; make room on its disk'}, then continue from the last whole "
        "checkpoint with train.resume=auto"
    )


def _free(final: Path) -> str:
    try:
        disk = next(path for path in final.parents if path.exists())
        return f" ({shutil.disk_usage(disk).free / 1e9:.1f} GB are free in {disk})"
    except OSError:  # of a server that has gone
        return ""
