"""The figures of a sample, beside Pillow, NumPy and a Counter."""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from silc.config import Config, DataConfig, TextConfig
from silc.data.survey import languages, numbers, overview, sampling, tokens
from silc.data.survey.addresses import find
from silc.data.survey.facts import facts
from silc.data.survey.fields import DEEP, KINDS, Fields
from silc.data.survey.overview import Overview, survey
from silc.data.tokenizer import build_tokenizer
from silc.data.tokens import Tokenizer
from tests.data.small_tokenizers import make_word_tokenizer
from tests.data.survey.sets import encoded, odd, pair, picture, whole, write

WORDS = st.text("ab éß猫", max_size=40).map(str.strip).filter(bool)


@functools.cache
def wide() -> Tokenizer:
    """A tokenizer that truncates nothing here."""
    return build_tokenizer("open_clip_bpe", 256)


@functools.cache
def counted() -> Callable[[str], int]:
    return tokens.counter("open_clip_bpe", 64)


def seen(folder: Path, config: Config | None = None, count: int | None = None, seed: int = 0) -> Overview:
    config = config or Config()
    opened = sampling.open_index(find([str(folder)]), config.data.image_keys)
    total = int(opened.manifest.samples.sum())
    drawn = sampling.draw(total, total if count is None else count, seed)
    return survey(opened, config, sorted(sampling.places(opened.manifest, drawn)), seed)


def test_sizes_and_captions_are_those_of_pillow_numpy_and_a_counter(tmp_path):
    rng = np.random.default_rng(0)
    sides = rng.integers(20, 600, (30, 2)).tolist()
    kinds = ["JPEG", "PNG", "WEBP"] * 10
    captions = [" ".join(["word"] * int(n)) for n in rng.integers(1, 120, 30)]
    captions[4] = captions[9] = captions[20] = "the same  caption"
    files = [encoded(picture(i, tuple(side)), kind) for i, (side, kind) in enumerate(zip(sides, kinds, strict=True))]
    entries = [
        pair(f"{i:02}", *both, kind.lower().replace("jpeg", "jpg"))
        for i, (both, kind) in enumerate(zip(zip(files, captions, strict=True), kinds, strict=True))
    ]
    write(tmp_path / "set", [list(itertools.chain(*some)) for some in (entries[:11], entries[11:])])
    found = seen(tmp_path / "set")
    images = [Image.open(io.BytesIO(data)) for data in files]
    width, height = (np.array([image.size[axis] for image in images]) for axis in (0, 1))
    for name, values in (
        ("width", width),
        ("height", height),
        ("megapixels", width * height / 1e6),
        ("shorter side", np.minimum(width, height)),
        ("image bytes", [len(data) for data in files]),
        ("sample bytes", [len(a) + len(b) for a, b in zip(files, captions, strict=True)]),
        ("characters", [len(caption) for caption in captions]),
        ("captions", [1] * 30),
    ):
        assert found.sizes[name] == np.quantile(values, numbers.SHARES, method="lower").tolist(), name
    assert found.tally.formats == Counter(image.format for image in images)
    assert found.small == (int((np.minimum(width, height) < 256).sum()), 256)
    edges = [0, *numbers.MEGAPIXELS, np.inf]
    assert [bin.images for bin in found.megapixels] == np.trim_zeros(
        np.histogram(width * height / 1e6, edges)[0]
    ).tolist()
    edges = [0, *numbers.RATIOS, np.inf]
    assert [bin.images for bin in found.ratios] == np.trim_zeros(np.histogram(width / height, edges)[0]).tolist()
    counts = Counter(captions)
    several = sorted(((n, text) for text, n in counts.items() if n > 1), key=lambda item: (-item[0], item[1]))
    assert [times for times, _ in found.frequent] == [times for times, _ in several]
    assert found.frequent[0] == (3, "the same  caption")
    rows = wide()(captions).tolist()
    assert found.context == (64, sum(row.index(max(row)) + 1 > 64 for row in rows))
    assert found.context[1] > 3


