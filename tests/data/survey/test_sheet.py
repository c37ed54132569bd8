"""Captions on the contact sheet: whatever they hold, in lines of the width of a cell, in little time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from silc.data.survey import sheet
from silc.data.survey.pictures import Picture

FONT = ImageFont.load_default(12)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=300) | st.text("ab ", max_size=300) | st.integers(1, 10**6).map(lambda n: "x" * n))
def test_lines_fit_their_width(text):
    lines = sheet.wrapped(text, FONT, 100, 3)
    assert len(lines) <= 3
    assert all(FONT.getlength(line) <= 100 for line in lines)
    assert all("\n" not in line and line.strip() for line in lines)
    words = " ".join(lines)
    assert words.replace("...", "").replace(" ", "") in sheet.seen(text).replace(" ", "") + "..."


def test_words_are_kept_whole_where_they_fit():
    text = "a photograph of a small dog that runs over a meadow"
    lines = sheet.wrapped(text, FONT, 120, 9)
    assert " ".join(lines) == text
    assert len(lines) > 1


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_grid(tmp_path, count):
    pixels = np.full((10, 300, 3), (255, 0, 0), np.uint8)
    pictures = [Picture(f"s/{i}", pixels, ["cap"] * (i % 3), "300 x 10 JPEG", "") for i in range(count)]
    sheet.draw(pictures, "title", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as drawn:
        values = np.asarray(drawn)
    red = (values == (255, 0, 0)).all(axis=2)
    assert red.sum() == count * round(10 * 200 / 300) * sheet.CELL
    assert drawn.width == max(3, min(6, count)) * (sheet.CELL + sheet.MARGIN) + sheet.MARGIN


def test_a_sample_that_training_skips_says_why(tmp_path):
    broken = [Picture("s/1", None, [], "", "undecodable image")]
    sheet.draw(broken, "title", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as drawn:
        values = np.asarray(drawn).astype(int)
    assert ((values[..., 0] - values[..., 1]) > 100).any()  # red letters


def test_what_has_no_glyph_is_left_out():
    assert sheet.seen("a\0b\u202ec\u200bd\ufeff\x1b[1m\n\ud800e") == "a b c d [1m ?e"
