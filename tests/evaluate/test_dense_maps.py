"""The picture of dense maps: which images, what is assigned, what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc.data.splits import IGNORE, DataSet
from silc.evaluate.report import dense_maps, palette
from silc.evaluate.report.dense_maps import CELL, HEATS, LINE, MARGIN, MODELS, NAMES, ROWS, Maps, Row, choose

from .conftest import Memory, random_images


def mask(*areas: tuple[int, int]) -> torch.Tensor:
    """16 x 16, of (class, pixels)."""
    flat = torch.full((256,), IGNORE)
    at = 0
    for number, pixels in areas:
        flat[at : at + pixels] = number
        at += pixels
    return flat.view(16, 16)


def split_of(masks: list[torch.Tensor]) -> Memory:
    return Memory(random_images(len(masks)), masks=masks)


def test_even_images_of_other_classes_are_chosen():
    masks = [
        mask((0, 200)),  # one class
        mask((0, 90), (1, 10)),
        mask((2, 50), (3, 60)),
        mask((2, 40), (3, 60)),  # shows what the one before shows
        mask((4, 30), (5, 30), (6, 30)),
        mask((0, 20), (1, 20), (2, 20), (3, 20), (4, 20)),  # five classes
    ]
    split = split_of(masks)
    assert choose(split, range(6), 3) == [2, 4, 1]
    assert choose(split, range(6), 4) == [2, 4, 1, 3]  # what repeats a class comes last
    assert choose(split, range(6), 9) == [2, 4, 1, 3]
    assert choose(split, [1, 0, 3], 1) == [3]
    with pytest.raises(ValueError, match="in memory: of the first 2 images none shows 2 to 4 classes"):
        choose(split, [0, 5])


def test_a_bounded_number_of_masks_is_looked_at():
    class Counted(Memory):
        looked = 0

        def mask(self, number):
            self.looked += 1
            return mask((0, 100), (1, 100))

    split = Counted(random_images(3000))
    assert len(choose(split, range(3000))) == ROWS
    assert split.looked == dense_maps.LOOKED


def test_assigned_are_the_present_classes_of_the_highest_cosine(towers, job):
    """By hand: the value path of the resized image, upsampled, against the classes in the image alone."""
    job.config.eval.templates = []
    (image,) = random_images(1, 32, 32)
    truth = mask((3, 100), (1, 60)).repeat_interleave(2, 0).repeat_interleave(2, 1)
    data = DataSet("x", tuple(f"thing {n}" for n in range(7)), Memory([image], masks=[truth]), templates=("a {}",))
    (row,) = dense_maps.rows([(towers, job)], data)
    assert row.present == [3, 1]
    texts = towers.texts(["a thing 3", "a thing 1"])
    side = job.geometry.short_side
    pixels = F.interpolate(image.permute(2, 0, 1)[None].double(), (side, side), mode="bicubic", antialias=True)
    values = towers.values(pixels.round().clamp(0, 255).to(torch.uint8))[0]
    assert job.geometry.window == side  # one window
    cosine = F.interpolate((values @ texts.T).permute(2, 0, 1)[None], (side, side), mode="bilinear")
    cosine = F.interpolate(cosine, (32, 32), mode="bilinear")[0]
    torch.testing.assert_close(torch.stack([row.found[0].heats[3], row.found[0].heats[1]]), cosine, atol=5e-3, rtol=0)
    clear = (cosine[0] - cosine[1]).abs() > 1e-2
    assert clear.any()
    assert torch.equal(row.found[0].assigned[clear], torch.where(cosine[0] > cosine[1], 3, 1)[clear])


def test_the_picture(tmp_path):
    """Sizes, and that a right model's map is its mask while a wrong one's is not."""
    truth = torch.full((48, 48), IGNORE)
    truth[:, :20], truth[:, 30:] = 0, 1
    image = torch.full((48, 48, 3), 200, dtype=torch.uint8)
    right = torch.where(torch.arange(48) < 24, 0, 1).expand(48, 48)
    ramp = torch.linspace(-1, 1, 48).expand(48, 48)
    good, bad = Maps(right, {0: -ramp, 1: ramp}), Maps(1 - right, {0: ramp, 1: -ramp})
    path = tmp_path / "new" / "maps.png"
    dense_maps.draw(["good", "bad"], ["a cat", "a dog"], [Row(image, truth, [good, bad])] * 2, "title", path)
    with Image.open(path) as opened:
        drawn = np.array(opened).astype(int)
    step, top = CELL + MARGIN, 2 * (LINE + 6) + MARGIN
    assert drawn.shape == (top + 2 * (CELL + NAMES * LINE + MARGIN), (2 + 2 * (1 + HEATS)) * step + MARGIN, 3)
    cells = [drawn[top : top + CELL, MARGIN + n * step : MARGIN + n * step + CELL] for n in range(8)]
    assert np.array_equal(cells[1], cells[2])
    assert not np.array_equal(cells[1], cells[5])
    colors = palette.assign([[0, 1]])[0]
    for heat, number in ((cells[3], 0), (cells[4], 1), (cells[6], 0), (cells[7], 1)):
        distance = np.abs(heat - np.array(colors[number])).sum(-1)[CELL // 2]
        strong = distance.argmin()
        assert (strong < CELL // 2) == (heat is cells[3] or heat is cells[7])
    assert drawn.min() >= 0


def test_the_picture_is_bounded():
    width = (2 + MODELS * (1 + HEATS)) * (CELL + MARGIN) + MARGIN
    assert width * (ROWS * (CELL + NAMES * LINE + MARGIN) + 60) < 2_000_000


def test_an_image_that_cannot_be_read_is_left_out(towers, job):
    masks = [mask((0, 100), (1, 100)), mask((2, 50), (3, 50))]
    data = DataSet("x", tuple("abcdefg"), Memory([None, *random_images(1)], masks=masks))
    rows = dense_maps.rows([(towers, job)], data)
    assert [row.present for row in rows] == [[2, 3]]
    with pytest.raises(ValueError, match="none of the images to show can be read"):
        dense_maps.rows([(towers, job)], DataSet("x", tuple("abcdefg"), Memory([None], masks=masks[:1])))
