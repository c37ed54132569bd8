"""A PNG of held-out pictures with the captions the model finds closest: what a person looks at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, TEXT, MARGIN = 160, 78, 8
RIGHT, WRONG, INK = (20, 120, 50), (170, 40, 40), (30, 30, 30)


def draw(
    images: Sequence[Tensor],
    truths: Sequence[str],
    guesses: Sequence[Sequence[tuple[str, float]]],
    title: str,
    path: Path,
    columns: int = 6,
) -> None:
    """Write a grid.

    images: n of uint8 [3, h, w], shown as squares; truths: n captions; guesses: n lists of (caption, similarity), best
    first.

    The caption under a picture is green when the best guess is its own caption, red otherwise.
    """
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, rows * (CELL + TEXT + MARGIN) + MARGIN + 24), "white")
    pen, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(11), ImageFont.load_default(14)
    pen.text((MARGIN, 6), title, fill=INK, font=bold)
    for i, (image, truth, found) in enumerate(zip(images, truths, guesses, strict=True)):
        x, y = MARGIN + (i % columns) * (CELL + MARGIN), 24 + MARGIN + (i // columns) * (CELL + TEXT + MARGIN)
        picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), (x, y))
        lines = [(f"is: {truth}", INK)]
        lines += [
            (f"{similarity:.2f} {caption}", RIGHT if caption == truth else WRONG) for caption, similarity in found
        ]
        for k, (line, colour) in enumerate(lines[:5]):
            pen.text((x, y + CELL + 3 + 14 * k), _fit(line, font, CELL), fill=colour, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
