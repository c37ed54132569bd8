"""Tokens of a Hugging Face tokenizer are transformers' and open_clip's, and what no text tower can use is refused."""

from __future__ import annotations

import builtins
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, get_clean_fn
from transformers import AutoTokenizer

from silc.config import Config, DataConfig, ModelConfig, TextConfig
from silc.data import build_tokenizer, hf_tokenizer, recent, tokenizer_of
from tests.data.small_tokenizers import change_json, make_bpe_tokenizer, make_siglip_tokenizer, make_word_tokenizer

TEXTS = ["A red_apple, and a dog!", "", "two cats " * 40, "caf\u00c3\u00a9 &amp; cr\u00e8me", "</s> a dog", "x" * 9000]
KINDS = ["T5Tokenizer", "PreTrainedTokenizerFast", "GemmaTokenizer", "Siglip2Tokenizer"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("tokenizers")
    found = {kind: make_siglip_tokenizer(base / kind, kind) for kind in KINDS}
    return found | {"bpe": make_bpe_tokenizer(base / "bpe")}


@pytest.mark.parametrize("kind", [*KINDS, "bpe"])
@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_tokens_are_open_clips_and_transformers(folders, kind, clean):
    mine = build_tokenizer(str(folders[kind]), 16, clean)
    theirs = HFTokenizer(str(folders[kind]), context_length=16, clean=clean)
    read = [text[: recent.longest_text(16)] for text in TEXTS]
    assert torch.equal(mine(TEXTS), theirs(read))
    assert torch.equal(mine(TEXTS), mine(TEXTS)), "what is cached is the same"
    plain = AutoTokenizer.from_pretrained(folders[kind])
    cleaned = [get_clean_fn(clean)(text) for text in read]
    whole = [len(plain(text)["input_ids"]) for text in cleaned]
    asked = {"max_length": 16, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
    assert torch.equal(mine(TEXTS), plain(cleaned, **asked)["input_ids"])
    assert mine.tokenize(TEXTS).truncated == sum(length > 16 for length in whole)
    assert [mine.count(text) for text in TEXTS] == [min(16, length) for length in whole]
    assert (mine(TEXTS).dtype, mine.clean) == (torch.int64, clean)


@given(text=st.text(st.sampled_from("aedo rtA,_.\u00e9\n\u4e00!"), max_size=60), context=st.sampled_from([3, 8, 24]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_on_any_text(folders, text, context):
    mine = made(str(folders["T5Tokenizer"]), context)
    assert torch.equal(mine([text, text]), HFTokenizer.__call__(theirs(mine), [text, text], context))
    ids = mine([text])[0].tolist()
    assert 1 in ids, "an end token, whether the text was cut or not"


CACHE: dict[int, hf_tokenizer.HuggingFaceTokenizer] = {}


def made(name: str, context: int) -> hf_tokenizer.HuggingFaceTokenizer:
    if context not in CACHE:
        CACHE[context] = hf_tokenizer.load(name, context, "canonicalize")
    return CACHE[context]


def theirs(mine: hf_tokenizer.HuggingFaceTokenizer) -> HFTokenizer:
    """open_clip's around the same tokenizer."""
    made = HFTokenizer.__new__(HFTokenizer)
    made.tokenizer_mode, made.strip_sep_token = "", False
    made.tokenizer, made.clean_fn = mine.tokenizer, get_clean_fn("canonicalize")
    return made


def test_how_texts_are_cleaned_where_the_run_does_not_say(tmp_path):
    """As the classes of SigLIP do; as open_clip's description says where there is one; else as open_clip does."""
    for kind, expected in (
        ("SiglipTokenizer", "canonicalize"),
        ("Siglip2Tokenizer", "lower"),
        (KINDS[1], "whitespace"),
    ):
        assert build_tokenizer(str(make_siglip_tokenizer(tmp_path / kind, kind)), 8).clean == expected
    folder = make_siglip_tokenizer(tmp_path / "t5")
    assert build_tokenizer(str(folder), 8).clean == "whitespace"
    change_json(folder / "config.json", model_type="siglip")
    assert build_tokenizer(str(folder), 8).clean == "canonicalize"
    described = {"text_cfg": {"hf_tokenizer_name": "", "tokenizer_kwargs": {"clean": "lower"}}}
    change_json(folder / "open_clip_config.json", model_cfg=described)
    assert build_tokenizer(str(folder), 8).clean == "lower"
    assert build_tokenizer(str(folder), 8, "whitespace").clean == "whitespace"
    change_json(folder / "open_clip_config.json", model_cfg={"text_cfg": {}})
    assert build_tokenizer(str(folder), 8).clean == "canonicalize"


def test_siglips_own_class_needs_no_sentencepiece(tmp_path):
    """The same pieces as T5's class has, of lower case and without punctuation."""
    own = make_siglip_tokenizer(tmp_path / "own", "SiglipTokenizer")
    t5 = Path(shutil.copytree(own, tmp_path / "t5"))
    change_json(t5 / "tokenizer_config.json", tokenizer_class="T5Tokenizer")
    mine = build_tokenizer(str(own), 16)
    assert torch.equal(mine(TEXTS[:5]), HFTokenizer(str(t5), context_length=16, clean="canonicalize")(TEXTS[:5]))


def test_open_clips_option_for_separators(tmp_path):
    folder = make_word_tokenizer(tmp_path, ["a", "dog"], sep_token="</s>")
    described = {"text_cfg": {"tokenizer_kwargs": {"strip_sep_token": True}}}
    change_json(folder / "open_clip_config.json", model_cfg=described)
    expected = HFTokenizer(str(folder), context_length=4, strip_sep_token=True)(["a dog", "a"])
    assert torch.equal(build_tokenizer(str(folder), 4)(["a dog", "a"]), expected)


def _in_worker(made: hf_tokenizer.HuggingFaceTokenizer, texts: list[str], out) -> None:
    out.put(made(texts).tolist())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_have_it(folders, start):
    mine = build_tokenizer(str(folders["bpe"]), 8)
    expected = mine(TEXTS).tolist()
    context = multiprocessing.get_context(start)
    out = context.Queue()
    worker = context.Process(target=_in_worker, args=(mine, TEXTS, out))
    worker.start()
    assert out.get(timeout=100) == expected
    worker.join()


def test_a_pickled_tokenizer_carries_no_cache(folders):
    mine = build_tokenizer(str(folders["bpe"]), 8)
    empty = len(pickle.dumps(mine))
    mine([f"some words number {i}" for i in range(1000)])
    assert len(pickle.dumps(mine)) < empty + 1000  # its settings for truncation, and no text
    assert torch.equal(pickle.loads(pickle.dumps(mine))(TEXTS), mine(TEXTS))


def test_a_caption_of_any_size_is_cut_before_it_is_cleaned(folders, monkeypatch):
    mine = build_tokenizer(str(folders["bpe"]), 16)
    cleaned = []
    clean = mine._clean_fn
    monkeypatch.setattr(mine, "_clean_fn", lambda text: cleaned.append(len(text)) or clean(text))
    found = mine.tokenize(["x" * 100_000_000, "a dog " * 1_000_000, " " * 10_000_000, "\n" + "x" * 1_000_000])
    assert found.truncated == 3
    assert max(cleaned) <= recent.longest_text(16)
    assert mine._recent.held < 2**20


def test_the_table_of_the_text_tower_must_have_its_ids(folders):
    def config(rows: int) -> Config:
        text = TextConfig(vocab_size=rows, context_length=8)
        return Config(model=ModelConfig(text=text), data=DataConfig(tokenizer=str(folders["bpe"])))

    size = 1 + max(AutoTokenizer.from_pretrained(folders["bpe"]).get_vocab().values())
    assert tokenizer_of(config(size)).vocab_size == size
    with pytest.raises(ValueError, match=rf"vocab_size={size - 1} is less than the {size} tokens of data\.tokenizer="):
        tokenizer_of(config(size - 1))


def test_a_name_is_looked_up_on_the_hub(folders, tmp_path, monkeypatch):
    """In its cache, where the hub is not reached."""
    cache = tmp_path / "models--some--tokenizer"
    shutil.copytree(folders["bpe"], cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert torch.equal(build_tokenizer("some/tokenizer", 8)(TEXTS), build_tokenizer(str(folders["bpe"]), 8)(TEXTS))
    with pytest.raises(ValueError, match=r"data\.tokenizer='other/tokenizer'.*hub does not give it.*open_clip_bpe"):
        build_tokenizer("other/tokenizer", 8)
    with pytest.raises(ValueError, match=r"'/no/where' cannot be used \(there is no such folder\)"):
        build_tokenizer("/no/where", 8)


def test_without_transformers(folders, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match=r'pip install "silc\[hf\]"'):
        build_tokenizer(str(folders["bpe"]), 8)


def _no_pad(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _in_tokenizer(**changes):
    return lambda folder: change_json(folder / "tokenizer.json", **changes)


def _replaces(pattern, content, times):
    each = {"type": "Replace", "pattern": pattern, "content": content}
    return _in_tokenizer(normalizer={"type": "Sequence", "normalizers": [each] * times})


def _in_settings(**changes):
    return lambda folder: change_json(folder / "tokenizer_config.json", **changes)


def _big(name: str, size: int):
    def make(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return make


def _outside(name: str):
    def make(folder: Path) -> None:
        elsewhere = folder.parent / "elsewhere"
        shutil.copytree(folder, elsewhere)
        (elsewhere / "spiece.model").touch()
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(elsewhere / name)

    return make


TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {"</s>": {"id": "</s>", "ids": [10**6], "tokens": ["</s>"]}}, "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]}  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_pad, "no token for padding"),
        (_in_tokenizer(post_processor=None), "no end token after a text.*TemplateProcessing"),
        (_in_tokenizer(post_processor=TEMPLATE), "ids beyond its vocabulary"),
        (_in_tokenizer(model={"dropout": 0.5}), "at random"),
        (_in_tokenizer(model=[]), "no tokenizer of the tokenizers library"),
        (_replaces({"String": "a"}, "aa", 40), "1.1e.12 times as long"),
        (_replaces({"Regex": "a"}, "b" * 40, 1), "41 times as long"),
        (_replaces({"Regex": "(a+)+b"}, "", 1), "repeats a group"),
        (_replaces({"Regex": "(?:a|aa)*b"}, "", 1), "repeats a group"),
        (_replaces({"Regex": "(?:a{1000}){1000}"}, "", 1), "repeats a group"),
        (_replaces({"Regex": "a{100000}"}, "", 1), "too often"),
        (_replaces({"Regex": "a" * 3000}, "", 1), "more than 2048"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json.*save_pretrained"),
        (lambda folder: (folder / "tokenizer.json").write_text("[" * 100_000), "nested too deep"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no tokenizer of the tokenizers library"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "no JSON object"),
        (_big("tokenizer.json", 65 << 20), "at most"),
        (_big("tokenizer_config.json", 5 << 20), "at most"),
        (_big("spiece.model", 65 << 20), "at most"),
        (_in_settings(tokenizer_class="AutoModel"), "no tokenizer of transformers"),
        (_in_settings(tokenizer_class="os.system"), "no tokenizer of transformers"),
        (_in_settings(gguf_file="x.gguf"), "gguf_file"),
        (_in_settings(fast_tokenizer_files=["tokenizer.x/../../other.json"]), "is read alone"),
        (_in_settings(fast_tokenizer_files=["tokenizer.4.0.json"]), "is read alone"),
        (_replaces({"Regex": r"\[(a+)+[bc]"}, "", 1), "repeats a group"),
        (_replaces({"Regex": "q" + "[ax]*" * 10 + "[yz]"}, "", 1), "repeats too often"),
        (_outside("tokenizer.json"), "link out of its folder"),
        (_outside("tokenizer_config.json"), "link out of its folder"),
        (_outside("spiece.model"), "link out of its folder"),
        (lambda folder: change_json(folder / "config.json", tokenizer_class="AutoModel"), "no tokenizer of"),
    ],
)
@pytest.mark.timeout(20)
def test_what_cannot_be_used_is_refused_in_a_line(folders, tmp_path, damage, words):
    folder = tmp_path / "tokenizer"
    shutil.copytree(folders["bpe"], folder)
    damage(folder)
    with pytest.raises(ValueError, match=rf"data\.tokenizer=.*{words}") as caught:
        build_tokenizer(str(folder), 8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_links_within_the_folder_and_to_the_caches_blobs_are_followed(folders, tmp_path):
    """As snapshots of Hugging Face's cache have them."""
    folder, blobs = tmp_path / "snapshots" / "0", tmp_path / "blobs"
    shutil.copytree(folders["bpe"], folder)
    blobs.mkdir()
    (folder / "tokenizer.json").rename(blobs / "1")
    (folder / "tokenizer.json").symlink_to("../../blobs/1")
    assert torch.equal(build_tokenizer(str(folder), 8)(TEXTS), build_tokenizer(str(folders["bpe"]), 8)(TEXTS))


def test_a_text_on_which_the_library_gives_up_is_cut(folders, tmp_path):
    """An expression that passes the checks and the trials, and takes too long on a text made for it: the library's
    panic, which is no Exception, would end the process.
    """
    folder = tmp_path / "tokenizer"
    shutil.copytree(folders["bpe"], folder)
    split = {
        "type": "Split",
        "pattern": {"Regex": r"q\[[ax]*[ax]*[ax]{0,255}(?:y|z)"},
        "behavior": "Isolated",
        "invert": False,
    }
    own = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]
    change_json(folder / "tokenizer.json", pre_tokenizer=None)
    change_json(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, own]})
    mine = build_tokenizer(str(folder), 16)
    hostile = "q[" + "a" * 900
    with pytest.raises(BaseException, match="retry-limit") as caught:
        mine.tokenizer([hostile])
    assert not isinstance(caught.value, Exception)
    found = mine.tokenize(["a dog", hostile, "two cats"])
    assert found.truncated == 1
    assert torch.equal(found.ids[::2], mine(["a dog", "two cats"]))
    assert torch.equal(found.ids[1], mine([hostile[:100]])[0]), "its beginning"
    assert (mine.count(hostile), mine.count("a dog")) == (16, 4)


@pytest.mark.parametrize("option", [{"trust_remote_code": True}, {"clean": "none"}, []])
def test_options_of_open_clip_that_are_not_known(folders, tmp_path, option):
    shutil.copytree(folders["bpe"], tmp_path / "tokenizer")
    change_json(tmp_path / "tokenizer" / "open_clip_config.json", model_cfg={"text_cfg": {"tokenizer_kwargs": option}})
    if option == []:
        assert build_tokenizer(str(tmp_path / "tokenizer"), 8).clean == "whitespace"
        return
    with pytest.raises(ValueError, match=r"tokenizer_kwargs|clean and strip_sep_token"):
        build_tokenizer(str(tmp_path / "tokenizer"), 8)


def test_code_in_the_folder_is_not_run(folders, tmp_path):
    folder, canary = tmp_path / "tokenizer", tmp_path / "canary"
    shutil.copytree(folders["bpe"], folder)
    code = f"open({str(canary)!r}, 'w').close()\nclass MineTokenizer: pass\nclass MineConfig: pass\n"
    (folder / "mine.py").write_text(code)
    change_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["mine.MineTokenizer", "mine.MineTokenizer"]},
        tokenizer_class="MineTokenizer",
    )
    change_json(folder / "config.json", auto_map={"AutoConfig": "mine.MineConfig"}, model_type="mine")
    with pytest.raises(ValueError, match=r"data\.tokenizer="):
        build_tokenizer(str(folder), 8)
    assert not canary.exists()


def test_slow_ones_are_refused(folders, monkeypatch):
    """By longer and longer texts."""
    texts = []
    encode = hf_tokenizer.HuggingFaceTokenizer._encode

    def slow(self, given):
        texts.append(len(given[0]))
        monkeypatch.setattr(hf_tokenizer, "PATIENCE", 2.0 if texts[-1] < 1000 else -1.0)
        return encode(self, given)

    monkeypatch.setattr(hf_tokenizer.HuggingFaceTokenizer, "_encode", slow)
    with pytest.raises(ValueError, match="a text of 1024 characters takes it more than"):
        build_tokenizer(str(folders["bpe"]), 8)
    assert sorted(set(texts)) == [64, 256, 1024]


def test_nothing_in_a_message_is_obeyed_by_a_terminal(folders, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(folders["bpe"], folder)
    hostile = "\x1b[2J\x1b]0;mine\x07"
    changes = ({"pad_token": [hostile]}, {"added_tokens_decoder": {hostile: hostile}}, {"tokenizer_class": hostile})
    for change in changes:
        change_json(folder / "tokenizer_config.json", **change)
        with pytest.raises(ValueError, match=r"data\.tokenizer=") as caught:
            build_tokenizer(str(folder), 8)
        assert str(caught.value).isprintable()
