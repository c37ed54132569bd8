"""Folders: which kind one is, what is taken from it, what of a stranger's folder does no harm."""

from __future__ import annotations

import json
import os

import pytest

from silc.data.packing import folder
from silc.data.packing.find import find
from silc.data.packing.options import SourceOptions
from silc.data.packing.paths import check_beginning
from silc.data.packing.rows import IRREGULAR, JSON, LINKED, NO_CAPTION, Row, Skip
from silc.data.packing.walk import walk
from tests.data.packing.packed import by_source, captioned, captions, image, packed, skipped


def write(place, **files):
    """Files by path, `.` for `__`."""
    for name, data in files.items():
        path = place / name.replace("__", ".").replace("_in_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return place


def test_captions_beside_images(tmp_path):
    source = captioned(tmp_path / "in", 25)
    finished = packed(source, tmp_path / "out")
    assert (finished.samples, finished.captions, len(finished.shards)) == (25, 25, 1)
    found = by_source(tmp_path / "out")
    assert sorted(found) == [f"{n // 10:03}/{n:05}.jpg" for n in range(25)]
    for number in range(25):
        sample = found[f"{number // 10:03}/{number:05}.jpg"]
        assert sample["jpg"] == image(number)
        assert sample["txt"] == f"picture {number}".encode()
    assert not skipped(tmp_path / "out")


def test_several_lines_are_several_captions(tmp_path):
    write(tmp_path / "in", a__jpg=image(), a__txt="one\r\n\n \u200b\ntwo\u2028three\n")
    packed(tmp_path / "in", tmp_path / "out")
    assert captions(tmp_path / "out") == {"a.jpg": ["one", "two\u2028three"]}


@pytest.mark.parametrize(
    ("option", "files"),
    [
        ("caption", {"a__caption": "a dog"}),
        ("json:caption", {"a__json": '{"caption": "a dog", "url": "x"}'}),
        ("json:texts", {"a__json": '{"texts": ["a dog", ""]}'}),
        ("TXT", {"a__TXT": "a dog"}),
    ],
)
def test_other_files_with_captions(tmp_path, option, files):
    write(tmp_path / "in", a__jpg=image(), **files)
    packed(tmp_path / "in", tmp_path / "out", reading={"captions": option})
    assert captions(tmp_path / "out") == {"a.jpg": ["a dog"]}


def test_the_output_of_img2dataset_works_as_it_comes(tmp_path):
    for number in range(3):
        stem = tmp_path / "in" / "00000" / f"{number:09}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".jpg").write_bytes(image(number))
        stem.with_suffix(".txt").write_text(f"picture {number}")
        stem.with_suffix(".json").write_text("{}")
    write(tmp_path / "in", **{"00000__parquet": "no table", "00000_stats__json": "{}"})
    assert packed(tmp_path / "in", tmp_path / "out").samples == 3


@pytest.mark.parametrize("option", ["json", ".json", "JSON", "meta.json", "json:"])
def test_json_without_a_field_holds_no_captions(tmp_path, option):
    write(tmp_path / "in", a__jpg=image(), a__json='{"caption": "a dog"}')
    with pytest.raises(ValueError, match="give an extension, such as txt, or a field of json: json:caption"):
        find(str(tmp_path / "in"), SourceOptions(captions=option))


def test_json_in_text_files_is_refused_or_counted(tmp_path):
    root = captioned(tmp_path / "in", 4)
    for path in root.rglob("*.txt"):
        path.write_text(json.dumps({"caption": "a dog"}, indent=None))
    found = find(str(root), SourceOptions())
    with pytest.raises(ValueError, match=r"caption is JSON, as in 000/00000.jpg: .* with --captions json:FIELD"):
        check_beginning(found)
    (root / "000" / "00002.txt").write_text("a cat")
    check_beginning(found)
    finished = packed(root, tmp_path / "out", max_skipped=0.9)
    assert (captions(tmp_path / "out"), finished.skipped) == ({"000/00002.jpg": ["a cat"]}, {JSON: 3})


def test_an_image_without_caption_is_counted(tmp_path):
    write(captioned(tmp_path / "in", 20), lone__png=image(kind="png"))
    finished = packed(tmp_path / "in", tmp_path / "out")
    assert (finished.samples, finished.skipped) == (20, {NO_CAPTION: 1})
    assert skipped(tmp_path / "out") == {"lone.png": NO_CAPTION}


def test_class_folders(tmp_path):
    for number, name in enumerate(["Cat", "polar_bear", "ant"]):
        write(tmp_path / "in", **{f"{name}_in_x_in_1__jpg": image(number), f"{name}_in_2__jpg": image(9 + number)})
    write(tmp_path / "in", empty_in_notes__md="", __hidden_in_1__jpg=image())
    packed(tmp_path / "in", tmp_path / "out", reading={"template": "a drawing of a {}, small"})
    names = (tmp_path / "out" / "classnames.txt").read_text().splitlines()
    assert names == ["Cat", "ant", "empty", "polar bear"]
    found = by_source(tmp_path / "out")
    assert len(found) == 6
    for path, sample in found.items():
        name = path.split("/")[0].replace("_", " ")
        assert names[int(sample["cls"])] == name
        assert sample["txt"].decode() == f"a drawing of a {name}, small"


@pytest.mark.parametrize("name", ["a\nb", "_", "a\u2028b", os.fsdecode(b"gr\xfcn")])
def test_class_folders_whose_names_are_no_line_are_refused(tmp_path, name):
    for each in (name, "dog"):
        (tmp_path / "in" / each).mkdir(parents=True)
        (tmp_path / "in" / each / "1.jpg").write_bytes(image())
    with pytest.raises(ValueError, match="has no name that can be read; rename it, or give --classes"):
        find(str(tmp_path / "in"), SourceOptions())


def test_a_single_class_is_one_where_it_is_asked_for(tmp_path):
    write(tmp_path / "in", **{"cat_in_1__jpg": image(), "2__jpg": image()})
    packed(tmp_path / "in", tmp_path / "out", reading={"template": "a {}"}, max_skipped=0.5)
    assert captions(tmp_path / "out") == {"cat/1.jpg": ["a cat"]}
    assert skipped(tmp_path / "out") == {"2.jpg": "not in a class folder"}


def test_only_the_beginning_decides_of_what_kind_a_large_folder_is(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "LOOKED", 10)
    source = captioned(tmp_path / "in", 20)
    write(source, z_in_1__mp4="x")
    assert find(str(source), SourceOptions()).notes == []
    write(source, **{"000_in_1__mp4": "x"})
    assert find(str(source), SourceOptions()).notes == [
        "other files are passed over (among the first 10 images): 1 .mp4"
    ]


def test_names_for_class_folders(tmp_path):
    write(tmp_path / "in", n01440764_in_1__jpg=image(1), n01443537_in_1__jpg=image(2))
    with pytest.raises(ValueError, match=r"have numbers for names \(n01440764, n01443537\); give .* with --classes"):
        find(str(tmp_path / "in"), SourceOptions())
    (tmp_path / "names").write_text("tench\ngoldfish\n")
    packed(tmp_path / "in", tmp_path / "out", reading={"classes": str(tmp_path / "names")})
    assert captions(tmp_path / "out")["n01443537/1.jpg"] == ["a photo of a goldfish"]
    (tmp_path / "names").write_text("tench\n")
    with pytest.raises(ValueError, match="1 name for 2 class folders"):
        find(str(tmp_path / "in"), SourceOptions(classes=str(tmp_path / "names")))


def test_the_kind_is_found_out(tmp_path):
    assert "with .txt files" in find(str(captioned(tmp_path / "a", 3)), SourceOptions()).title
    write(tmp_path / "b", cat_in_1__jpg=image(), dog_in_1__jpg=image(), cat_in_readme__pdf="x", Thumbs__db="x")
    found = find(str(tmp_path / "b"), SourceOptions())
    assert found.title == "2 class folders of images"
    assert found.notes == ["captions as 'a photo of a cat'", "other files are passed over: 1 .db, 1 .pdf"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a__gz": "x", "b__mp4": "x"}, r"has no images \(.*\); it has .gz, .mp4"),
        ({}, "has no images"),
        (
            {"all_in_1__jpg": image(), "all_in_x_in_1__jpg": image()},
            "2 images without a .txt beside, all in one folder",
        ),
        ({"1__jpg": image(), "cat_in_1__jpg": image()}, "2 images without a .txt beside, 1 of them in no class folder"),
        (
            {f"cat_in_{n}__jpg": image() for n in range(4)} | {"cat_in_1__txt": "x"},
            r"1 of 4 images have a .txt beside; say whether .*--captions txt.* or .*--template",
        ),
        ({"train_in_cat_in_1__jpg": image(), "val_in_cat_in_1__jpg": image()}, r"the splits train, val; pack each by"),
        ({"metadata__csv": "x", "1__jpg": image()}, r"has a table, metadata.csv: give that as the source"),
        ({"00000__tar": "x"}, "WebDataset shards need no packing"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, files, says):
    write(tmp_path / "in", **files)
    (tmp_path / "in").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=says):
        find(str(tmp_path / "in"), SourceOptions())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"captions": "txt", "template": "a {}"}, "the one or the other"),
        ({"template": "a photo"}, "must contain {} once"),
        ({"captions": "json"}, "a field of json: json:caption"),
        ({"captions": "a/b"}, "give an extension"),
        ({"image_column": "x"}, "--image-column means nothing here, as the source is a folder"),
        ({"split": "train"}, "--split means nothing here"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, says):
    captioned(tmp_path / "in", 1)
    with pytest.raises(ValueError, match=says):
        find(str(tmp_path / "in"), SourceOptions(**options))


