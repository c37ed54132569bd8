"""Images of every format that Pillow writes, damaged at random, and what decoding them must keep to."""

from __future__ import annotations

import io
import random
import resource
import time
from collections import Counter
from functools import cache

import numpy as np
from PIL import Image

from silc.data.images import avif
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from silc.data.splits import decode_mask, numbered_from_zero
from tests.data.images import avif_boxes

SIDES = 97, 61
LIMIT = 4 * SIDES[0] * SIDES[1]  # pixels
SECONDS = 5.0  # for an image that takes a millisecond
GROWTH = 64 << 20  # bytes of the process, over a piece of fuzzing
READ = {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"}
TAGS = Image.Exif()
TAGS[274] = 6
NUMBERS = (0, 1, 2, 7, 8, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def seeds() -> dict[str, bytes]:
    """Small files of every kind that is read, and of some that are not."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(SIDES, Image.Resampling.BICUBIC)
    clear = rgb.convert("RGBA")
    clear.putalpha(rgb.convert("L"))
    grey, palette = rgb.convert("L"), rgb.quantize(9)
    deep = np.asarray(grey).astype(np.uint16) * 257
    tiffs = {
        f"tiff {name}": encode(image, "TIFF", compression=how)
        for how in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        for name, image in ((f"rgb {how}", rgb), (f"grey {how}", grey))
    }
    return tiffs | {
        "jpeg": encode(rgb, "JPEG", exif=bytes(100)),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True, restart_marker_blocks=3),
        "jpeg cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "png": encode(rgb, "PNG"),
        "png alpha": encode(clear, "PNG"),
        "png palette": encode(palette, "PNG", transparency=2),
        "png 16": encode(Image.fromarray(deep), "PNG"),
        "png animated": encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "webp": encode(rgb, "WEBP"),
        "webp alpha": encode(clear, "WEBP", lossless=True),
        "webp animated": encode(clear, "WEBP", save_all=True, append_images=[clear.rotate(180)]),
        "gif": encode(palette, "GIF", comment="a" * 300),
        "gif animated": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "avif": encode(rgb, "AVIF"),
        "avif alpha": encode(clear, "AVIF", exif=TAGS.tobytes()),
        "avif animated": encode(rgb, "AVIF", save_all=True, append_images=[rgb.rotate(180)]),
        "bmp": encode(rgb, "BMP"),
        "bmp palette": encode(palette, "BMP"),
        "tiff deep": encode(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "tiff float": encode(Image.fromarray(np.float32(deep) / 65535), "TIFF"),
        **_others(rgb),
    }


def _others(image: Image.Image) -> dict[str, bytes]:
    """A file in each other format that Pillow writes; as few are read, each counts once."""
    Image.init()
    found: dict[str, bytes] = {}
    for kind in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1"):
            try:
                found[kind.lower()] = encode(image.convert(mode), kind)
                break
            except (OSError, ValueError):  # a mode that the format has not, or a format that Pillow only hands on
                continue
    return {name: data for name, data in found.items() if name.upper() not in READ}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One or two changes: bytes, numbers, cuts, repeats, and most of them near the beginning, where headers are."""
    if avif.is_avif(data) and rng.random() < 0.3:
        return avif_boxes.drawn(seeds()["avif"], rng)  # a change of some bytes rarely makes a list of another length
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        end = len(found) if rng.random() < 0.4 else min(len(found), rng.choice((40, 200, 700)))
        at = rng.randrange(max(1, end))
        kind = rng.randrange(7)
        if kind == 0:
            found[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            size, order = rng.choice((2, 4)), rng.choice(("big", "little"))
            found[at : at + size] = (rng.choice(NUMBERS) % 256**size).to_bytes(size, order)
        elif kind == 2:
            del found[at : at + rng.randrange(1, 40)]
        elif kind == 3:
            found[at:at] = found[at : at + rng.randrange(1, 300)] * rng.choice((1, 1, 1, 200))
        elif kind == 4:
            found[at:at] = bytes([0xFF, rng.randrange(256)])
        elif kind == 5:
            _lie(found, rng)
        else:
            del found[at:]
    return bytes(found)


def _lie(data: bytearray, rng: random.Random) -> None:
    """Another number where a side stands, if one is found."""
    size, order = rng.choice((2, 4)), rng.choice(("big", "little"))
    side = rng.choice((*SIDES, *(side - 1 for side in SIDES))).to_bytes(size, order)
    at = data.find(side)
    if at >= 0:
        data[at : at + size] = (rng.choice(NUMBERS) % 256**size).to_bytes(size, order)


def check(data: bytes) -> tuple[str, str]:
    """What comes of a file as an image and as a mask: "decoded", or why it is refused. Raises AssertionError for
    anything but a decoded image within LIMIT, or a refusal in words, in SECONDS."""
    started = time.perf_counter()
    outcomes: list[str] = []
    lengths: list[int] = []
    for decode, refused in (
        (lambda: decode_image(data, LIMIT, upright=True), Unreadable),
        (lambda: decode_mask(data, numbered_from_zero(256), 256, "m", LIMIT), (Unreadable, ValueError)),
    ):
        try:
            found = decode()
            assert 0 < found.shape[0] * found.shape[1] <= LIMIT, found.shape
            outcomes.append("decoded")
        except refused as error:
            outcomes.append(str(error) if isinstance(error, Unreadable) else "refused")
            lengths.append(len(str(error)))
    assert all(0 < length < 300 for length in lengths)
    seconds = time.perf_counter() - started
    assert seconds < SECONDS, f"{seconds:.0f} s"
    return outcomes[0], outcomes[1]


def fuzz(count: int, seed: int) -> Counter[tuple[str, str]]:
    """Check `count` damaged files. Returns how many of a format came to what, as an image and ("mask: ...") as a mask.

    Raises AssertionError, with the file's number and kind in its notes.
    """
    outcomes: Counter[tuple[str, str]] = Counter()
    kinds = sorted(seeds())
    for kind in kinds:
        check(seeds()[kind])  # so that what is loaded with the first use does not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        kind = rng.choice(kinds)
        try:
            image, mask = check(mutated(seeds()[kind], rng))
        except Exception as error:
            error.add_note(f"file {number} of seed {seed}: {kind}")
            raise
        outcomes.update([(kind.split()[0].upper(), image), (kind.split()[0].upper(), f"mask: {mask}")])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < GROWTH, f"{grown >> 20} MiB"
    return outcomes
