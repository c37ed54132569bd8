"""Shards with planted damage, odd images and repeats, for the tests of check and show."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from tests.data.shards import tars

SIZE = (40, 30)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image of a few colored fields, another one for each seed."""
    values = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pair(key: str, image: bytes | None, caption: str | bytes | None, extension: str = "jpg") -> list[tars.Entry]:
    """The files of a sample."""
    entries: list[tars.Entry] = []
    if image is not None:
        entries.append((f"{key}.{extension}", image))
    if caption is not None:
        entries.append((f"{key}.txt", caption.encode() if isinstance(caption, str) else caption))
    return entries


def whole(count: int, seed: int = 0) -> list[tars.Entry]:
    """Samples that are in order."""
    return [
        each for i in range(count) for each in pair(f"{i:04}", encoded(picture(seed + i)), f"thing {i} of set {seed}")
    ]


def lab() -> bytes:
    """A profile that is not sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def odd() -> dict[str, bytes]:
    """Images that are whole, and of a kind of their own."""
    turned = Image.Exif()
    turned[0x0112] = 6
    seethrough = picture(5).convert("RGBA")
    seethrough.putalpha(100)
    return {
        "turned.jpg": encoded(picture(1), exif=turned),
        "cmyk.jpg": encoded(picture(2).convert("CMYK")),
        "grey.jpg": encoded(picture(3).convert("L")),
        "profile.jpg": encoded(picture(4), icc_profile=lab()),
        "alpha.png": encoded(seethrough, "PNG"),
        "deep.png": encoded(Image.fromarray(np.asarray(picture(6).convert("L")).astype(np.uint16) * 257), "PNG"),
        "moving.webp": encoded(picture(7), "WEBP", save_all=True, append_images=[picture(8)]),
    }


def write(folder: Path, shards: list[list[tars.Entry] | bytes]) -> list[str]:
    """Shards of such entries, or of such bytes; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, entries in enumerate(shards):
        path = folder / f"{number:05}.tar"
        path.write_bytes(entries if isinstance(entries, bytes) else tars.pack(entries))
        paths.append(str(path))
    return paths
