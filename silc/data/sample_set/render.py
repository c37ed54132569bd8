"""Rendering of the sample set, on all processors: embedded drawings in, WebDataset shards and an index per split out.

Scene i of a split is a pure function of (seed, split, i), so the result depends neither on the number of processes nor
on how scenes are cut into shards.
"""

from __future__ import annotations

import bz2
import functools
import io
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from silc.data.sample_set.captions import web_caption
from silc.data.sample_set.concepts import SPLITS, concept_names, split_artists
from silc.data.sample_set.scenes import OPAQUE, Drawing, Scene, draw_scene
from silc.processes import end_with, known

DRAWINGS = Path(__file__).with_name("drawings")
SHARD = 500  # scenes a shard
JPEG_QUALITY = 92


@dataclass(frozen=True)
class SplitPlan:
    """What the scenes of a split are composed from.

    Attributes:
        split: its name.
        names, labels: names and emoji labels of the concepts; a concept_id is an index into both.
        drawings: for each concept that has any, its drawings.
        scenes: number of scenes.
        singles: the first `singles` scenes show one object, dealt evenly to concepts and then artists; the others show
            a random number of random objects (in an evaluation split: two or more).
        settings: of the whole set.
    """

    split: str
    names: list[str]
    labels: list[str]
    drawings: list[list[Drawing]]
    scenes: int
    singles: int
    settings: dict[str, Any]

    def index(self, shards: list[dict[str, Any]]) -> dict[str, Any]:
        """The content of index.json."""
        return {
            "split": self.split,
            "class_names": self.names,
            "labels": self.labels,
            "artists": sorted({drawing.artist for row in self.drawings for drawing in row}),
            "drawings": sum(map(len, self.drawings)),
            "scenes": self.scenes,
            "shards": shards,
            "settings": self.settings,
        }


def render_splits(folder: Path, settings: dict[str, Any]) -> None:
    """Render every split into a folder beside `folder`, which takes that name when it is complete."""
    scratch = folder.with_suffix(".partial")
    if scratch.exists():  # left by an interrupted rendering: the caller holds the lock
        shutil.rmtree(scratch)
    plans = plan_splits(settings)
    for plan in plans:
        (scratch / plan.split).mkdir(parents=True)
    total = sum(plan.scenes for plan in plans)
    print(f"sample set: rendering {total} scenes into {folder} (once)", flush=True)
    shards: dict[str, dict[int, dict[str, Any]]] = {split: {} for split in SPLITS}
    before = set(multiprocessing.active_children())
    # fork: the drawings are shared, not sent, and the children use NumPy and Pillow only.
    with (
        tqdm(total=total, unit="scene", file=sys.stdout) as bar,
        ProcessPoolExecutor(
            len(os.sched_getaffinity(0)), multiprocessing.get_context("fork"), _set_worker, (plans, scratch)
        ) as pool,
    ):
        tasks = [(n, first) for n, plan in enumerate(plans) for first in range(0, plan.scenes, SHARD)]
        try:
            futures = {pool.submit(_render_shard, *task): task for task in tasks}
            for future in as_completed(futures):
                number, first = futures[future]
                shards[plans[number].split][first] = future.result()
                bar.update(future.result()["scenes"])
        except BaseException:  # an interrupt too: leaving the pool would wait for all of them
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for plan in plans:
        ordered = [shard for _, shard in sorted(shards[plan.split].items())]
        text = json.dumps(plan.index(ordered), indent=1, ensure_ascii=False) + "\n"
        (scratch / plan.split / "index.json").write_text(text, encoding="utf-8")
    scratch.rename(folder)


def plan_splits(settings: dict[str, Any]) -> list[SplitPlan]:
    """The plans of all splits, in the order of SPLITS."""
    stored = read_drawings()
    train, held_out = concept_names(settings["concepts"], list(stored))
    trained, unseen = split_artists(settings["unseen"])
    plans = []
    for split in SPLITS:
        names = held_out if split in ("unseen_concept", "both") else train
        artists = unseen if split in ("unseen_artist", "both") else trained
        rows = [
            [Drawing(cut_out(stored[label][artist]), i, name, artist) for artist in artists if artist in stored[label]]
            for i, (label, name) in enumerate(names.items())
        ]
        scenes = settings["scenes_train" if split == "train" else "scenes_eval"]
        plans.append(
            SplitPlan(
                split=split,
                names=list(names.values()),
                labels=list(names),
                drawings=[row for row in rows if row],
                scenes=scenes,
                singles=0 if split == "train" else scenes // 2,
                settings=settings,
            )
        )
    return plans


