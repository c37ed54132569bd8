"""Colors of classes: OKLab against published values, distances of the classes of an image, colors that stay."""

from __future__ import annotations

import numpy as np
import pytest

from silc.evaluate.report import palette


def distances(colors, vision=None) -> np.ndarray:
    """Of each two of the colors as they are shown, in OKLab."""
    lab = palette.oklab(palette.blended(np.array(colors)), vision)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return apart[np.triu_indices(len(lab), 1)]


@pytest.mark.parametrize(
    ("rgb", "expected"),  # of the author's reference: white, and the primaries
    [
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_is_that_of_its_author(rgb, expected):
    assert palette.oklab(np.array([rgb]))[0] == pytest.approx(expected, abs=1e-3)


def test_color_blind_eyes_see_grays_as_they_are_and_no_difference_of_red_and_green():
    grays = np.array([[v, v, v] for v in (0, 90, 180, 255)])
    for vision in (palette.PROTANOPIA, palette.DEUTERANOPIA):
        assert palette.oklab(grays, vision) == pytest.approx(palette.oklab(grays), abs=1e-3)
        green_to_red = palette.oklab(np.array([[0, 160, 0], [190, 110, 0]]), vision)[:, 1]
        assert np.ptp(green_to_red) < 0.5 * np.ptp(palette.oklab(np.array([[0, 160, 0], [190, 110, 0]]))[:, 1])


@pytest.mark.parametrize(("count", "apart", "color_blind"), [(6, 0.22, 0.12), (12, 0.13, 0.06), (30, 0.08, 0.04)])
def test_classes_of_an_image_are_told_apart(count, apart, color_blind):
    """Distances in OKLab, where 0.02 is about what eyes just notice."""
    rng = np.random.default_rng(count)
    images = [rng.choice(200, count, replace=False).tolist() for _ in range(20)]
    for classes, colors in zip(images, palette.assign(images), strict=True):
        assert list(colors) == classes
        assert distances(list(colors.values())).min() > 0.08  # whatever the images before it took
    first = [palette.assign([images[0]])[0][n] for n in images[0]]
    assert distances(first).min() > apart
    for vision in (palette.PROTANOPIA, palette.DEUTERANOPIA):
        assert distances(first, vision).min() > color_blind


def test_no_color_of_a_class_passes_for_gray():
    lab = palette.oklab(palette.blended(np.array(palette.palette())))
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 0.03


def test_a_class_keeps_its_color_and_more_than_there_are_colors_repeat():
    images = [[0, 1, 2], [2, 7, 0], list(range(30))]
    first, second, third = palette.assign(images)
    assert (first[0], first[2]) == (second[0], second[2]) == (third[0], third[2])
    assert third[7] == second[7]
    (many,) = palette.assign([range(75)])
    assert len(many) == 75
    assert len({many[n] for n in range(30)}) == 30
    assert palette.assign(images) == [first, second, third]
