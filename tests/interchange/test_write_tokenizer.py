"""Tokenizers that go with an export: the same ids as open_clip's, in transformers and in the tokenizers library."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import replace
from pathlib import Path

import ftfy
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from silc.config import Config, DataConfig, ModelConfig, TextConfig, VisionConfig
from silc.data import build_tokenizer
from silc.interchange.write.tokenizer import HERE, hub_name, write_alone, write_for_open_clip, write_for_transformers
from tests.data.small_tokenizers import change_json, make_bpe_tokenizer, make_siglip_tokenizer, make_word_tokenizer
from tests.interchange.sources import varied

LENGTH = 12
CAPTIONS = [
    "a photo of a cat",
    "Two RED boats, beside a green tree!!!",
    "  white \t space\n and  more ",
    "it's, they\u2019re, “quoted” — don't?!",
    "12 houses in 2024 cost 3,500",
    "naïve café, übergroß, Ελλάδα, ΣΟΦΟΣ ΛΟΓΟΣ, Москва, 東京, भारत, 한국어, ไทย",
    "emoji 😀👩‍🚀🇫🇷 and ©®™",
    "!", "! a!b !!!! ?!", "a" * 300, "", " ",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "under_score and back\\slash <b> tags </b> #hash @at",
]  # fmt: skip
OPEN_CLIP = SimpleTokenizer(context_length=LENGTH)
KINDS = ("word", "bpe", "siglip")


def config_with(tokenizer: str = "open_clip_bpe", clean: str = "auto") -> Config:
    vision = VisionConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2)
    text = TextConfig(context_length=LENGTH, vocab_size=49408, width=16, depth=1, heads=2)
    data = DataConfig(tokenizer=tokenizer, tokenizer_clean=clean)
    return Config(model=ModelConfig(vision=vision, text=text), data=data)


def both(folder: Path, source) -> tuple[AutoTokenizer, Tokenizer]:
    """As transformers has it, and as the tokenizers library has it alone."""
    folder.mkdir(exist_ok=True)
    ids = write_for_transformers(source, folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert {name: getattr(loaded, name) for name in ids} == ids
    write_alone(source, folder / "alone.json")
    return loaded, Tokenizer.from_file(str(folder / "alone.json"))


def ids_of(tokenizer: AutoTokenizer, texts: list[str]) -> list[list[int]]:
    found = tokenizer(texts, padding="max_length", truncation=True)
    assert list(found) == ["input_ids"]
    return found["input_ids"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[AutoTokenizer, Tokenizer]:
    return both(tmp_path_factory.mktemp("clip"), varied(config_with()))


def test_clips_tokens_are_open_clips(clip):
    theirs = OPEN_CLIP(CAPTIONS).tolist()
    assert ids_of(clip[0], CAPTIONS) == theirs
    assert [found.ids for found in clip[1].encode_batch(CAPTIONS)] == theirs


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS | st.sampled_from(["a", "Cat's", "!!", "12", "ΑΣ", "it\u2019s", "\n"]), max_size=8).map(" ".join))
@example("İstanbul ΑΣ ")
@example("\u00a0no-break\u3000space")
def test_clips_tokens_on_any_text_that_needs_no_repair(clip, text):
    repaired = ftfy.fix_text(text, uncurl_quotes=False)
    assume(repaired == text and html.unescape(text) == text)
    assume("<start_of_text>" not in text.lower() and "<end_of_text>" not in text.lower())
    # Of all other signs, each alone, in a word and between words, one gives other ids. Python's rule for a sigma at the
    # end of a word looks beyond its neighbours.
    assume("\u0345" not in text and "Σ" not in text.replace("ΑΣ ", ""))
    theirs = OPEN_CLIP([text]).tolist()
    assert ids_of(clip[0], [text]) == theirs
    assert [clip[1].encode(text).ids] == theirs


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("tokenizers")
    words = ["a", "photo", "of", "cat", "cats", "two", "red", "boats", "one", "three"]
    return {
        "word": make_word_tokenizer(place / "word", words),
        "bpe": make_bpe_tokenizer(place / "bpe"),
        "siglip": make_siglip_tokenizer(place / "siglip"),
    }


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hugging_face_tokenizer_cleans_as_open_clip_does(folders, tmp_path, kind, clean):
    theirs = HFTokenizer(str(folders[kind]), context_length=LENGTH, clean=clean)(CAPTIONS).tolist()
    loaded, alone = both(tmp_path, varied(config_with(str(folders[kind]), clean)))
    assert ids_of(loaded, CAPTIONS) == theirs
    assert [found.ids for found in alone.encode_batch(CAPTIONS)] == theirs


@pytest.mark.parametrize("kind", [*KINDS, "clip"])
def test_what_was_written_is_read_here_again(folders, tmp_path, kind):
    """With the same ids, from whatever was written for transformers; nothing in it names the first folder."""
    shutil.copytree(folders.get(kind, folders["bpe"]), tmp_path / "first")
    source = varied(config_with("open_clip_bpe" if kind == "clip" else str(tmp_path / "first")))
    both(tmp_path / "second", source)
    wanted = build_tokenizer(source.tokenizer, LENGTH)(CAPTIONS).tolist()
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "second").rename(tmp_path / "third")
    assert build_tokenizer(str(tmp_path / "third"), LENGTH)(CAPTIONS).tolist() == wanted
    for file in (tmp_path / "third").iterdir():
        assert str(tmp_path) not in file.read_text()


@pytest.mark.parametrize("clean", ["lower", "whitespace"])
def test_what_open_clip_is_told(folders, tmp_path, clean):
    found = write_for_open_clip(varied(config_with(str(folders["bpe"]), clean)), tmp_path)
    assert found == {"hf_tokenizer_name": HERE, "tokenizer_kwargs": {"clean": clean}}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["pad_token"]
    own = write_for_open_clip(varied(config_with(clean=clean)), tmp_path)
    assert own == ({} if clean == "lower" else {"tokenizer_kwargs": {"clean": clean}})


def test_options_that_only_open_clip_has_stay_with_it(tmp_path, folders):
    """Separators are replaced by 0."""
    folder = tmp_path / "given"
    shutil.copytree(folders["word"], folder)
    change_json(folder / "tokenizer_config.json", sep_token="cat")
    options = {"clean": "lower", "strip_sep_token": True}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"text_cfg": {"tokenizer_kwargs": options}}})
    )
    source = varied(config_with(str(folder)))
    (tmp_path / "out").mkdir()
    assert write_for_open_clip(source, tmp_path / "out")["tokenizer_kwargs"] == options
    with pytest.raises(ValueError, match="strip_sep_token"):
        write_for_transformers(source, tmp_path / "out")


def test_a_name_on_the_hub_stays_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_name("org/name") == "org/name"
    (tmp_path / "org" / "name").mkdir(parents=True)
    for place in ("org/name", "/data/tokenizer", "../tokenizer", "a/b/c", ""):
        assert hub_name(place) == HERE


def test_a_source_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="does not say which tokenizer it was trained with"):
        write_for_open_clip(replace(varied(config_with()), tokenizer=None), Path())
