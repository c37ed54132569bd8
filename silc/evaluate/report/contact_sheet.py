"""A PNG of held-out images with the captions that the model finds closest: for a first look at a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, TEXT, MARGIN = 160, 78, 8
LONGEST = 500  # characters of a text that may fit a line
RIGHT, WRONG, INK = (20, 120, 50), (170, 40, 40), (30, 30, 30)


def draw(
    images: Sequence[Tensor],
    truths: Sequence[Sequence[str]],
    guesses: Sequence[Sequence[tuple[str, float]]],
    title: str,
    path: Path,
    columns: int = 6,
) -> None:
    """Write a grid of cells of one size.

    Args:
        images: n of uint8 [3, h, w], shown as squares.
        truths: n lists of the image's own captions; the first is shown.
        guesses: n lists of (caption, similarity), best first.
        title: above the grid.
        path: of the PNG; its folder is made.
        columns: cells in a row.

    A caption under an image is green if it is one of the image's own, red otherwise.
    """
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, rows * (CELL + TEXT + MARGIN) + MARGIN + 24), "white")
    pen, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(11), ImageFont.load_default(14)
    pen.text((MARGIN, 6), fit(title, bold, sheet.width - 2 * MARGIN), fill=INK, font=bold)
    for i, (image, truth, found) in enumerate(zip(images, truths, guesses, strict=True)):
        x, y = MARGIN + (i % columns) * (CELL + MARGIN), 24 + MARGIN + (i // columns) * (CELL + TEXT + MARGIN)
        drawn = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        sheet.paste(drawn.resize((CELL, CELL), Image.Resampling.BICUBIC), (x, y))
        lines = [(f"is: {truth[0]}", INK)]
        lines += [
            (f"{similarity:.2f} {caption}", RIGHT if caption in truth else WRONG) for caption, similarity in found
        ]
        for k, (line, color) in enumerate(lines[:5]):
            pen.text((x, y + CELL + 3 + 14 * k), fit(line, font, CELL), fill=color, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """On one line, cut to the width in pixels."""
    line = " ".join(text[:LONGEST].split())
    if len(text) <= LONGEST and font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