@functools.cache
def read_drawings() -> dict[str, dict[str, bytes]]:
    """Emoji label -> artist -> WebP data of every embedded drawing; labels in the order of their code points."""
    found: dict[str, dict[str, dict[str, bytes]]] = {}
    for shard in sorted(DRAWINGS.glob("*.tar.bz2")):
        with tarfile.open(fileobj=io.BytesIO(bz2.decompress(shard.read_bytes()))) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None  # they are all regular files
                data = file.read()
                if member.name.endswith(".json"):  # comes before its image
                    meta = json.loads(data)
                else:
                    found.setdefault(meta["hexcode"], {}).setdefault(meta["concept"], {})[meta["artist"]] = data
    return {label: by_artist for _, named in sorted(found.items()) for label, by_artist in named.items()}


def cut_out(webp: bytes) -> np.ndarray:
    """The drawing without its transparent margin, uint8 [h, w, 4], RGBA."""
    image = Image.open(io.BytesIO(webp)).convert("RGBA")
    box = image.getchannel("A").point([255 * (alpha >= OPAQUE) for alpha in range(256)]).getbbox()
    return np.asarray(image.crop(box))


def choose_drawings(rng: np.random.Generator, plan: SplitPlan, index: int) -> list[Drawing]:
    """The objects of scene `index`, each of another concept."""
    concepts = len(plan.drawings)
    if index < plan.singles:
        artists = plan.drawings[index % concepts]
        return [artists[index // concepts % len(artists)]]
    shares = np.array(plan.settings["objects"])
    if plan.singles:
        shares[0] = 0
    count = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
    rows = [plan.drawings[i] for i in rng.choice(concepts, count, replace=False)]
    return [artists[int(rng.integers(len(artists)))] for artists in rows]


def encode_scene(scene: Scene, drawings: list[Drawing], plan: SplitPlan) -> dict[str, bytes]:
    """The members of a sample, by extension."""
    image, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(scene.image).save(image, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    depth = np.uint8 if len(plan.names) < 256 else np.uint16
    Image.fromarray(scene.mask.astype(depth)).save(mask, "PNG")
    info = {
        "objects": len(drawings),
        "concepts": [drawing.name for drawing in drawings],
        "concept_ids": [drawing.concept_id for drawing in drawings],
        "artists": [drawing.artist for drawing in drawings],
        "boxes": scene.boxes,
        "visible": scene.visible,
        "split": plan.split,
    }
    if plan.singles and len(drawings) == 1:  # zero-shot classification is measured on these
        info["class"] = drawings[0].concept_id
    return {
        "jpg": image.getvalue(),
        "txt": scene.caption.encode(),
        "json": json.dumps(info, ensure_ascii=False).encode(),
        "mask.png": mask.getvalue(),
    }


def _web_caption(plan: SplitPlan, number: int, index: int, drawings: list[Drawing]) -> str:
    """Of a generator of its own: the image is the one that a clean set has."""
    settings = plan.settings
    rng = np.random.default_rng([settings["seed"], number, index, 1])
    if len(plan.drawings) > 1 and plan.scenes > 1 and rng.random() < settings["mismatched"]:
        other = (index + 1 + int(rng.integers(plan.scenes - 1))) % plan.scenes
        drawings = choose_drawings(np.random.default_rng([settings["seed"], number, other]), plan, other)
    return web_caption(rng, [drawing.name for drawing in drawings], settings["left_out"])


_worker: tuple[list[SplitPlan], Path]  # of a process of the pool


def _set_worker(plans: list[SplitPlan], folder: Path) -> None:
    global _worker
    _worker = (plans, folder)
    end_with(known(os.getppid()))


def _render_shard(number: int, first: int) -> dict[str, Any]:
    """Write the scenes [first, first + SHARD) of a split as a shard; returns its entry in the index."""
    plans, folder = _worker
    plan = plans[number]
    last = min(first + SHARD, plan.scenes)
    name = f"{first // SHARD:05d}.tar"
    with tarfile.open(folder / plan.split / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(first, last):
            rng = np.random.default_rng([plan.settings["seed"], number, index])
            drawings = choose_drawings(rng, plan, index)
            scene = draw_scene(rng, drawings, plan.settings["size"])
            if plan.split == "train" and plan.settings["captions"] == "web":
                scene = replace(scene, caption=_web_caption(plan, number, index, drawings))
            for extension, data in encode_scene(scene, drawings, plan).items():
                member = tarfile.TarInfo(f"{plan.split}-{index:06d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return {"name": name, "scenes": last - first}
