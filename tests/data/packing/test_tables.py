"""Tables: columns, paths, odd files; any caption comes out as the reader of the trainer has it."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.commands.shards.pack import sentences
from silc.data.captions import CaptionReader, visible
from silc.data.packing import delimited, json_files, lines, paths
from silc.data.packing.find import find
from silc.data.packing.options import SourceOptions
from silc.data.packing.rows import ADDRESS, JSON, MISSING, OUTSIDE, Skip
from tests.data.packing.packed import by_source, captions, image, packed, skipped


def images(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(image(number))


def table(folder: Path, name: str, text: str, count: int = 3) -> Path:
    """A file of rows, beside `count` images."""
    images(folder, count)
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(path: Path, **options) -> list:
    return list(find(str(path), SourceOptions(**options)).rows())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image,caption\n0.jpg,a dog\n1.jpg,a cat\n"),
        ("a.csv", "\ufeffID;File Name;Caption\r\n7;0.jpg;a dog\r\n8;1.jpg;a cat"),
        ("a.csv", 'filepath,title,caption\n"0.jpg","t","a dog"\n1.jpg,,a cat\n\n'),
        ("a.tsv", "caption\timage_path\na dog\t0.jpg\na cat\t./1.jpg\n"),
        ("a.jsonl", '{"image": "0.jpg", "caption": "a dog"}\n\n{"caption": "a cat", "image": "1.jpg", "n": 1}\n'),
        ("a.ndjson", '{"file_name": "0.jpg", "TEXT": "a dog"}\n{"file_name": "1.jpg", "TEXT": "a cat"}'),
        ("a.json", '{"image": "0.jpg", "caption": "a dog"}\n{"image": "1.jpg", "caption": "a cat"}\n'),
        ("a.json", ' [{"image": "0.jpg", "caption": "a dog"}, {"image": "1.jpg", "caption": ["a cat"]}]'),
        ("captions.txt", "image,caption\n0.jpg,a dog\n1.jpg,a cat\n"),
    ],
)
def test_the_usual_columns_are_found(tmp_path, name, text):
    path = table(tmp_path / "in", name, text)
    packed(path, tmp_path / "out")
    found = by_source(tmp_path / "out")
    assert {sample["jpg"]: sample["txt"] for sample in found.values()} == {image(0): b"a dog", image(1): b"a cat"}
    assert all(name in source for source in found)


def test_columns_by_name_and_what_is_said(tmp_path):
    path = table(tmp_path, "a.csv", "image,x,y\nno.jpg,0.jpg,a dog\n")
    found = find(str(path), SourceOptions(image_column="x", caption_column="y"))
    assert found.title == "a CSV file"
    assert found.notes == ["images from column 'x', captions from column 'y'"]
    assert next(found.rows()).image == "0.jpg"


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("a,b\n1,2\n", {}, r"no column of images among a, b; name one with --image-column"),
        ("image,b\n1,2\n", {}, r"no column of captions among image, b; name one with --caption-column"),
        ("image,b\n1,2\n", {"caption_column": "c"}, r"--caption-column c: there is no such column, only image, b"),
        ("url,caption\nhttp://x/1.jpg,2\n", {}, r"names web addresses.*img2dataset"),
        ("", {}, r"no column of images among none"),
        ("image,caption\n", {"template": "a {}"}, r"--template means nothing here, as the source is a CSV file"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, text, options, says):
    with pytest.raises(ValueError, match=says):
        find(str(table(tmp_path, "a.csv", text)), SourceOptions(**options))


def test_captions_that_are_json_are_refused_or_counted(tmp_path):
    text = json.dumps({"caption": "a dog"})
    lines = [json.dumps({"image": f"{n}.jpg", "caption": text}) for n in range(3)]
    path = table(tmp_path / "in", "a.jsonl", "\n".join(lines))
    with pytest.raises(
        ValueError, match=r"""caption is JSON, as in a.jsonl:1: '{"caption": "a dog"}'; name a column"""
    ):
        paths.check_beginning(find(str(path), SourceOptions()))
    lines.append(json.dumps({"image": "0.jpg", "caption": [text, "a dog"]}))
    path.write_text("\n".join([*lines, json.dumps({"image": "1.jpg", "caption": "[laughs] a cat"})]))
    paths.check_beginning(find(str(path), SourceOptions()))
    finished = packed(path, tmp_path / "out", max_skipped=0.9)
    assert sorted(captions(tmp_path / "out").values()) == [["[laughs] a cat"], [text, "a dog"]]
    assert finished.skipped == {JSON: 3}


def test_a_row_has_as_many_captions_as_are_read(tmp_path):
    texts = ["", *(f"caption {n}" for n in range(1200))]
    line = json.dumps({"image": "0.jpg", "caption": texts})
    path = table(tmp_path / "in", "a.jsonl", line + '\n{"image": "1.jpg", "caption": ["a", null]}')
    finished = packed(path, tmp_path / "out")
    assert sorted(captions(tmp_path / "out").values()) == [["a"], texts[1:1001]]
    assert (finished.captions, finished.full) == (1001, 1)
    line = sentences(finished, "out", find(str(path), SourceOptions()))[1]
    assert line == "1 sample with 1,000 captions, as many as are read; if there are more, these are left out"


def test_rows_of_one_image_become_one_sample(tmp_path):
    text = "image,caption\n0.jpg,one\n0.jpg,two\n1.jpg,three\n0.jpg,four\n"
    packed(table(tmp_path / "in", "captions.csv", text), tmp_path / "out")
    assert sorted(captions(tmp_path / "out").values()) == [["four"], ["one", "two"], ["three"]]


def test_more_captions_than_are_read_become_several_samples(tmp_path):
    text = "image,caption\n" + "".join(f"0.jpg,caption {n}\n" for n in range(2500))
    assert [len(row.captions) for row in rows(table(tmp_path, "a.csv", text))] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.jpg", OUTSIDE),
        ("sub/../../secret.jpg", OUTSIDE),
        ("/etc/passwd", OUTSIDE),
        ("a\0b.jpg", OUTSIDE),
        (".", OUTSIDE),
        ("..", OUTSIDE),
        ("https://host/1.jpg", ADDRESS),
        ("s3://bucket/1.jpg", ADDRESS),
        ("data:image/png;base64,AAAA", ADDRESS),
        ("", "no image named"),
    ],
)
def test_paths_that_lead_elsewhere_are_left_out(tmp_path, path, reason):
    (tmp_path / "secret.jpg").write_bytes(image(5))
    lines = [json.dumps({"image": name, "caption": "a dog"}) for name in ["0.jpg", path, "1.jpg"]]
    found = table(tmp_path / "in", "a.jsonl", "\n".join(lines))
    finished = packed(found, tmp_path / "out", max_skipped=0.5)
    assert (finished.samples, finished.skipped) == (2, {reason: 1})
    (name,) = skipped(tmp_path / "out")
    assert name.startswith("a.jsonl:2")


def test_images_in_a_folder_near_the_table_are_found(tmp_path):
    text = "image,caption\n0.jpg,a dog\n1.jpg,a cat\n"
    images(tmp_path / "in" / "Images", 2)  # as Flickr8k is handed out
    images(tmp_path / "in" / "0", 1)
    path = table(tmp_path / "in", "captions.txt", text, count=0)
    found, folder = find(str(path), SourceOptions()), f"{tmp_path}/in/Images"
    assert (found.root, found.notes[-1]) == (folder, f"images are looked for in {folder}")
    packed(path, tmp_path / "out")
    assert len(by_source(tmp_path / "out")) == 2
    assert find(str(path), SourceOptions(root=str(tmp_path))).root == str(tmp_path)
    beside = table(tmp_path / "other", "captions.txt", text, count=0)
    assert find(str(beside), SourceOptions()).root == f"{tmp_path}/other"  # not the images of another set


def test_the_root_decides_what_lies_outside(tmp_path):
    images(tmp_path / "images")
    text = f"image,caption\n{tmp_path}/images/0.jpg,a dog\n1.jpg,a cat\n"
    path = table(tmp_path / "in", "a.csv", text, count=0)
    for root, expected in ((tmp_path / "images", {"0.jpg", "1.jpg"}), ("/", {f"{tmp_path}/images/0.jpg"[1:], "1.jpg"})):
        found = rows(path, root=str(root))
        assert {row.image for row in found} == expected
    assert next(type(row) for row in rows(path)) is Skip


@given(st.text(st.sampled_from("ab./\\~\0"), max_size=12), st.sampled_from(["/", "/a", "/a/b", "/a."]))
def test_no_path_leaves_the_root(path, root):
    try:
        found = paths.below(path, root)
    except paths.Unreadable:
        return
    joined = os.path.normpath(f"{root}/{found}")
    assert joined.startswith(root.rstrip("/") + "/")
    assert ".." not in found.split("/")
    assert not os.path.isabs(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("../0.jpg", f"{OUTSIDE}, as in .*; paths must lie below .* with --root"),
        ("no.jpg", f"{MISSING}, as in a.csv:2; paths count from .*: give their folder with --root"),
        ("http://x/0.jpg", f"{ADDRESS}, as in .*img2dataset"),
    ],
)
def test_a_wrong_root_is_known_before_work_starts(tmp_path, text, says):
    path = table(tmp_path, "a.csv", "image,caption\n" + f"{text},a dog\n" * 1)
    with pytest.raises(ValueError, match=says):
        paths.check_beginning(find(str(path), SourceOptions()))
    with pytest.raises(ValueError, match="there is no row in it"):
        paths.check_beginning(find(str(table(tmp_path, "b.csv", "image,caption\n")), SourceOptions()))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", 'image,caption\n0.jpg,"a dog\n1.jpg,a cat\n', r"line 3: unexpected end of data; .*--no-quotes"),
        ("a.csv", 'image,caption\n0.jpg,"a" dog\n', r"line 2: ',' expected after '\"'; .*--no-quotes"),
        ("a.csv", b"image,caption\n0.jpg,gr\xfcn\n", r"not UTF-8 text \(it has a byte 0xfc\).*iconv -f LATIN1"),
        ("a.csv", "image,caption\n0.jpg,a dog\n".encode("utf-16"), r"is UTF-16; save it as UTF-8"),
        ("a.csv", "image,caption\n0.jpg," + "x" * 3000, r"line 2 has more than"),
        ("a.csv", 'image,caption\n0.jpg,"' + "x y\n" * 600 + '"', r"field larger than field limit"),
    ],
)
def test_damaged_text_is_refused_with_its_line(tmp_path, monkeypatch, name, data, says):
    monkeypatch.setattr(lines, "MAX_LINE", 2048)
    monkeypatch.setattr(delimited, "MAX_FIELD", 1024)
    with pytest.raises(ValueError, match=says):
        rows(table(tmp_path, name, data))


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 1 << 16)
    for name, beginning in (
        ("a.csv", b"image,caption\n0.jpg,"),
        ("a.jsonl", b'{"image": "0.jpg", "caption": "x"}\n{"'),
    ):
        path = tmp_path / name
        path.write_bytes(beginning)
        os.truncate(path, 1 << 40)  # a terabyte of zeros
        with pytest.raises(ValueError, match="line 2 has more than 0 million characters"):
            rows(path)


def test_bad_lines_of_json_are_counted(tmp_path):
    deep = "[" * 100_000
    text = "\n".join(
        [
            '{"image": "0.jpg", "caption": "a dog"}',
            "[1]",
            "{",
            deep,
            '{"image": "1.jpg"}',
            '{"image": 3, "caption": ""}',
            '{"image": "1.jpg", "caption": {"a": 1}}',
            '{"image": "2.jpg", "caption": "a \\ud800"}',
        ]
    )
    finished = packed(table(tmp_path / "in", "a.jsonl", text), tmp_path / "out", max_skipped=1.0)
    assert finished.samples == 1
    assert finished.skipped == {
        json_files.BAD_LINE: 3,
        json_files.NO_FIELD: 1,
        "no image named": 1,
        "caption is not text": 1,
        "caption with half a character": 1,
    }


def test_a_name_that_is_too_long_is_counted(tmp_path):
    path = table(tmp_path / "in", "a.csv", f"image,caption\n0.jpg,a dog\n{'x' * 5000},a cat\n")
    assert packed(path, tmp_path / "out", max_skipped=0.5).skipped == {"unreadable file (File name too long)": 1}


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="a pipe, socket or device"):
        find(str(tmp_path / "a.csv"), SourceOptions())
    images(tmp_path)
    os.mkfifo(tmp_path / "p.jpg")
    finished = packed(table(tmp_path, "b.csv", "image,caption\n0.jpg,x\np.jpg,x\n"), tmp_path / "out", max_skipped=0.5)
    assert finished.skipped == {"not a regular file": 1}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.zip", "is compressed; unpack it"),
        ("a.tar", "is a tar: if it holds WebDataset samples it needs no packing"),
        ("a.arrow", "give the folder in which its state.json lies"),
        ("a.xlsx", "is nothing that is known; a source is a folder of images"),
        ("a.json", "is none of the JSON files that are known"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, says):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=says):
        find(str(tmp_path / name), SourceOptions())


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="hf download --repo-type dataset nlphuji/flickr30k"):
        find("nlphuji/flickr30k", SourceOptions())
    with pytest.raises(ValueError, match="is a web address; download it first"):
        find("https://host/a.csv", SourceOptions())


CAPTIONS = st.text(
    st.one_of(
        st.sampled_from("\n\r\t\"',;|\\ {}[]\u2028\u2029\x85\x0b\x0c\x1c\u200b\ufeff#"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=20,
)


def expected(text: str) -> list[str]:
    """What a caption should come out as: a blank for each run of line ends, stripped; none where nothing is seen."""
    first, *others = text.replace("\r", "\n").split("\n")
    caption = " ".join([first, *(piece for piece in others[:-1] if piece), *others[-1:]]).strip()
    with suppress(ValueError):
        value = json.loads(caption)
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, str | dict) for x in value)):
            return []
    return [caption] if visible(caption) else []


def write_table(folder: Path, kind: str, texts: list[str]) -> Path:
    """The same rows as a file of a kind, by the usual library."""
    names, path = [f"{n}.jpg" for n in range(len(texts))], folder / f"t.{kind}"
    if kind in ("csv", "tsv"):
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t", quoting=csv.QUOTE_ALL)
            writer.writerows([("image", "caption"), *zip(names, texts, strict=True)])
    elif kind == "jsonl":
        path.write_text(
            "".join(
                json.dumps({"image": n, "caption": t}, ensure_ascii=False) + "\n"
                for n, t in zip(names, texts, strict=True)
            ),
            encoding="utf-8",
            newline="",
        )
    else:
        pyarrow.parquet.write_table(pyarrow.table({"image": names, "caption": texts}), path)
    return path


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), st.lists(CAPTIONS, min_size=1, max_size=6))
def test_any_caption_comes_out_as_the_trainer_reads_it(kind, texts):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images(folder, len(texts) + 1)
        path = write_table(folder, kind, [*texts, "the last"])
        packed(path, folder / "out", max_skipped=1.0, jobs=1)
        reader = CaptionReader("txt", lines=True)
        found = {sample["jpg"]: reader.read(sample["txt"]) for sample in by_source(folder / "out").values()}
        wanted = {image(n): expected(text) for n, text in enumerate([*texts, "the last"])}
        assert found == {picture: texts for picture, texts in wanted.items() if texts}
