"""Tiny trees in the layouts of the public data sets."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from silc.config import DataConfig
from silc.data import class_names
from silc.data.layouts import LAYOUTS, open_data_set, read_names
from silc.data.shards import Unreadable
from silc.data.splits import IGNORE, DataSet


def write_image(path: Path, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path)


def mask(path: Path, values: list[int], size: tuple[int, int] = (6, 4)) -> None:
    """The values in the first row, the first of them in all other pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.full(size[::-1], values[0], np.uint8)
    rows[0, : len(values)] = values
    Image.fromarray(rows).save(path)


def ade20k(root: Path) -> None:
    for split in ("training", "validation"):
        write_image(root / f"images/{split}/ADE_1.jpg")
        mask(root / f"annotations/{split}/ADE_1.png", [0, 1, 150])


def voc(root: Path, masks: str = "SegmentationClass", lists: str = "Segmentation") -> None:
    for split in ("train", "val"):
        write_image(root / f"JPEGImages/2007_{split}.jpg")
        mask(root / f"{masks}/2007_{split}.png", [0, 1, 20, 255])
        (root / f"ImageSets/{lists}").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/{lists}/{split}.txt").write_text(f"2007_{split}\n")


def context(root: Path) -> None:
    voc(root, "SegmentationClassContext", "SegmentationContext")


def coco_reduced(root: Path) -> None:
    for split in ("train2017", "val2017"):
        write_image(root / f"images/{split}/1.jpg")
        mask(root / f"annotations/{split}/1_labelTrainIds.png", [255, 0, 170])


def coco_original(root: Path) -> None:
    for split in ("train2017", "val2017"):
        write_image(root / f"images/{split}/1.jpg")
        mask(root / f"annotations/{split}/1.png", [255, 0, 12, 181, 91])


def cityscapes_reduced(root: Path) -> None:
    for split in ("train", "val"):
        write_image(root / f"leftImg8bit/{split}/ulm/ulm_1_leftImg8bit.png")
        mask(root / f"gtFine/{split}/ulm/ulm_1_gtFine_labelTrainIds.png", [255, 0, 18])


def cityscapes_original(root: Path) -> None:
    for split in ("train", "val"):
        write_image(root / f"leftImg8bit/{split}/ulm/ulm_1_leftImg8bit.png")
        mask(root / f"gtFine/{split}/ulm/ulm_1_gtFine_labelIds.png", [0, 7, 33, 14])


# layout, tree, names at numbers, the mask's first row as classes, what is said of the background
CASES = [
    ("ade20k", ade20k, {0: "wall", 149: "flag"}, [IGNORE, 0, 149], "not counted"),
    ("voc20", voc, {0: "aeroplane", 19: "tv monitor"}, [IGNORE, 0, 19, IGNORE], "not counted"),
    ("voc21", voc, {0: "background", 20: "tv monitor"}, [0, 1, 20, IGNORE], "competes under the name"),
    ("context59", context, {0: "aeroplane", 58: "wood"}, [IGNORE, 0, 19, IGNORE], "not counted"),
    ("context60", context, {0: "background", 59: "wood"}, [0, 1, 20, IGNORE], "competes under the name"),
    ("coco_stuff", coco_reduced, {0: "person", 170: "wood"}, [IGNORE, 0, 170], "not counted"),
    (
        "coco_stuff",
        coco_original,
        {0: "person", 11: "stop sign", 80: "banner"},
        [IGNORE, 0, 11, 170, 80],
        "not counted",
    ),
    ("cityscapes", cityscapes_reduced, {0: "road", 18: "bicycle"}, [IGNORE, 0, 18], "not counted"),
    ("cityscapes", cityscapes_original, {0: "road", 18: "bicycle"}, [IGNORE, 0, 18, IGNORE], "not counted"),
]


def opened(layout: str, root: Path, classes: tuple[str, ...] | None = None) -> DataSet:
    return open_data_set(f"{layout}:{root}", DataConfig(workers=0), classes)


@pytest.mark.parametrize(
    ("layout", "tree", "names", "row", "background"), CASES, ids=lambda x: getattr(x, "__name__", None)
)
def test_images_with_masks(tmp_path, layout, tree: Callable[[Path], None], names, row, background):
    tree(tmp_path)
    data = opened(layout, tmp_path)
    for number, name in names.items():
        assert data.classes[number] == name
    assert background in data.background
    for split in (data.test, data.train):
        assert len(split) == 1
        assert split.has == {"masks"}
        assert split.image(0).shape == (4, 6, 3)
        assert split.mask(0)[0, : len(row)].tolist() == row
        assert split.mask(0)[3].tolist() == [row[0]] * 6
    assert data.test.title.endswith(("val", "validation", "val2017"))


