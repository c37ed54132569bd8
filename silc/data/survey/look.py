"""What an image file says of itself: format, size, mode, orientation, profile. Its pixels are not decoded.

Bounded as decoding is: by the number of markers in a JPEG, and by what :func:`silc.data.images.pillow.opened` allows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from silc.data.images import exif, jpeg, pillow
from silc.data.shards import Unreadable
from silc.data.survey import profiles

_MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # components of a JPEG, under Pillow's names of modes
_APP2 = 0xE2
_ICC = b"ICC_PROFILE\0"
_SEQUENCE = b"avis"  # brand of an AVIF with several frames, of which the reader is given the first alone
_BITS = 258  # tag of a TIFF
_DEEP = {"I": 16, "F": 32}  # bits of modes that are no bytes
_UNREADABLE = "undecodable image"


class Look(NamedTuple):
    """Of one image.

    Attributes:
        format: JPEG, PNG, WEBP, GIF, BMP, TIFF or AVIF, as Pillow names it.
        width, height: in pixels, as they are stored: an orientation of 5 to 8 changes them round.
        mode: Pillow's: L is grey, P has a palette.
        bits: of a channel.
        alpha: whether some of it may be transparent.
        animated: whether there are more frames or pages than the first.
        orientation: by EXIF, 1 to 8; 1: as it is stored.
        profile: name of its ICC profile; None: it has none.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int
    alpha: bool
    animated: bool
    orientation: int
    profile: str | None


def look(data: bytes | None, max_pixels: int) -> Look:
    """What the header of an image file says.

    Raises:
        Unreadable: no data, no image that training decodes, more than `max_pixels` pixels, or a longer side than
            pillow.MAX_SIDE.
    """
    if data is None:
        raise Unreadable("no image")
    try:
        return _jpeg(data, max_pixels) if data.startswith(b"\xff\xd8") else _other(data, max_pixels)
    except Unreadable:
        raise
    except Exception:  # readers raise nearly any on arbitrary bytes
        raise Unreadable(_UNREADABLE) from None


def _jpeg(data: bytes, max_pixels: int) -> Look:
    header = jpeg.read_header(data)
    if header is None:
        raise Unreadable(_UNREADABLE)
    pillow.check_size(header.width, header.height, max_pixels)
    parts, components, bits = {}, 3, 8
    for code, start, stop in jpeg.segments(data):
        segment = data[start + 2 : stop]
        if code in jpeg.FRAMES and len(segment) > 5:
            bits, components = segment[0], segment[5]
        elif code == _APP2 and segment.startswith(_ICC) and len(segment) > len(_ICC) + 2:
            parts[segment[len(_ICC)]] = segment[len(_ICC) + 2 :]
    profile = b"".join(parts[number] for number in sorted(parts))
    mode = _MODES.get(components, f"{components} components")
    name = profiles.name_of(profile) if parts else None
    return Look("JPEG", header.width, header.height, mode, bits, False, False, exif.of_block(header.exif), name)


def _other(data: bytes, max_pixels: int) -> Look:
    with pillow.opened(data, max_pixels) as image:
        profile = image.info.get("icc_profile")
        name = profiles.name_of(profile) if isinstance(profile, bytes) and profile else None
        return Look(
            str(image.format),
            *image.size,
            image.mode,
            _bits(image, data),
            bool(image.has_transparency_data),
            data[8:12] == _SEQUENCE or _is_animated(image),
            exif.orientation(data),
            name,
        )


def _is_animated(image: Any) -> bool:
    """Readers look at the second frame, which may be damaged where the first, which is used, is whole."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # nearly any
        return True


def _bits(image: Any, data: bytes) -> int:
    """Bits of a channel in the file; Pillow opens deep PNGs in color as 8 bits."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_BITS, (1,))))
    if image.mode.startswith("I;16"):
        return 16
    return _DEEP.get(image.mode, 8)