def test_pipes_links_to_nowhere_and_circles(tmp_path):
    root = captioned(tmp_path / "in", 12)
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(root / "000" / "00001.x")
    (root / "lost.jpg").symlink_to("nowhere.jpg")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "circle").symlink_to(root)
    (root / "001" / "up").symlink_to("..")
    (root / "again").symlink_to("000")
    rows = list(find(str(root), SourceOptions()).rows())
    skips = {row for row in rows if isinstance(row, Skip)}
    assert skips == {Skip(name, IRREGULAR) for name in ("pipe.jpg", "lost.jpg", "self.jpg")}
    names = [row.name for row in rows if isinstance(row, Row)]
    assert len(names) == len(set(names)) == 12  # a folder under two names comes once, under its own
    assert {name.partition("/")[0] for name in names} == {"000", "001"}
    assert "3 links to folders that are visited anyway: not followed" in find(str(root), SourceOptions()).notes


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    root = captioned(tmp_path / "in", 2)
    captioned(tmp_path / "elsewhere", 3, first=50)
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere" / "005")  # a part of what "a" leads to
    found = find(str(root), SourceOptions())
    names = [row.name for row in found.rows()]
    assert names == ["000/00000.jpg", "000/00001.jpg", *(f"a/005/000{n}.jpg" for n in (50, 51, 52))]
    assert "2 links to folders that are visited anyway: not followed" in found.notes