def test_the_lists_have_the_known_lengths():
    lists = class_names
    assert [len(x) for x in (lists.ADE20K, lists.VOC, lists.CONTEXT, lists.COCO_STUFF)] == [150, 20, 59, 171]
    assert len(lists.CITYSCAPES) == len(lists.CITYSCAPES_IDS) == 19
    assert 182 - len(lists.COCO_STUFF_UNUSED) == 171
    for names in (lists.ADE20K, lists.VOC, lists.CONTEXT, lists.COCO_STUFF, lists.CITYSCAPES):
        assert len(set(names)) == len(names)


def test_without_the_training_part_there_is_no_training_split(tmp_path):
    write_image(tmp_path / "images/validation/a.jpg")
    mask(tmp_path / "annotations/validation/a.png", [1])
    assert opened("ade20k", tmp_path).train is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "JPEGImages/2007_val.jpg").unlink(), "2007_val.jpg is missing"),
        (lambda root: (root / "SegmentationClass/2007_train.png").unlink(), "2007_train.png is missing"),
        (lambda root: (root / "ImageSets/Segmentation/val.txt").write_text("\n"), "val: the split is empty"),
        (lambda root: (root / "ImageSets/Segmentation/val.txt").unlink(), "val.txt is missing"),
    ],
)
def test_a_tree_with_a_gap_is_an_error(tmp_path, spoil, said):
    voc(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=f"voc20:.*{said}"):
        opened("voc20", tmp_path)


def test_a_layout_with_a_list_of_its_own_keeps_it(tmp_path):
    ade20k(tmp_path)
    assert opened("ade20k", tmp_path, ("one", "two")).classes == class_names.ADE20K
    clip_benchmark(tmp_path / "wds")
    assert opened("wds", tmp_path / "wds", ("one", "two", "three")).classes == ("ant", "bee", "owl")


def test_what_is_neither_layout_nor_folder_is_an_error(tmp_path):
    for spec, hint in (("imgfolder:/x", "; did you mean 'imagefolder'?"), ("zzz:/x", "")):
        with pytest.raises(ValueError, match=re.escape(f"{spec.partition(':')[0]!r} is not a layout{hint}; layouts: ")):
            open_data_set(spec, DataConfig(), None)
    for spec in ("/data/ade", ""):
        with pytest.raises(
            ValueError, match="is not of the form LAYOUT:FOLDER; layouts: wds, imagefolder, imagenet, masks"
        ):
            open_data_set(spec, DataConfig(), None)
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match="absent is not a folder"):
            opened(layout, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match=f"{layout}:"):
            opened(layout, tmp_path / "empty")


# ImageFolder


def image_folder(root: Path, splits: tuple[str, ...] = ("train", "val")) -> None:
    for split in splits:
        for name in ("great_owl", "ant"):
            for number in range(2):
                write_image(root / split / name / f"{number}.jpg")


def test_an_image_folder(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "val/ant/notes.txt").write_text("no image")
    data = opened("imagefolder", tmp_path)
    assert data.classes == ("ant", "great owl")
    assert [data.test.label(n) for n in range(len(data.test))] == [0, 0, 1, 1]
    assert data.test.key(2) == "great_owl/0.jpg"
    assert data.test.image(0).shape == (4, 6, 3)
    assert len(data.train) == 4
    assert opened("imagefolder", tmp_path, ("x", "y")).classes == ("x", "y")
    lone = opened("imagefolder", tmp_path / "val")
    assert lone.train is None
    assert lone.classes == data.classes


def test_an_image_folder_with_other_classes_is_an_error(tmp_path):
    image_folder(tmp_path)
    with pytest.raises(ValueError, match=r"2 class folders, but eval\.classes names 3"):
        opened("imagefolder", tmp_path, ("x", "y", "z"))
    (tmp_path / "train/bat").mkdir()
    with pytest.raises(ValueError, match="have different class folders: bat"):
        opened("imagefolder", tmp_path)


def test_an_image_folder_without_images_to_test_on_is_an_error(tmp_path):
    image_folder(tmp_path, ("train",))
    with pytest.raises(ValueError, match="there is no val, validation or test folder beside it"):
        opened("imagefolder", tmp_path)
    assert opened("imagefolder", tmp_path / "train").classes == ("ant", "great owl")
    image_folder(tmp_path, ("validation",))
    assert opened("imagefolder", tmp_path).test.title.endswith("validation")
    write_image(tmp_path / "vehicles/train/1.jpg")  # a class of that name
    assert opened("imagefolder", tmp_path / "vehicles").classes == ("train",)


