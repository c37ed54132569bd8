"""Small Hugging Face tokenizers, trained on a few lines with the tokenizers library and saved by transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "a red apple and a green dog",
    "two cats on a sofa, in the rain",
    "the quick brown fox jumps over the lazy dog",
    "a photo of a house in the city; it's 1950",
    "A Drawing of Three Birds",
]


def make_siglip_tokenizer(folder: Path, kind: str = "T5Tokenizer", pad: str = "</s>", size: int = 120) -> Path:
    """A unigram model of pieces as sentencepiece has them, an end token after each text, and the end token for padding,
    as SigLIP's. kind: its class in transformers.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(LINES * 5, trainer)
    _end_with(tokenizer, "</s>")
    return _save(tokenizer, folder, kind, {"pad_token": pad, "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0})


def make_bpe_tokenizer(folder: Path) -> Path:
    """A byte-level BPE with a start, an end and a padding token, as CLIP's and RoBERTa's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _save(tokenizer, folder, "PreTrainedTokenizerFast", special)


def make_word_tokenizer(folder: Path, words: Sequence[str], *, end: bool = True, **special: Any) -> Path:
    """A token a word, in the order given, after those for padding, the end and unknown words.

    end: whether an end token follows each text.
    """
    names = ["<pad>", "</s>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end:
        _end_with(tokenizer, "</s>")
    given = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | special
    return _save(tokenizer, folder, "PreTrainedTokenizerFast", {k: v for k, v in given.items() if v is not None})


def change_json(path: Path, **changes: Any) -> None:
    """Set entries of a JSON object in a file, made where it is missing; a dictionary changes the one that is there."""
    tree = json.loads(path.read_text()) if path.exists() else {}
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(tree.get(name), dict)
        tree[name] = tree[name] | value if both else value
    path.write_text(json.dumps(tree))


def _end_with(tokenizer: Tokenizer, end: str) -> None:
    ids = [(end, tokenizer.token_to_id(end))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=ids)


def _save(tokenizer: Tokenizer, folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    special = {name: value for name, value in settings.items() if name.endswith("_token")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    change_json(folder / "tokenizer_config.json", tokenizer_class=kind, **settings)
    return folder