def test_a_class_that_is_a_link_to_another_is_counted(tmp_path):
    write(tmp_path / "elsewhere", **{f"{n}__jpg": image(n) for n in range(3)})
    write(tmp_path / "in", ant_in_1__jpg=image(9))
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "elk").symlink_to("ant")
    found = find(str(tmp_path / "in"), SourceOptions())
    assert {row for row in found.rows() if isinstance(row, Skip)} == {Skip("dog/", LINKED), Skip("elk/", LINKED)}
    assert sum(isinstance(row, Row) for row in found.rows()) == 4
    assert "2 links to folders that are visited anyway: not followed" in found.notes


def test_links_that_double_at_each_step_end(tmp_path):
    for step in range(30):  # 2^30 paths
        (tmp_path / f"{step:02}").mkdir()
        for name in "ab":
            (tmp_path / f"{step:02}" / name).symlink_to(tmp_path / f"{step + 1:02}")
    found = list(walk(str(tmp_path / "00")))
    assert (len([each for each in found if not each.again]), len(found)) == (30, 59)


def test_a_pipe_as_a_caption_is_counted(tmp_path):
    root = captioned(tmp_path / "in", 20)
    (root / "000" / "00003.txt").unlink()
    os.mkfifo(root / "000" / "00003.txt")
    finished = packed(root, tmp_path / "out")
    assert (finished.samples, finished.skipped) == (19, {NO_CAPTION: 1})


def test_shards_inside_the_source_are_no_part_of_it(tmp_path):
    root = captioned(tmp_path / "in", 12)
    assert packed(root, root / "shards").samples == 12
    assert packed(root, root / "shards").samples == 12  # as if by the same command again
    assert packed(root, root / "other", making={"size": 16}).samples == 12


def test_names_that_are_not_utf_8(tmp_path):
    root = captioned(tmp_path / "in", 3)
    stem = os.fsencode(root) + b"/gr\xfcn"
    for ending, data in ((b".jpg", image(7)), (b".txt", b"green")):
        with open(stem + ending, "wb") as file:
            file.write(data)
    packed(root, tmp_path / "out")
    assert by_source(tmp_path / "out")["gr\udcfcn.jpg"]["txt"] == b"green"