def test_what_is_hidden_in_an_image_folder_is_no_class_and_no_image(tmp_path):
    image_folder(tmp_path, ("val",))
    write_image(tmp_path / "val/.ipynb_checkpoints/0.jpg")
    write_image(tmp_path / "val/ant/.thumbnails/0.jpg")
    (tmp_path / "val/ant/._0.jpg").write_bytes(b"a resource fork")
    data = opened("imagefolder", tmp_path)
    assert data.classes == ("ant", "great owl")
    assert len(data.test) == 4


# CLIP_benchmark's WebDataset


def clip_benchmark(root: Path, kind: str = "classification") -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (6, 4)).save(encoded, "webp")
    for split in ("test", "train"):
        (root / split).mkdir(parents=True)
        (root / split / "nshards.txt").write_text("2\n")
        for shard in range(2):
            with wds.TarWriter(str(root / split / f"{shard}.tar")) as writer:
                for number in range(3):
                    sample = {"__key__": f"s{shard}{number}", "webp": encoded.getvalue()}
                    known = (
                        {"cls": str(number)} if kind == "classification" else {"txt": f"cap {number}\nother {shard}"}
                    )
                    writer.write(sample | known)
    if kind == "classification":
        (root / "classnames.txt").write_text("ant\nbee\nowl\n")
        (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")


def test_a_classification_set_of_clip_benchmark(tmp_path):
    clip_benchmark(tmp_path)
    data = opened("wds", tmp_path)
    assert data.classes == ("ant", "bee", "owl")
    assert data.templates == ("a photo of a {}.", "a {}")
    assert [data.test.label(n) for n in range(6)] == [0, 1, 2, 0, 1, 2]
    assert len(data.train) == 6
    assert data.test.has == {"labels"}


def test_a_retrieval_set_of_clip_benchmark(tmp_path):
    clip_benchmark(tmp_path, "retrieval")
    data = opened("wds", tmp_path)
    assert data.test.has == {"captions"}
    assert data.test.captions(4) == ["cap 1", "other 1"]
    assert data.templates is None


def test_labels_without_names_are_an_error(tmp_path):
    clip_benchmark(tmp_path)
    (tmp_path / "classnames.txt").write_text("ant\nbee\n")
    with pytest.raises(ValueError, match=r"0/s02 has class 2, the class list names 0 to 1"):
        opened("wds", tmp_path)
    (tmp_path / "classnames.txt").unlink()
    with pytest.raises(ValueError, match=r"no classnames\.txt; give eval\.classes"):
        opened("wds", tmp_path)
    assert opened("wds", tmp_path, ("x", "y", "z")).classes == ("x", "y", "z")
    (tmp_path / "test/nshards.txt").write_text("0")
    with pytest.raises(ValueError, match="the test split is empty"):
        opened("wds", tmp_path)


@pytest.mark.parametrize(
    ("label", "said"),
    [("7", r"train: 1/bad has class 7, the class list names 0 to 2"), ("-1", "1/bad: its class is '-1'")],
)
def test_a_label_without_a_name_in_the_training_split_is_an_error(tmp_path, label, said):
    clip_benchmark(tmp_path)
    encoded = io.BytesIO()
    Image.new("RGB", (6, 4)).save(encoded, "webp")
    with wds.TarWriter(str(tmp_path / "train/1.tar")) as writer:
        writer.write({"__key__": "bad", "webp": encoded.getvalue(), "cls": label})
    with pytest.raises(ValueError, match=said):
        opened("wds", tmp_path)


@pytest.mark.parametrize("line", ["a {photo} of a {c}", "a photo", "{c} and {c}", "a {c} }"])
def test_a_template_that_cannot_be_filled_is_an_error(tmp_path, line):
    clip_benchmark(tmp_path)
    (tmp_path / "zeroshot_classification_templates.txt").write_text(f"a {{c}}\n{line}\n")
    with pytest.raises(ValueError, match=r"zeroshot_classification_templates\.txt: line 2 must contain \{c\} once"):
        opened("wds", tmp_path)


def test_a_blank_line_among_class_names_is_an_error(tmp_path):
    clip_benchmark(tmp_path)
    (tmp_path / "classnames.txt").write_text("ant\n\nbee\nowl\n")
    with pytest.raises(ValueError, match=r"classnames\.txt: line 2 is blank"):
        opened("wds", tmp_path)


def test_class_files(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("one\n  two words \n \n", encoding="utf-8")
    assert read_names(file, "eval.classes") == ("one", "two words")
    file.write_text("one\n\ntwo\n")
    with pytest.raises(ValueError, match=r"eval\.classes=.*: line 2 is blank"):
        read_names(file, "eval.classes")
    file.write_text("\n \n")
    with pytest.raises(ValueError, match="is empty"):
        read_names(file, "eval.classes")
    with pytest.raises(ValueError, match=r"eval\.classes=.*absent"):
        read_names(tmp_path / "absent", "eval.classes")


def test_files_in_a_folder_have_limits_too(tmp_path):
    """A pipe never ends, and a mask of 50,000 x 50,000 pixels takes 20 GB."""
    ade20k(tmp_path)
    bomb = bytearray((tmp_path / "annotations/validation/ADE_1.png").read_bytes())
    struct.pack_into(">II", bomb, 16, 50_000, 50_000)
    struct.pack_into(">I", bomb, 29, zlib.crc32(bomb[12:29]))
    (tmp_path / "annotations/validation/ADE_1.png").write_bytes(bomb)
    data = open_data_set(f"ade20k:{tmp_path}", DataConfig(), None)
    with pytest.raises(Unreadable, match="too many pixels"):
        data.test.mask(0)
    small = open_data_set(f"ade20k:{tmp_path}", DataConfig(max_image_pixels=20), None)
    with pytest.raises(Unreadable, match="too many pixels"):
        small.training.image(0)
    with pytest.raises(Unreadable, match="too many pixels"):
        small.training.mask(0)
    for path in ("images/validation/ADE_1.jpg", "annotations/training/ADE_1.png"):
        (tmp_path / path).unlink()
        os.mkfifo(tmp_path / path)
    for read in (data.test.image, data.training.mask):
        with pytest.raises(Unreadable, match="no regular file"):
            read(0)


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd", "a/../../../b", "a\0b"])
def test_a_list_names_files_in_its_folder(tmp_path, line):
    voc(tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text(f"2007_val\n{line}\n")
    with pytest.raises(ValueError, match=r"val\.txt: .* leads out of"):
        open_data_set(f"voc20:{tmp_path}", DataConfig(), None)


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"x", b"1e3", b"9" * 5000, b"1000001", b"\xff", "\u0663".encode(), b"1\n2"]
)
def test_the_number_of_shards_is_a_number(tmp_path, text):
    (tmp_path / "test").mkdir()
    (tmp_path / "test/nshards.txt").write_bytes(text)
    with pytest.raises(ValueError, match=r"nshards\.txt") as caught:
        open_data_set(f"wds:{tmp_path}", DataConfig(), ("a",))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"caf\xe9", "not UTF-8"),
        (b"a\n" * 100_001, "100,001 lines; at most 100,000"),
        (b"a" * (4 << 20) + b"a", "at most 4194304 are read"),
    ],
)
def test_lists_of_names_have_limits(tmp_path, data, words):
    (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(ValueError, match=words):
        read_names(tmp_path / "names.txt", "eval.classes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a pipe"):
        read_names(tmp_path / "pipe", "eval.classes")


def test_labels_and_captions_of_any_size_and_depth(tmp_path):
    """A json of 100,000 brackets was a RecursionError, and captions of 100 MB were split into lines."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    samples = [
        {"json": b"[" * 100_000, "txt": b"a dog\n" * 100_000},
        {"json": b'{"class": ' * 100_000, "txt": b"a dog\na cat"},
        {"json": b'{"class": 0, "x": "' + b"a" * (1 << 20) + b'"}'},
        {"json": b'{"class": NaN}'},
        {"json": b'{"class": 0}'},
        {"json": b'{"class": "0"}'},
    ]
    (tmp_path / "test").mkdir()
    with wds.TarWriter(str(tmp_path / "test/0.tar")) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": str(number), "png": picture.getvalue()} | sample)
    (tmp_path / "test/nshards.txt").write_text("1")
    with pytest.raises(ValueError, match="0/3: its class is nan"):
        open_data_set(f"wds:{tmp_path}", DataConfig(), ("a",))
    del samples[3]
    with wds.TarWriter(str(tmp_path / "test/0.tar")) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": str(number), "png": picture.getvalue()} | sample)
    split = open_data_set(f"wds:{tmp_path}", DataConfig(), ("a",)).test
    assert [split.label(number) for number in range(5)] == [None, None, None, 0, 0]
    assert [split.captions(number) for number in range(3)] == [[], ["a dog", "a cat"], []]
