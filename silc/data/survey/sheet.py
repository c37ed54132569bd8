"""A contact sheet as PNG: images in a grid, their captions below. Letters that the font lacks show as boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from silc.data.survey.pictures import Picture
from silc.files import replacing

CELL, MARGIN, LINE = 200, 12, 15  # pixels: side of an image's square, room around it, height of a line
CAPTION_LINES = 4
COLUMNS = 6
LONGEST = 400  # characters of a caption that are drawn, at most
INK, SOFT, BAD, PANEL, PAGE = (27, 31, 36), (87, 96, 106), (180, 35, 24), (244, 246, 248), (255, 255, 255)
# Controls, and marks that turn the direction of a text or join it: nothing a font has a glyph for.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\uffff]+")
# Looked for among the fonts of the system, since Pillow's own has letters of English alone.
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(pictures: Sequence[Picture], title: str, path: Path, font_file: Path | None = None) -> None:
    """Write the sheet.

    Args:
        pictures: n of them, in rows of COLUMNS.
        title: above the grid.
        path: of the PNG; its folder must exist.
        font_file: TrueType or OpenType; None: the first of FONTS that is installed, or else Pillow's own.

    Raises OSError.
    """
    columns = max(1, min(COLUMNS, len(pictures)))
    rows = -(-len(pictures) // columns)
    height = CELL + (CAPTION_LINES + 2) * LINE + MARGIN
    size = max(columns, 3) * (CELL + MARGIN) + MARGIN, 40 + rows * height + MARGIN
    sheet = Image.new("RGB", size, PAGE)
    pen, font, bold = ImageDraw.Draw(sheet), font_of(12, font_file), font_of(16, font_file)
    pen.text((MARGIN, 12), fitted(title, bold, sheet.width - 2 * MARGIN), fill=INK, font=bold)
    for number, picture in enumerate(pictures):
        left = MARGIN + number % columns * (CELL + MARGIN)
        _draw_one(sheet, pen, picture, left, 40 + number // columns * height, font)
    with replacing(path) as draft:
        sheet.save(draft, "PNG")


def font_of(size: int, file: Path | None) -> Font:
    """The font of a sheet, so many pixels high. Raises ValueError for a file that is no font."""
    if file is not None:
        try:
            return ImageFont.truetype(str(file), size)
        except OSError:
            raise ValueError(f"{file} is no font that can be read; give a TrueType or OpenType file") from None
    for name in FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _draw_one(sheet: Image.Image, pen: ImageDraw.ImageDraw, picture: Picture, left: int, top: int, font: Font) -> None:
    pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=PANEL)
    if picture.pixels is not None:
        image = Image.fromarray(np.ascontiguousarray(picture.pixels))
        scale = CELL / max(image.size)  # small images are shown larger
        width, height = (max(1, round(side * scale)) for side in image.size)
        drawn = image.resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(drawn, (left + (CELL - width) // 2, top + (CELL - height) // 2))
    lines = [(line, INK) for line in wrapped(_words(picture), font, CELL, CAPTION_LINES)]
    if picture.wrong:
        lines = [*lines[: CAPTION_LINES - 1], (picture.wrong, BAD)]
    lines += [(picture.about, SOFT), (picture.key, SOFT)]
    for number, (line, color) in enumerate(line for line in lines if line[0]):
        pen.text((left, top + CELL + 4 + LINE * number), fitted(line, font, CELL), fill=color, font=font)


def _words(picture: Picture) -> str:
    if not picture.captions:
        return ""
    more = len(picture.captions) - 1
    return picture.captions[0][:LONGEST] + (f" (and {more:,} more)" if more else "")


def seen(text: str) -> str:
    """On one line, without what has no glyph; halves of surrogate pairs as question marks."""
    plain = _UNSEEN.sub(" ", text[: 4 * LONGEST]).encode("utf-8", "replace").decode("utf-8")
    return " ".join(plain.split())[:LONGEST]


def fitted(text: str, font: Font, width: int) -> str:
    """On one line, cut to a width in pixels."""
    line = seen(text)
    if len(text) <= 4 * LONGEST and font.getlength(line) <= width:
        return line
    line = line[: _fits(line, font, width - font.getlength("..."))] if line else line
    while line and font.getlength(line + "...") > width:  # letters that stand together may be wider than each alone
        line = line[:-1]
    return line + "..."


def wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """In at most so many lines of a width in pixels, broken at spaces; a word that is wider is broken anywhere."""
    lines: list[str] = []
    rest = seen(text)
    while rest and len(lines) < most - 1:
        end = _fits(rest, font, width)
        if end < len(rest) and (space := rest.rfind(" ", 0, end + 1)) > 0:
            end = space
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*lines, fitted(rest, font, width)] if rest else lines


def _fits(text: str, font: Font, width: float) -> int:
    """How many characters, at least one, fit a width."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low
