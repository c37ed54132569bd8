"""The folders of the runs: whether one holds the run that is asked for, who trains in it, and what is kept of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from silc import config_io
from silc.claims.eval_sets import FOLDER, EvalSet
from silc.claims.plan import Run
from silc.config import Config
from silc.evaluate.results import NAME, read_results
from silc.train import checkpoint, manifest
from silc.train.same_run import without_effect

# What a run writes on its way. Not log_every: a run that watches its losses goes back by what it logs.
WRITTEN = (
    *("save_every", "save_minutes", "save_in_background", "keep_checkpoints", "keep_every"),
    *("tensorboard", "wandb_project", "peak_tflops"),
)
# What may differ between a run that is there and the one asked for; with other words of eval it is measured again.
FREE = {
    "train": ("resume", "out", *WRITTEN),
    "data": ("workers", "worker_start", "store_minutes", "cache", "cache_gb", "allow_changed"),
}
FREE_SECTIONS = ("preset", "unverified", "notes", "eval")


def differences(saved: Config, wanted: Config) -> list[str]:
    """Keys in which two runs differ that should be the same."""
    one, other = config_io.to_dict(saved), config_io.to_dict(wanted)
    free = {f"{section}.{name}" for section, names in FREE.items() for name in names}
    free |= without_effect(saved) & without_effect(wanted)
    return [
        key
        for key in config_io.valid_keys()
        if key not in free and key.split(".")[0] not in FREE_SECTIONS and _at(one, key) != _at(other, key)
    ]


def _at(tree: dict, key: str) -> object:
    for name in key.split("."):
        tree = tree[name]
    return tree


def others(run: Run) -> list[str]:
    """Keys in which the run in this run's folder is another one; none where there is none.

    Raises ValueError for weights or an evaluation without the configuration that tells whose they are.
    """
    path = run.folder / "config.yaml"
    if path.is_file():
        return differences(config_io.load_config(path), run.config)
    if any((run.folder / name).exists() for name in ("checkpoints", FOLDER, NAME)):
        raise ValueError("has no config.yaml")
    return []


def check(run: Run, sets: Iterable[EvalSet]) -> None:
    """Raises ValueError for a run whose folder holds another one, or what cannot be told, or is in use.

    sets: on which it is to be measured. To have figures on a new one of a run without weights it would be trained
    again, and its figures be written over.
    """
    try:
        found = others(run)
    except ValueError as error:
        raise ValueError(
            f"{run.folder} holds a run that cannot be told ({error}); complete it, or remove that folder"
        ) from None
    if found:
        raise ValueError(
            f"{run.folder} holds a run with another {', '.join(found)}; take another --out, or remove that folder"
        )
    if figures_alone(run):
        for one in sets:
            if why := one.missing(run):
                raise ValueError(
                    f"{run.folder} holds the figures of a run but not its weights, so it cannot be measured again, and "
                    f"the figures on {one.name} are missing ({why}): change back the words, leave that run out by "
                    "--seeds or --variants, add --collect for the pages alone, or take another --out"
                )
    if pids := busy(run):
        raise ValueError(
            f"{run.folder} is being trained by process {pids[0]}: wait for it, or stop it "
            f"(pkill -TERM -f train.out={run.folder})"
        )


def busy(run: Run) -> list[int]:
    """Processes of this machine that train into the run's folder: a launcher that dies leaves its trainers behind."""
    word = f"train.out={run.config.train.out}"
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            same = word in words and (path / "cwd").resolve() == Path.cwd()
        except OSError:  # it ended meanwhile, or is someone else's
            continue
        if same and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def trained(run: Run) -> bool:
    """Whether the weights of the run's last step are there."""
    return (checkpoint.place(run.folder, run.config.train.steps) / manifest.NAME).is_file()


def figures_alone(run: Run) -> bool:
    """Whether a folder holds figures of the whole run and not its weights, as where only the figures were copied."""
    if trained(run):
        return False
    kept = read_results(run.folder)
    if kept is not None:
        return kept.step == run.config.train.steps  # a run that was measured on its way goes on
    return any((run.folder / name).exists() for name in (NAME, FOLDER)) and not (run.folder / "checkpoints").exists()


def keep_weights(run: Run) -> None:
    """Of a trained run, remove all that measuring it does not need: a third of the last checkpoint stays.

    That is student and teacher in fp32 and the configuration. Interrupted, it goes on where it was. Raises OSError, and
    ValueError for a checkpoint that is damaged.
    """
    last = checkpoint.place(run.folder, run.config.train.steps)
    files = manifest.read(last).files
    kept = {name: one for name, one in files.items() if not name.startswith("engine/")}
    if len(kept) < len(files):
        manifest.write(last, run.config.train.steps, kept)  # first: what it does not name may be gone
    earlier = [path for path in (run.folder / "checkpoints").glob("step_*") if path != last]
    for folder in (last / "engine", run.folder / "open_clip", *earlier):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
