"""The contact sheet: cells of one size, colors of right and wrong captions, text that stays in its cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from silc.evaluate.report import contact_sheet
from silc.evaluate.report.contact_sheet import CELL, MARGIN, TEXT, draw


def pixels_of(sheet: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((sheet == color).all(-1).sum())


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 6, 1), (5, 6, 1), (6, 6, 1), (7, 6, 2), (13, 4, 4)])
def test_a_png_of_the_expected_size(tmp_path, count, columns, rows):
    images = torch.randint(0, 256, (count, 3, 20, 20), dtype=torch.uint8)
    guesses = [[("a cat", 0.5), ("a dog", 0.25)]] * count
    path = tmp_path / "new" / "sheet.png"
    draw(images, [["a cat"]] * count, guesses, "title", path, columns=columns)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (columns * (CELL + MARGIN) + MARGIN, rows * (CELL + TEXT + MARGIN) + MARGIN + 24)


def test_right_guesses_are_green_and_wrong_ones_red(tmp_path):
    """Letters are smoothed against the white, so the channels tell: ink of a color darkens the other one more."""
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for guess, strong, weak in (("a cat", 1, 0), ("a kitten", 1, 0), ("a dog", 0, 1)):
        draw(images, [["a cat", "a kitten"]], [[(guess, 0.5)]], "", tmp_path / "sheet.png")
        pixels = np.array(Image.open(tmp_path / "sheet.png")).astype(int)
        assert (pixels[..., strong] - pixels[..., weak] > 20).sum() > 20
        assert (pixels[..., weak] - pixels[..., strong] > 20).sum() == 0


def test_an_image_is_in_its_cell(tmp_path):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[1, 2] = 255  # blue
    draw(images, [["x"], ["y"]], [[], []], "", tmp_path / "sheet.png", columns=2)
    pixels = np.array(Image.open(tmp_path / "sheet.png"))
    assert pixels_of(pixels, (0, 0, 255)) == CELL * CELL
    x, y = MARGIN + CELL + MARGIN, 24 + MARGIN
    assert (pixels[y : y + CELL, x : x + CELL] == (0, 0, 255)).all()


def test_lines_and_any_length_of_a_caption_fit_one_line(tmp_path):
    font = contact_sheet.ImageFont.load_default(11)
    assert contact_sheet.fit("a\ncat\u2028here", font, CELL) == "a cat here"
    assert contact_sheet.fit("a cat " * 10**6, font, CELL).endswith("...")
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    draw(images, [["two\nlines"]], [[("three\nmore\nlines", 0.5)]], "a title\n" * 99, tmp_path / "sheet.png", columns=1)


def test_a_long_caption_stays_in_its_cell(tmp_path):
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    draw(images, [["a cat " * 40]], [[("a dog " * 40, 0.5)]], "", tmp_path / "sheet.png", columns=2)
    pixels = np.array(Image.open(tmp_path / "sheet.png"))
    assert (pixels[:, MARGIN + CELL + MARGIN :] == 255).all()
    assert contact_sheet.fit("short", contact_sheet.ImageFont.load_default(11), CELL) == "short"