def test_turned_images_have_the_size_that_training_sees(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "set", [pair("a", encoded(picture(1, (90, 30)), exif=exif), "a")])
    found = seen(tmp_path / "set")
    assert (found.sizes["width"][0], found.sizes["height"][0]) == (30, 90)
    assert found.tally.orientations == {"6": 1}


def test_odd_images_and_several_captions(tmp_path):
    entries = [
        entry
        for name, data in odd().items()
        for entry in pair(name.partition(".")[0], data, f"{name}\n\nsecond\nthird", name.partition(".")[2])
    ]
    write(tmp_path / "set", [entries])
    found = seen(tmp_path / "set")
    assert (found.captions, found.several, found.sizes["captions"]) == (21, 7, [3.0] * 7)
    assert found.frequent == [(7, "second"), (7, "third")]
    assert (found.tally.alpha, found.tally.deep, found.tally.animated, found.tally.not_srgb) == (1, 1, 1, 1)
    assert json.loads(json.dumps(found.to_dict()))["samples_with_several_captions"] == 7
    config = Config(data=DataConfig(caption_lines=False))
    assert seen(tmp_path / "set", config).captions == 7


def test_long_captions_that_begin_alike_are_different(tmp_path):
    texts = ["x" * 400, "x" * 400 + "y", "x" * 400 + "y"]
    write(tmp_path / "set", [[entry for i, text in enumerate(texts) for entry in pair(f"{i}", None, text)]])
    assert seen(tmp_path / "set").frequent == [(2, "x" * 299 + "…")]


def test_many_different_captions_are_counted_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(overview, "MOST_CAPTIONS", 5)
    texts = [f"rare {i}" if i % 3 else "common" for i in range(60)]
    write(tmp_path / "set", [[entry for i, text in enumerate(texts) for entry in pair(f"{i:02}", None, text)]])
    assert seen(tmp_path / "set").frequent[0] == (20, "common")


def test_an_index_that_does_not_fit_any_more_is_not_used(tmp_path):
    from silc.commands.shards.main import main

    write(tmp_path / "set", [whole(3)])
    assert main(["index", str(tmp_path / "set")]) == 0
    write(tmp_path / "set", [whole(5, seed=9)])
    assert (seen(tmp_path / "set").samples, seen(tmp_path / "set").sampled) == (5, 5)
    (tmp_path / "set" / "shards.manifest").write_bytes(b"damaged")
    assert seen(tmp_path / "set").samples == 5


def test_an_index_in_another_folder(tmp_path, cache):
    from silc.commands.shards.main import main

    write(tmp_path / "set", [whole(3), whole(2, seed=5)])
    assert main(["index", str(tmp_path / "set"), "--out", str(tmp_path / "index")]) == 0
    for name in ("index", "index/shards.manifest"):
        assert seen(tmp_path / name).samples == 5
    assert not list(cache.rglob("*.idx"))


def test_remote_shards_need_an_index(s3):
    from silc.commands.shards.main import main
    from silc.storage import put
    from tests.data.shards import tars

    put(s3.address("00000.tar"), tars.pack(whole(4)))
    with pytest.raises(
        ValueError, match=r"has no index that lists these shards; make it with `silc shards index s3://"
    ):
        sampling.open_index(find([s3.address("")]), ["jpg"])
    assert main(["index", s3.address("")]) == 0
    config = Config()
    opened = sampling.open_index(find([s3.address("")]), config.data.image_keys)
    assert survey(opened, config, sampling.places(opened.manifest, np.array([3, 1])), 0).captions == 2


@given(total=st.integers(0, 3000), share=st.floats(0, 1), seed=st.integers(0, 2**63 - 1))
def test_a_drawing_has_different_numbers_and_is_the_same_again(total, share, seed):
    count = int(total * share)
    found = sampling.draw(total, count, seed)
    assert len(found) == len(set(found.tolist())) == count
    assert all(0 <= number < total for number in found.tolist())
    assert (sampling.draw(total, count, seed) == found).all()


