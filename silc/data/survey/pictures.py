"""The images of a contact sheet, decoded as training sees them and made small, with what is to be said of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from silc.config import Config
from silc.data.captions import CaptionReader
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from silc.data.shards.manifest import Manifest
from silc.data.shards.reader import Place, Unusable
from silc.data.shards.samples import Sample
from silc.data.survey import sampling
from silc.data.survey.look import look

SIDE = 320  # pixels of the longer side, at most


@dataclass(frozen=True)
class Picture:
    """A sample as it is shown.

    Attributes:
        key: shard/key.
        pixels: uint8 [h, w, 3], at most SIDE a side; None where the image cannot be used.
        captions: of the sample.
        about: size and format, as `640 x 480 JPEG`.
        wrong: why training skips it; empty where it does not.
    """

    key: str
    pixels: np.ndarray | None
    captions: list[str]
    about: str
    wrong: str


def pictures(manifest: Manifest, config: Config, wanted: Sequence[Place]) -> list[Picture]:
    """The samples of these places, in order. Raises StoreFailed."""
    images = [image.lower() for image in config.data.image_keys]
    reader = CaptionReader(config.data.caption_key, lines=config.data.caption_lines)
    return [_picture(key, sample, images, reader, config) for key, sample in sampling.read(manifest, wanted)]


def _picture(
    key: str, sample: Sample | Unusable, images: Sequence[str], reader: CaptionReader, config: Config
) -> Picture:
    if isinstance(sample, Unusable):
        return Picture(key, None, [], "", sample.reason)
    captions, pixels, about, wrong = list[str](), None, "", list[str]()
    try:
        captions = reader.read(sample.column([reader.extension]))
    except Unreadable as error:
        wrong.append(str(error))
    data = sample.column(images)
    try:
        whole = decode_image(data, config.data.max_image_pixels, upright=config.data.upright).numpy()
        pixels = _small(whole)
        about = f"{whole.shape[1]} x {whole.shape[0]} {look(data, config.data.max_image_pixels).format}"
    except Unreadable as error:
        wrong.append(str(error))
    return Picture(key, pixels, captions, about, ", ".join(dict.fromkeys(wrong)))


def _small(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    width, height = image.size
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(image if scale == 1 else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
