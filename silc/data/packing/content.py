"""The extension of an image by its first bytes: names of files lie, and tell the reader of a shard what to expect."""

from __future__ import annotations

from silc.data.images import avif

_BEGINNINGS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"II+\0": "tif",
    b"MM\0+": "tif",
}
EXTENSIONS = ("jpg", "png", "webp", "gif", "bmp", "tif", "avif")


def extension(data: bytes) -> str | None:
    """One of EXTENSIONS; None for anything else."""
    for beginning, name in _BEGINNINGS.items():
        if data.startswith(beginning):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "avif" if avif.is_avif(data) and _names_avif(data) else None


def _names_avif(data: bytes) -> bool:
    """Whether the file-type box names AVIF, as its major brand or a compatible one: HEIC is of the same family."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    return b"avif" in brands or b"avis" in brands