def test_a_drawing_is_even_and_quick_among_many():
    found = sampling.draw(10**12, 10_000, 3)
    assert len(set(found.tolist())) == 10_000
    counts = np.histogram(found, 10, (0, 10**12))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 30  # chi-square of 9 degrees: beyond 30 once in 2,000
    assert sampling.draw(10**12, 5, 3).tolist() != sampling.draw(10**12, 5, 4).tolist()


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_quantiles_are_those_of_numpy(values):
    assert numbers.quantiles(values) == np.quantile(values, numbers.SHARES, method="lower").tolist()


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("A cat, and кот", "Latin"),
        ("Кошка on окне", "Cyrillic"),
        ("一只猫 cat", "Han"),
        ("ねこがいる猫", "Japanese kana"),
        ("고양이", "Hangul"),
        ("قطة", "Arabic"),
        ("γάτα", "Greek"),
        ("बिल्ली", "Devanagari"),
        ("123 !?", languages.NO_LETTERS),
        ("", languages.NO_LETTERS),
    ],
)
def test_scripts(text, script):
    assert languages.script_of(text) == script


def test_languages_are_those_of_py3langid_and_short_captions_have_none():
    identify = languages.identifier()
    assert identify is not None
    texts = [
        "Ein Hund läuft über die Wiese",
        "A dog runs over the meadow",
        "一只猫坐在窗台上看着外面的雨",
        "image",
        "12345678901234567890",
    ]
    scripts, found = languages.count(texts, identify)
    assert scripts == {"Latin": 3, "Han": 1, languages.NO_LETTERS: 1}
    assert found == {"de": 1, "en": 1, "zh": 1, languages.TOO_SHORT: 2}
    assert languages.count(texts, None)[1] == {}


@settings(deadline=None)  # the tokenizer's words are read from a file
@given(text=WORDS)
def test_tokens_are_as_many_as_the_tokenizer_writes(text):
    row = wide()([text])[0].tolist()
    assert counted()(text) == row.index(max(row)) + 1


def test_tokens_of_a_tokenizer_of_hugging_face(tmp_path):
    """A token a word, with one at the end."""
    make_word_tokenizer(tmp_path, ["a", "b"])
    count = tokens.counter(str(tmp_path), 8)
    assert [count("a"), count("a b a"), count("a " * 5000)] == [2, 4, tokens.LONGEST]


def test_a_model_that_reads_few_tokens(tmp_path):
    write(tmp_path / "set", [[*pair("a", None, "one two three four five"), *pair("b", None, "one")]])
    config = Config()
    config.model.text = TextConfig(context_length=5)
    found = seen(tmp_path / "set", config)
    assert found.context == (5, 1)
    assert "1 (50 %) of the captions are longer than the 5 tokens that the model reads" in list(facts(found))


def test_fields_of_json():
    fields = Fields()
    for value in (
        {"caption": "one", "meta": {"alt": ["two", "three"], "n": 1, "deep": {"er": "x"}}, "a.b": "dotted"},
        {"caption": None, "meta": {"alt": []}},
        {"caption": " "},
        [1, 2],
    ):
        fields.add(json.dumps(value).encode())
    for data in (b"", b"\xff", b"[" * 100_000, b"{" + b" " * (2 << 20)):
        fields.add(data)
    assert (fields.objects, fields.damaged) == (3, 5)
    found = {each["field"]: (each["samples"], each["texts"]) for each in fields.to_list()}
    assert found == {
        "caption": (3, 1),
        "meta.alt": (2, 1),
        "meta.n": (1, 0),
        "meta.deep": (1, 0),
        "a.b": (1, 1),
    }
    assert fields.to_list()[0]["example"] == "one"
    assert DEEP == 2


def test_ever_other_fields_are_counted_together():
    fields = Fields()
    for i in range(20):
        fields.add(json.dumps({f"{i}-{j}": "x" * 1000 for j in range(100)}).encode())
    assert len(fields.to_list()) == KINDS
    assert fields.rest == 2000 - KINDS
    assert max(len(each["example"]) for each in fields.to_list()) <= 80
