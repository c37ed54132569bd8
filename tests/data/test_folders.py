"""Splits in folders: which files are images, and how images are turned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision
import webdataset as wds
from PIL import Image

from silc.config import DataConfig
from silc.data.folders import SUFFIXES
from silc.data.layouts import open_data_set
from silc.data.splits import image_and_mask
from tests.data.test_layouts import ade20k, mask, opened, write_image


@pytest.mark.parametrize("upper", [False, True])
def test_an_image_folder_has_the_images_that_torchvision_finds(tmp_path, upper):
    theirs = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
    kinds = {".jpe": "JPEG", ".jfif": "JPEG", ".apng": "PNG", ".gif": "GIF", ".avif": "AVIF"} | {
        suffix: Image.registered_extensions()[suffix] for suffix in theirs
    }
    assert kinds.keys() == set(SUFFIXES)
    for folder in ("ant/deep/er", "owl"):
        (tmp_path / folder).mkdir(parents=True)
        for suffix, kind in kinds.items():
            name = f"0{suffix.upper() if upper else suffix}"
            Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / folder / name, kind)
    split = opened("imagefolder", tmp_path).test
    assert len(split) == 2 * len(kinds)
    for number in range(len(split)):
        assert split.image(number).shape == (8, 8, 3)
    found = [(split.key(n), split.label(n)) for n in range(len(split)) if Path(split.key(n)).suffix.lower() in theirs]
    expected = torchvision.datasets.ImageFolder(str(tmp_path)).samples
    assert found == sorted((str(Path(path).relative_to(tmp_path)), label) for path, label in expected)
    assert opened("imagefolder", tmp_path).notes == ()


def test_other_files_of_an_image_folder_are_counted(tmp_path):
    for name in ("val/ant/0.jpg", "train/ant/0.jpg"):
        write_image(tmp_path / name)
    for name in ("a.ppm", "b.PPM", "c.txt", "deep/README", "._hidden.ppm", ".hidden/a.ppm"):
        path = tmp_path / "val/ant" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"P6 1 1 255 abc")
    data = opened("imagefolder", tmp_path)
    assert len(data.test) == 1
    kept = f"{tmp_path.name} val: left out 4 files with other suffixes: .ppm (2), .txt (1), none (1)"
    assert data.notes == (kept,)
    (tmp_path / "val/ant/0.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"no image in a class folder.*there are 4 files with other suffixes: \.ppm \(2\)"
    ):
        opened("imagefolder", tmp_path)
    for number in range(7):
        (tmp_path / f"val/ant/{number}.{number}{'x' * 200}").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(1\) and 5 more, images end in \.jpg, ") as caught:
        opened("imagefolder", tmp_path)
    assert len(str(caught.value)) < 700


def test_images_beside_masks_are_turned_as_the_masks_say(tmp_path):
    """An image with a note to turn it by a quarter; a mask as it is stored, and one as viewers show it."""
    ade20k(tmp_path)
    tags = Image.Exif()
    tags[274] = 6
    for split in ("training", "validation"):
        Image.new("RGB", (6, 4)).save(tmp_path / f"images/{split}/ADE_1.jpg", exif=tags)
    mask(tmp_path / "annotations/validation/ADE_1.png", [0, 1], (4, 6))
    for upright, shape in ((False, (4, 6)), (True, (6, 4))):
        data = open_data_set(f"ade20k:{tmp_path}", DataConfig(), None, upright=upright)
        assert data.test.image(0).shape[:2] == data.training.image(0).shape[:2] == shape
        assert [tuple(one.shape[:2]) for one in image_and_mask(data.test, 0)] == [(6, 4), (6, 4)]
        assert [tuple(one.shape[:2]) for one in image_and_mask(data.training, 0)] == [(4, 6), (4, 6)]
    for layout, make in (("imagefolder", photo_folder), ("wds", photo_shards)):
        make(tmp_path / layout)
        for upright, shape in ((False, (4, 6, 3)), (True, (6, 4, 3))):
            split = open_data_set(f"{layout}:{tmp_path / layout}", DataConfig(), None, upright=upright).test
            assert split.image(0).shape == shape


def photo_folder(root: Path) -> None:
    (root / "ant").mkdir(parents=True)
    tags = Image.Exif()
    tags[274] = 6
    Image.new("RGB", (6, 4)).save(root / "ant/0.jpg", exif=tags)


def photo_shards(root: Path) -> None:
    photo_folder(root / "files")
    (root / "test").mkdir()
    with wds.TarWriter(str(root / "test/0.tar")) as writer:
        writer.write({"__key__": "0", "jpg": (root / "files/ant/0.jpg").read_bytes(), "txt": "an ant"})
