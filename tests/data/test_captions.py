"""Captions: which texts are captions of an image, from text and from JSON, and which are none."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silc.data.captions import MAX_CAPTION, CaptionReader, lines_of, looks_like_json, visible
from silc.data.folders import pairs_by_list
from silc.data.layouts import read_names
from silc.data.recent import LONGEST_TEXT
from silc.data.shards import Unreadable
from silc.data.shards.caption_key import MAX_JSON, MOST, CaptionKey
from silc.data.tokenizer import build_tokenizer

# Unicode 15.1, DerivedCoreProperties.txt: Default_Ignorable_Code_Point.
DEFAULT_IGNORABLE = [
    *[0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0x200B, 0x2010)],
    *[*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0],
    *[*range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)],
]


def whole(data: bytes | None) -> str:
    (caption,) = CaptionReader("txt", lines=False).read(data)
    return caption


def test_a_caption_is_stripped_and_the_rest_has_a_reason():
    assert whole(b"  a caf\xc3\xa9\n") == "a caf\u00e9"
    assert whole("\ufeff a dog".encode()) == "a dog"
    for data, reason in ((None, "no caption"), (b" \n", "empty caption"), (b"\xff\xfe", "not utf-8")):
        with pytest.raises(Unreadable, match=reason):
            whole(data)


def test_of_a_long_caption_the_beginning_is_decoded():
    limit = MAX_CAPTION
    assert limit >= 4 * LONGEST_TEXT
    assert len(whole(b" " * 50_000_000 + b"dog " * 10_000_000)) <= limit
    for cut in range(4):  # inside a character, too
        text = whole(b"x" * cut + "\U0001f600".encode() * limit)
        assert text == "x" * cut + "\U0001f600" * ((limit - cut) // 4)
    long = "\u00e9" * (limit // 2)
    assert whole(long.encode()) == long
    with pytest.raises(Unreadable, match="not utf-8"):
        whole(b"a\xff" * limit)
    with pytest.raises(Unreadable, match="empty"):
        whole(b" " * (limit + 1))


def test_every_character_that_cannot_be_seen_is_known():
    for code in DEFAULT_IGNORABLE:
        assert not visible(chr(code)), hex(code)
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace() or category in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"):
            assert not visible(character), hex(code)
        elif category[0] in "LNP" and code not in DEFAULT_IGNORABLE:
            assert visible(character), hex(code)


@given(st.text(st.sampled_from([chr(code) for code in DEFAULT_IGNORABLE] + list(" \n\t\u2028\u2800\ufffc"))))
def test_captions_without_a_visible_character_are_empty(text):
    for lines in (True, False):
        with pytest.raises(Unreadable, match="empty caption"):
            CaptionReader("txt", lines=lines).read(text.encode())
        with pytest.raises(Unreadable, match="empty caption"):
            CaptionReader("json:caption", lines=lines).read(json.dumps({"caption": [text, None]}).encode())


def test_what_is_left_as_a_caption_never_becomes_the_empty_text():
    tokens = build_tokenizer("open_clip_bpe", 8)
    for text in ("\ufeff", "\u200b", "\u2800", "\u3164", "\ufe0f\u200d", "\u202e"):
        assert not visible(text)
    for text in ("a", "\u72ac", "\U0001f415", "!", "\u0915"):
        assert visible(text)
        assert (tokens([text])[0] != 0).sum() > 2


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))))
def test_lines_end_at_line_feeds_alone(lines):
    assert lines_of("\n".join(lines)) == [line.strip() for line in lines] or not lines
    assert lines_of("\r\n".join(lines)) == [line.strip() for line in lines] or not lines


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
def test_no_other_separator_ends_a_caption(mark):
    text = f"a dog on{mark}a sofa"
    assert CaptionReader("txt", lines=True).read(text.encode()) == [text]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_no_other_separator_ends_a_class_name_or_a_file_name(tmp_path, mark):
    names = tmp_path / "names.txt"
    names.write_bytes(f"\ufeffhot{mark}dog\r\ncat\nhouse\n".encode())
    assert read_names(names, "eval.classes") == (f"hot{mark}dog", "cat", "house")
    pairs = pairs_by_list(names, tmp_path, tmp_path)
    assert [pair.key for pair in pairs] == [f"hot{mark}dog", "cat", "house"]


def test_several_captions_of_one_image():
    text = b"\xef\xbb\xbfa dog\r\n\n  two dogs \n\xe2\x80\x8b\nthree dogs"
    assert CaptionReader("txt", lines=True).read(text) == ["a dog", "two dogs", "three dogs"]
    assert len(CaptionReader("txt", lines=False).read(text)) == 1
    assert len(CaptionReader("txt", lines=True).read(b"a\n" * 100_000)) == MOST


COCO = {"sentences": [{"raw": "a dog"}, {"raw": "two dogs"}, {"tokens": []}, 3], "caption": "one\nwhole"}


@pytest.mark.parametrize(
    ("key", "value", "captions"),
    [
        ("json:caption", COCO, ["one\nwhole"]),
        ("json:sentences.raw", COCO, ["a dog", "two dogs"]),
        ("json:captions", {"captions": [" a ", "", "b", None, 4]}, ["a", "b"]),
        ("json:a.b.c", {"a": {"b": {"c": "deep"}}}, ["deep"]),
        ("json:a.b", {"a.b": "dotted", "a": {"b": "deep"}}, ["dotted"]),
        ("json:a.b.c", {"a.b": {"c": "half dotted"}}, ["half dotted"]),
        ("JSON:Caption", {"Caption": "as written", "caption": "not this"}, ["as written"]),
        ("json:caption", [{"caption": "in a list"}], ["in a list"]),
        ("txt:caption", {"caption": "json in a txt"}, ["json in a txt"]),
    ],
)
def test_a_field_of_a_json(key, value, captions):
    reader = CaptionReader(key, lines=True)
    assert reader.extension == key.partition(":")[0].lower()
    assert reader.read(json.dumps(value).encode()) == captions


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no caption"),
        (b"a dog", "json is damaged"),
        (b"{", "json is damaged"),
        (b"\xff", "json is damaged"),
        (b'"a dog"', "no field caption in the json"),
        (b"{}", "no field caption in the json"),
        (b'{"caption": 3}', "field caption is no text"),
        (b'{"caption": {"en": "a dog"}}', "field caption is no text"),
        (b'{"caption": null}', "empty caption"),
        (b'{"caption": " "}', "empty caption"),
        (b'{"caption": []}', "no field caption in the json"),
        (b"[" * 100_000, "json is damaged"),
        (b'{"caption": "' + b"a" * MAX_JSON + b'"}', "more than 1 MiB"),
    ],
)
def test_json_without_a_caption(data, reason):
    with pytest.raises(Unreadable, match=reason):
        CaptionReader("json:caption", lines=True).read(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["caption", "a", "a.b", "b"]), x),
    )
)
def test_any_json_gives_captions_or_a_reason(value):
    for key in ("json:caption", "json:a.b", "json:a.b.caption", "json:."):
        try:
            captions = CaptionReader(key, lines=True).read(json.dumps(value).encode())
        except Unreadable:
            continue
        assert captions
        assert all(visible(caption) and caption == caption.strip() for caption in captions)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"caption": "a dog"}', True),
        ('\ufeff [{"caption": "a dog"}]\n', True),
        ('["a dog", "a cat"]', True),
        ("{}", True),
        ("{a dog}", False),
        ("[photo]", False),
        ("[1, 2]", False),
        ('"a dog"', False),
        ("{" * 100_000 + "}" * 100_000, False),
        ("a dog", False),
        ("", False),
    ],
)
def test_captions_that_look_like_json(text, expected):
    assert looks_like_json(text) is expected


def test_hashes_of_captions_in_json_are_those_of_the_texts():
    key = CaptionKey.of("json:caption")
    assert key.hashed(b'{"caption": "a dog", "url": "x"}') == b"a dog"
    assert key.hashed(b'{"caption": ["a", "b"]}') == b"a\nb"
    assert key.hashed(b"{}") is None
    assert CaptionKey.of("TXT").hashed(b"a dog") == b"a dog"
    assert str(CaptionKey.of("JSON:Caption")) == "json:Caption"
