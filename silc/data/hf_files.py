"""Checks of a folder that holds a Hugging Face tokenizer, before transformers reads it.

Only files are looked at. What would hang, grow without a bound, run code, lie outside the folder, or draw tokens at
random is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from silc.data.hf_regex import check_regex
from silc.files import check_regular, inside, read_json

TOKENIZER, SETTINGS, MODEL, OPEN_CLIP = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "open_clip_config.json",
)
JSON = (SETTINGS, MODEL, OPEN_CLIP, "special_tokens_map.json", "added_tokens.json")
# What transformers reads beside these, of the classes that begin from another library's files.
OTHERS = (
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.jinja",
)
FILES = (TOKENIZER, *JSON, *OTHERS)

MAX_TOKENIZER = 64 << 20  # bytes; the largest vocabularies in use, of 262,144 tokens, take 33 MB
MAX_JSON = 4 << 20
MOST_GROWTH = 16  # times that a normalizer may lengthen a text

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
CLASS = re.compile(r"[A-Za-z0-9_]{0,80}Tokenizer(Fast)?|TokenizersBackend")


def check_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Look at the files of a tokenizer.

    Returns:
        tokenizer_config.json and config.json; empty where they are missing.

    Raises:
        ValueError: no tokenizer.json, a file that is no regular one, too large, or no JSON; a link out of the folder;
            expressions whose time, or a normalizer whose result, may grow without a bound; tokens that are drawn at
            random; a class that is no tokenizer of transformers.
        OSError: a file that cannot be read.
    """
    if not (folder / TOKENIZER).exists():
        raise ValueError(
            f"{folder} has no {TOKENIZER}; transformers writes one: AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER)"
        )
    for name in FILES:
        if (folder / name).exists():
            inside(folder, name)
    for name in OTHERS:
        if (folder / name).exists():
            check_regular(folder / name, MAX_TOKENIZER)
    read = {name: _mapping(folder / name, MAX_JSON) for name in JSON if (folder / name).exists()}
    settings, model = read.get(SETTINGS, {}), read.get(MODEL, {})
    for name, found in ((SETTINGS, settings), (MODEL, model)):
        _check_settings(folder / name, found)
    _check_tokenizer(folder / TOKENIZER, _mapping(folder / TOKENIZER, MAX_TOKENIZER))
    return settings, model


def _mapping(path: Path, limit: int) -> dict[str, Any]:
    found = read_json(path, limit)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    kind = settings.get("tokenizer_class")
    if kind is not None and not (isinstance(kind, str) and CLASS.fullmatch(kind)):
        raise ValueError(f"{path}: tokenizer_class={kind!r:.80} is no tokenizer of transformers")
    if "gguf_file" in settings or settings.get("init_inputs"):
        raise ValueError(f"{path}: gguf_file and init_inputs are not read; leave them out")
    named = settings.get("fast_tokenizer_files", [TOKENIZER])
    if named not in ([], [TOKENIZER]):  # transformers reads one of these in its place
        raise ValueError(f"{path}: fast_tokenizer_files names {named!r:.80}; {TOKENIZER} is read alone, leave it out")


def _check_tokenizer(path: Path, tree: dict[str, Any]) -> None:
    model = tree.get("model")
    if not isinstance(model, dict):
        raise ValueError(f"{path} holds no tokenizer of the tokenizers library")
    if any(model.get(name) for name in ("dropout", "alpha", "nbest_size")):
        raise ValueError(
            f"{path}: the model draws its tokens at random (dropout), so that a run could not be repeated; set dropout "
            "to null"
        )
    growth = 1.0
    for name in ("normalizer", "pre_tokenizer", "post_processor"):
        for node in _nodes(tree.get(name)):
            check_regex(path, node.get("Regex"))
            if node.get("type") == "Replace":
                growth *= max(1.0, _growth(node))
            if node.get("type") == "Prepend":
                growth += len(str(node.get("prepend", ""))) / 64
    if not growth <= MOST_GROWTH:
        raise ValueError(f"{path}: its normalizer may make a text {growth:.3g} times as long; {MOST_GROWTH} at most")


def _growth(replace: dict[str, Any]) -> float:
    """Times that a replacement may lengthen a text."""
    pattern, content = replace.get("pattern"), replace.get("content")
    found = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(content, str):
        return math.inf
    return len(content) / len(found) if found else len(content) + 1.0


def is_hub_name(name: str) -> bool:
    """Whether a tokenizer's name may be one on Hugging Face's hub."""
    return HUB_NAME.fullmatch(name) is not None and ".." not in name


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in a part of a tokenizer."""
    if isinstance(tree, dict):
        yield tree
    if isinstance(tree, dict | list):
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from _nodes(inner)
