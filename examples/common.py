"""What the examples share: the trained model and some images to try it on."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import webdataset as wds
from PIL import Image

import silc
from silc.data.sample_set import default_root, ensure_sample
from silc.evaluate.datasets import sample_settings
from silc.pretrained import Model

IMAGES = {".jpg", ".jpeg", ".png", ".webp"}


def load_run(path: str) -> Model:
    """The model of a run folder, checkpoint or export; ends with a message where there is none."""
    if not Path(path).exists():
        sys.exit(f"{path} is missing; train it with `silc train` (some minutes on a CPU), or give another --run")
    try:
        return silc.load(path)
    except ValueError as error:
        sys.exit(str(error))


def some_images(model: Model, folder: str | None, count: int) -> tuple[list[str], list[Image.Image]]:
    """Names and images: those of a folder, or of the sample set's drawings by an artist that training has not seen."""
    if folder is not None:
        files = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in IMAGES)[:count]
        return [str(file) for file in files], [Image.open(file) for file in files]
    data = model.config.data
    sample = ensure_sample(default_root(), **sample_settings(data))
    scenes = wds.WebDataset(sample.shards("unseen_artist"), shardshuffle=False).decode("pil").to_tuple("txt", "jpg")
    names, images = zip(*itertools.islice(scenes, count), strict=True)
    return list(names), list(images)
