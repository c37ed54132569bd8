"""A user's own images, masks and class list; every mistake has a message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.config import Config, DataConfig
from silc.data.layouts import open_data_set
from silc.data.prompts import TCL
from silc.data.splits import IGNORE, DataSet, image_and_mask
from silc.evaluate import datasets

SIZE = (6, 4)


def picture(path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (10, 200, 30)).save(path, **options)


def mask(path: Path, *values: int, dtype: type = np.uint8, size: tuple[int, int] = SIZE) -> None:
    """The values in the first row, 0 in the other pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.zeros(size[::-1], dtype)
    rows[0, : len(values)] = values
    Image.fromarray(rows).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two images in folders of their own, in formats of their own."""
    picture(tmp_path / "images/city/a.jpg")
    picture(tmp_path / "images/b.c.webp")
    mask(tmp_path / "masks/city/a.png", 0, 1, 2, 255)
    mask(tmp_path / "masks/b.c.tif", 2)
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    return tmp_path


def opened(root: Path, classes: tuple[str, ...] | None = None) -> DataSet:
    return open_data_set(f"masks:{root}", DataConfig(workers=0), classes)


def test_images_and_masks_by_their_names(root):
    data = opened(root)
    assert data.classes == ("road", "car", "sky")
    assert [data.test.key(number) for number in range(2)] == ["b.c", "city/a"]
    image, classes = image_and_mask(data.test, 1)
    assert image.shape == (4, 6, 3)
    assert classes[0].tolist() == [0, 1, 2, IGNORE, 0, 0]
    assert data.test.mask(0)[0].tolist() == [2, 0, 0, 0, 0, 0]
    assert (data.train, data.templates, data.notes) == (None, None, ())
    assert data.background == "pixels of 255 are not counted"
    assert data.test.has == {"masks"}


def test_a_list_in_the_folder_is_its_own(root):
    assert opened(root, ("x", "y", "z")).classes == ("road", "car", "sky")
    (root / "classes.txt").unlink()
    assert opened(root, ("background", "y", "z")).background.endswith("competes under that name")
    with pytest.raises(ValueError, match=r"classes\.txt is missing; write the name of a class in each line, or give"):
        opened(root)


@pytest.mark.parametrize("held_out", ["val", "validation", "test"])
def test_splits(tmp_path, held_out):
    for split in (held_out, "train"):
        picture(tmp_path / f"images/{split}/a.png")
        mask(tmp_path / f"masks/{split}/a.png", 1)
    picture(tmp_path / "images/loose.png")
    (tmp_path / "classes.txt").write_text("road\ncar")
    data = opened(tmp_path)
    assert data.test.title.endswith(held_out)
    assert (len(data.test), len(data.training)) == (1, 1)
    assert data.notes == (
        f"left out 1 file of {tmp_path}/images that are in none of {', '.join(sorted([held_out, 'train']))}",
    )


def test_values_of_sixteen_bits(tmp_path):
    """255 is not counted there either, unless a class has that number."""
    picture(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png", 1, 255, 65535, dtype=np.uint16)
    (tmp_path / "classes.txt").write_text("a\nb")
    assert opened(tmp_path).test.mask(0)[0].tolist() == [1, IGNORE, IGNORE, 0, 0, 0]
    (tmp_path / "classes.txt").write_text("\n".join(f"class {number}" for number in range(300)))
    assert opened(tmp_path).test.mask(0)[0].tolist() == [1, 255, IGNORE, 0, 0, 0]


def break_it(root: Path, how: str) -> None:
    change = {
        "no masks": lambda: (root / "masks").rename(root / "labels"),
        "no mask": lambda: (root / "masks/city/a.png").unlink(),
        "a JPEG": lambda: (root / "masks/b.c.tif").rename(root / "masks/b.c.jpg"),
        "no image": lambda: (root / "images/city/a.jpg").unlink(),
        "two masks": lambda: mask(root / "masks/b.c.png", 1),
        "two images": lambda: picture(root / "images/b.c.png"),
        "no images": lambda: [path.unlink() for path in root.glob("images/**/*.*")],
        "train alone": lambda: [(root / f"{kind}/city").rename(root / f"{kind}/train") for kind in ("images", "masks")],
        "no val masks": lambda: (root / "images/city").rename(root / "images/val"),
        "beyond": lambda: mask(root / "masks/b.c.tif", 3),
        "colours": lambda: picture(root / "masks/b.c.tif"),
        "blank": lambda: (root / "classes.txt").write_text("road\n\ncar\nsky"),
    }
    change[how]()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no masks", r"/masks is missing; put images into images/ and their masks, of the same names, into masks/"),
        (
            "no mask",
            r"1 image has no mask in .*/masks, such as .*/images/city/a\.jpg: add city/a\.png, or remove",
        ),
        (
            "a JPEG",
            r"1 image has no mask .*b\.c\.webp: b\.c\.jpg is JPEG, which does not keep class numbers; save",
        ),
        (
            "no image",
            r"1 mask has no image in .*/images, such as .*/masks/city/a\.png; add the image under",
        ),
        ("two masks", r"b\.c\.png and .*b\.c\.tif have the same name but for the suffix; keep one"),
        ("two images", r"b\.c\.png and .*b\.c\.webp have the same name but for the suffix"),
        ("no images", r"/images has no image; images end in \.jpg"),
        ("train alone", r"/images has train, but no val, validation or test beside it; add the one to measure on"),
        ("no val masks", r"/masks/val is missing"),
        ("beyond", r"the mask of b\.c has class 3, but the class list names 3 \(0 to 2\)"),
        ("colours", r"the mask of b\.c has 3 channels; a mask has one class number a pixel"),
        ("blank", r"classes\.txt.*: line 2 is blank"),
    ],
)
def test_every_mistake_has_a_message(root, how, said):
    break_it(root, how)
    with pytest.raises(ValueError, match=f"masks:{root}: .*{said}") as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_a_mask_of_another_size_shows_before_training(root):
    tags = Image.Exif()
    tags[274] = 6
    config = Config(data=DataConfig(workers=0))
    config.eval.segmentation = f"masks:{root}"
    mask(root / "masks/b.c.tif", 1, size=(4, 6))
    with pytest.raises(ValueError, match=r"the mask of b\.c is 4 x 6 pixels, its image 6 x 4: they do not belong"):
        datasets.resolve_data(config, None, ["zeroshot_segmentation"])
    picture(root / "images/b.c.webp", exif=tags)  # the size of the turned image: it is the one that is meant
    data = datasets.resolve_data(config, None, ["zeroshot_segmentation"]).segmentation
    assert image_and_mask(data.test, 0)[0].shape == (6, 4, 3)
    mask(root / "masks/b.c.tif", 1, size=(5, 5))
    with pytest.raises(ValueError, match=r"its image 6 x 4 as stored, 4 x 6 otherwise \(EXIF orientation 6\)"):
        datasets.resolve_data(config, None, ["zeroshot_segmentation"])


def test_masks_in_black_and_white_are_noted(tmp_path):
    """255 for an object is usual in drawings and means nothing here."""
    for name, values in (("a", (0, 255)), ("b", (255,))):
        picture(tmp_path / f"images/{name}.png")
        mask(tmp_path / f"masks/{name}.png", *values)
    (tmp_path / "classes.txt").write_text("background\nlesion")
    (note,) = opened(tmp_path).notes
    assert "no class but 'background' (0), and pixels of 255, which are not counted; if 255 is meant as a class" in note
    mask(tmp_path / "masks/b.png", 1, 255)
    assert opened(tmp_path).notes == ()


def test_other_files_are_counted(root):
    (root / "masks/Thumbs.db").write_bytes(b"x")
    (root / "images/.DS_Store").write_bytes(b"x")
    assert opened(root).notes == (f"{root}/masks: left out 1 file with other suffixes: .db (1)",)


def test_the_prompts_of_public_sets_are_not_a_users(root, tmp_path):
    (tmp_path / "ade").mkdir()
    picture(tmp_path / "ade/images/validation/a.jpg")
    mask(tmp_path / "ade/annotations/validation/a.png", 1)
    assert open_data_set(f"ade20k:{tmp_path}/ade", DataConfig(workers=0), None).templates == TCL
    assert opened(root).templates is None
