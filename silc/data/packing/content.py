"""The extension of an image by its first bytes: names of files lie, and tell the reader of a shard what to expect."""

from __future__ import annotations

from silc.data.images.pillow import format_of

_NAMES = {"PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"}
_JPEG = b"\xff\xd8\xff"
EXTENSIONS = ("jpg", "png", "webp", "gif", "bmp", "tif", "avif")


def extension(data: bytes) -> str | None:
    """One of EXTENSIONS; None for anything else."""
    if data.startswith(_JPEG):
        return "jpg"
    kind = format_of(data)
    return None if kind is None or (kind == "AVIF" and not _names_avif(data)) else _NAMES[kind]


def _names_avif(data: bytes) -> bool:
    """Whether the file-type box names AVIF, as its major brand or a compatible one: HEIC is of the same family."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    return b"avif" in brands or b"avis" in brands
