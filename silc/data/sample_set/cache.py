"""The cache of the sample set: scenes composed from the embedded drawings, rendered once into WebDataset shards.

    {root}/{concepts}-{settings}/{split}/index.json, 00000.tar, 00001.tar, ...
        {key}.jpg         the image
        {key}.txt         its caption
        {key}.mask.png    class of each pixel: 0 background, i the class i - 1 of the split
        {key}.json        objects (their number), concepts, concept_ids, artists, boxes, visible, split

Splits: "train"; "unseen_artist", the training concepts by artists that no training scene shows; "unseen_concept",
concepts that no training scene shows, by the training artists; "both"; "new_scenes", training concepts and artists in
scenes of their own. In all but the first, half of the scenes show one object, dealt evenly to concepts and then
artists: zero-shot classification is measured on those.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from silc.data.sample_set.concepts import SPLITS, split_artists
from silc.data.sample_set.render import DRAWINGS, render_splits
from silc.data.sample_set.scenes import SHARED_SCALE

Concepts = Literal["default", "all"]
Captions = Literal["clean", "web"]


@dataclass(frozen=True)
class SampleSet:
    """A rendered sample set.

    Attributes:
        folder: contains one folder for each split.
    """

    folder: Path

    def index(self, split: str) -> dict[str, Any]:
        """The split's index.json: class_names, labels, artists, drawings, scenes, shards, settings and their sha256."""
        return json.loads((self._split(split) / "index.json").read_text(encoding="utf-8"))

    def shards(self, split: str) -> list[str]:
        """Paths of the split's shards, in order."""
        return [str(self._split(split) / shard["name"]) for shard in self.index(split)["shards"]]

    def class_names(self, split: str) -> list[str]:
        """Names of the split's concepts; concept_ids in a scene's json are indices into them, masks have index + 1."""
        return self.index(split)["class_names"]

    def _split(self, split: str) -> Path:
        if split not in SPLITS:
            raise ValueError(f'split "{split}": choose one of {", ".join(SPLITS)}')
        return self.folder / split


def default_root() -> Path:
    """The folder of rendered sample sets: the environment variable SILC_DATA, or ./data/sample."""
    return Path(os.environ.get("SILC_DATA", "data/sample"))


def ensure_sample(
    root: Path,
    *,
    concepts: Concepts = "default",
    size: int = 96,
    scenes_train: int = 24_000,
    scenes_eval: int = 1024,
    captions: Captions = "clean",
    left_out: float = 0.5,
    mismatched: float = 0.2,
    objects: Sequence[float] = (0.65, 0.2, 0.1, 0.05),
    unseen: Sequence[str] = ("emojione",),
    seed: int = 0,
) -> SampleSet:
    """The sample set under `root`, rendered now unless one with these settings exists.

    Several processes may call this at once: one renders, the others wait for it. A set gets its name only when it is
    complete; sets with other settings are kept.

    Args:
        root: folder of rendered sets; made if missing.
        concepts: "default", 128 concrete things (24 more held out), or "all", some 1,500.
        size: side of an image in pixels, at least 16.
        scenes_train: scenes of the training split.
        scenes_eval: scenes of each other split, half of them with one object.
        captions: of the training split: "clean", each names every object, or "web", some objects are left out and
            some captions are another image's. Images, and all of the other splits, are the same.
        left_out: in web captions, probability that an object is not named; one always is.
        mismatched: of web captions, the share that is another image's.
        objects: shares of the scenes with one, two, ... objects, at most eight numbers; an evaluation split has its
            single objects apart, so that there the first share counts as 0.
        unseen: artists of the splits unseen_artist and both; no training scene shows one of them, nor EmojiOne.
        seed: of every random choice.

    Raises:
        ValueError: an argument out of range.
    """
    for name, value, least in (("size", size, 16), ("scenes_train", scenes_train, 1), ("scenes_eval", scenes_eval, 2)):
        if value < least:
            raise ValueError(f"{name} is {value}: at least {least} is needed")
    _check_shares(left_out, mismatched, objects)
    split_artists(unseen)
    settings = {
        "concepts": concepts,
        "size": size,
        "scenes_train": scenes_train,
        "scenes_eval": scenes_eval,
        "captions": captions,
        **({"left_out": left_out, "mismatched": mismatched} if captions == "web" else {}),
        "objects": [share / sum(objects) for share in objects],
        "unseen": sorted(unseen),
        "seed": seed,
        "recipe": _recipe_digest(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = Path(root) / f"{concepts}-{digest[:8]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(folder.with_suffix(".lock")):
            if not folder.is_dir():
                render_splits(folder, settings | {"sha256": digest})
    return SampleSet(folder)


def _check_shares(left_out: float, mismatched: float, objects: Sequence[float]) -> None:
    for name, value in (("left_out", left_out), ("mismatched", mismatched)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: give a share between 0 and 1")
    most = max(SHARED_SCALE)
    if not 2 <= len(objects) <= most or min(objects) < 0 or not sum(objects[1:]) > 0:
        raise ValueError(
            f"objects is {list(objects)}: give 2 to {most} shares of the scenes with one, two, ... objects, none "
            "negative, and some for two or more"
        )


def _recipe_digest() -> str:
    """Changes with the embedded drawings and the code that composes them, so that a stale set is never used."""
    folder = Path(__file__).parent
    sources = [
        *(folder / name for name in ("captions.py", "concepts.py", "render.py", "scenes.py")),
        DRAWINGS / "manifest.json",
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)).hexdigest()


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold the lock file; the system frees it if this process dies."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"sample set: another process is rendering it, waiting ({lock})", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
