"""CSV and TSV: delimiters, quotation marks and line ends in captions, whether they are quoted or not."""

from __future__ import annotations

import csv
import io

import pytest

from silc.data.packing import delimited
from tests.data.packing.packed import captions, packed
from tests.data.packing.test_tables import rows, table


def test_delimiters_in_captions_without_quotes(tmp_path):
    text = 'image,caption\n0.jpg,A dog, running, in the park\n1.jpg,"A cat, sitting"\n2.jpg,A bird ,\n'
    packed(table(tmp_path / "in", "captions.txt", text), tmp_path / "out")
    assert sorted(captions(tmp_path / "out").values()) == [
        ["A bird ,"],
        ["A cat, sitting"],
        ["A dog, running, in the park"],
    ]


def test_rows_that_are_too_long_are_counted_where_the_caption_is_not_last(tmp_path):
    text = "caption,image\nA dog, running,0.jpg\nA cat,1.jpg\nA bird,2.jpg,,\n"
    finished = packed(table(tmp_path / "in", "a.csv", text), tmp_path / "out", max_skipped=0.5)
    assert sorted(captions(tmp_path / "out").values()) == [["A bird"], ["A cat"]]
    assert finished.skipped == {delimited.LONG: 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'image,caption\n0.jpg,a dog\n1.jpg,"Stop it\n2.jpg,a cat\n3.jpg,a 5"\n'),
        ("a.csv", 'image,caption\n0.jpg,"Stop it\n1.jpg,a 5"\n'),
        ("a.tsv", 'caption\timage\n"Stop it\t0.jpg\na cat\t1.jpg\na 5"\t2.jpg\n'),
        ("a.csv", 'image,n,caption\nx,0,"Stop it\ny,1,a cat\nz,2,a 5"\n'),
    ],
)  # fmt: skip
def test_a_quotation_mark_that_swallows_rows_is_refused(tmp_path, name, text):
    path = table(tmp_path, name, text)
    with pytest.raises(ValueError, match=r"a quotation mark encloses \d lines, of which others are rows.*--no-quotes"):
        rows(path)
    assert len(rows(path, quotes=False)) == text.count("\n") - 1


def test_captions_of_several_lines(tmp_path):
    text = 'image,caption\n0.jpg,"A dog.\nIt runs, quickly."\n1.jpg,"A cat,\n\nasleep, I think"\n'
    packed(table(tmp_path / "in", "a.csv", text), tmp_path / "out")
    assert sorted(captions(tmp_path / "out").values()) == [["A cat, asleep, I think"], ["A dog. It runs, quickly."]]


def test_quotation_marks_as_they_are(tmp_path):
    path = table(tmp_path / "in", "a.tsv", 'image\tcaption\n0.jpg\t"Hi", she said\n')
    packed(path, tmp_path / "out", reading={"quotes": False})
    assert list(captions(tmp_path / "out").values()) == [['"Hi", she said']]


def test_short_rows_are_counted(tmp_path):
    path = table(tmp_path / "in", "a.csv", "image,caption\n0.jpg,a dog\n1.jpg\n")
    assert packed(path, tmp_path / "out", max_skipped=0.5).skipped == {delimited.SHORT: 1}


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_quotation_marks_count_with_every_delimiter(tmp_path, delimiter):
    wanted = ['he said "hello"; left', f"one{delimiter}two", "plain"]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["image", "caption"])
    writer.writerows([f"{number}.jpg", caption] for number, caption in enumerate(wanted))
    packed(table(tmp_path / "in", "pairs.csv", text.getvalue()), tmp_path / "out")
    assert sorted(captions(tmp_path / "out").values()) == sorted([caption] for caption in wanted)
