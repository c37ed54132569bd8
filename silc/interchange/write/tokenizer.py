"""Tokenizers as files of Hugging Face: CLIP's byte-pair encoding, which open_clip carries, and those that are files.

transformers and the tokenizers library know no step before the tokenizer, so that open_clip's cleaning of a text goes
into the tokenizer's normalizer: white space, case, punctuation, composed characters and curled quotes. What has no
place there is open_clip's repair of wrongly decoded text (ftfy) and HTML entities: such texts get other tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

from open_clip.tokenizer import SimpleTokenizer

from silc.data import Tokenizer, build_tokenizer
from silc.data.hf_files import is_hub_name
from silc.data.hf_tokenizer import HuggingFaceTokenizer
from silc.data.tokenizer import OPEN_CLIP_BPE
from silc.files import read_json
from silc.interchange.source import Source
from silc.interchange.write.common import write_json

MAX_JSON = 4 << 20
HERE = "this-folder"  # in open_clip's description: its tokenizer's files lie beside it
# Words of CLIP's tokenizer, in oniguruma's syntax, which is Python's here.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PUNCTUATION = r"[!-/:-@\[-`{-~]"


def tokenizer_of(source: Source) -> Tokenizer:
    """The tokenizer of a source. Raises ValueError where it cannot be loaded, or the source does not say which."""
    if source.tokenizer is None:
        raise ValueError(f"{source.path} does not say which tokenizer it was trained with, and an export has one")
    return build_tokenizer(source.tokenizer, source.model.text.context_length, source.tokenizer_clean)


def check_tokenizer(source: Source) -> None:
    """Raises ValueError as :func:`tokenizer_of`, and for a tokenizer with more tokens than the text tower's table."""
    rows, tokens = source.model.text.vocab_size, tokenizer_of(source).vocab_size
    if tokens > rows:
        raise ValueError(
            f"{source.path} has a text tower of {rows} tokens, fewer than the {tokens} of the tokenizer "
            f"{source.tokenizer}; give the one that it was trained with"
        )


def is_hugging_face(source: Source) -> bool:
    """Whether the tokenizer is files of its own, not open_clip's BPE."""
    return source.tokenizer != OPEN_CLIP_BPE


def hub_name(name: str) -> str:
    """A tokenizer's name on Hugging Face's hub, or HERE for a folder's: a name that stands for no place."""
    return name if is_hub_name(name) and not Path(name).exists() else HERE


def write_for_open_clip(source: Source, folder: Path) -> dict[str, Any]:
    """Write a Hugging Face tokenizer's files as they are; nothing for open_clip's BPE.

    Returns what open_clip_config.json has to say of the tokenizer. Raises ValueError and OSError.
    """
    tokenizer = tokenizer_of(source)
    if not is_hugging_face(source):
        return {} if tokenizer.clean == "lower" else {"tokenizer_kwargs": {"clean": tokenizer.clean}}
    files = cast(HuggingFaceTokenizer, tokenizer)
    _save(files.tokenizer, folder)
    options = {"clean": tokenizer.clean} | ({"strip_sep_token": True} if files.without_separator else {})
    return {"hf_tokenizer_name": hub_name(source.tokenizer or HERE), "tokenizer_kwargs": options}


def write_for_transformers(source: Source, folder: Path) -> dict[str, int | None]:
    """Write tokenizer.json and tokenizer_config.json for transformers, with open_clip's cleaning of texts in it.

    Returns the ids pad_token_id, bos_token_id and eos_token_id. Raises ValueError and OSError.
    """
    length, tokenizer = source.model.text.context_length, tokenizer_of(source)
    if not is_hugging_face(source):
        bpe = _clip(length, tokenizer.clean)
        bpe.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", _clip_config(length))
        start, end = _clip_ends(cast(SimpleTokenizer, tokenizer))
        return {"pad_token_id": 0, "bos_token_id": start, "eos_token_id": end}
    loaded = copy.deepcopy(_alone(tokenizer))
    _clean_first(loaded.backend_tokenizer, tokenizer.clean)
    loaded.model_max_length, loaded.model_input_names = length, ["input_ids"]
    loaded.init_kwargs |= {"model_max_length": length, "model_input_names": ["input_ids"]}
    _save(loaded, folder)
    # Classes of transformers such as T5Tokenizer make a normalizer of their own; this one takes the file's.
    settings = read_json(folder / "tokenizer_config.json", MAX_JSON)
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    return {name: getattr(loaded, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


def write_alone(source: Source, path: Path) -> None:
    """Write one tokenizer.json that pads and truncates by itself, for the tokenizers library without transformers.

    Raises ValueError and OSError.
    """
    length, tokenizer = source.model.text.context_length, tokenizer_of(source)
    if is_hugging_face(source):
        loaded = _alone(tokenizer)
        alone = copy.deepcopy(loaded.backend_tokenizer)
        _clean_first(alone, tokenizer.clean)
        alone.enable_truncation(length)
        alone.enable_padding(
            direction=loaded.padding_side, pad_id=loaded.pad_token_id, pad_token=loaded.pad_token, length=length
        )
    else:
        alone = _clip(length, tokenizer.clean)
    alone.save(str(path))


def _alone(tokenizer: Tokenizer) -> Any:
    """transformers' tokenizer inside ours, where it alone can do what ours does. Raises ValueError."""
    files = cast(HuggingFaceTokenizer, tokenizer)
    if files.without_separator:
        raise ValueError(
            "open_clip puts 0 in place of this tokenizer's separators (strip_sep_token), which other libraries do not; "
            "export to open_clip"
        )
    return files.tokenizer


def _save(loaded: Any, folder: Path) -> None:
    """The tokenizer's files, without the name of the folder that it came from."""
    loaded = copy.deepcopy(loaded)
    loaded.name_or_path = ""
    loaded.init_kwargs.pop("name_or_path", None)
    loaded.save_pretrained(str(folder))


def _clip(length: int, clean: str) -> Any:
    """CLIP's tokenizer, from open_clip's vocabulary and merges, padded with 0 to the context length."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    bpe = SimpleTokenizer(context_length=length)
    ends = [(token, bpe.encoder[token]) for token in ("<start_of_text>", "<end_of_text>")]
    merges = sorted(bpe.bpe_ranks, key=lambda pair: bpe.bpe_ranks[pair])
    found = Tokenizer(models.BPE(dict(bpe.encoder), merges, end_of_word_suffix="</w>"))
    _clean_first(found, clean)
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = (token for token, _ in ends)
    found.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A $B {end}", special_tokens=ends
    )
    found.decoder = decoders.ByteLevel()
    found.enable_truncation(length)
    found.enable_padding(pad_id=0, pad_token="!", length=length)
    return found


def _clip_ends(bpe: SimpleTokenizer) -> tuple[int, int]:
    return bpe.sot_token_id, bpe.eot_token_id


def _clip_config(length: int) -> dict[str, Any]:
    """CLIP pads with the id 0, which is a piece of words: "!" before another sign. Without `split_special_tokens`
    transformers would take each "!" of a text for padding.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<start_of_text>",
        "eos_token": "<end_of_text>",
        "pad_token": "!",
        "unk_token": "<end_of_text>",
        "split_special_tokens": True,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
        "model_input_names": ["input_ids"],
    }


def _clean_first(tokenizer: Any, clean: str) -> None:
    """Put open_clip's cleaning of a text, as far as it is one of characters, before the tokenizer's own normalizer."""
    from tokenizers import Regex, normalizers

    steps: list[Any] = [
        normalizers.NFC(),
        normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
        normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
    ]
    if clean == "canonicalize":
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(PUNCTUATION), "")]
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if clean != "whitespace":
        # Python writes a sigma that ends a word in its other form, the library's Lowercase does not.
        steps += [normalizers.Replace(Regex(r"(?<=\p{L})\u03a3(?!\p{L})"), "\u03c2"), normalizers.Lowercase()]
    own = tokenizer.normalizer
    tokenizer.normalizer = normalizers.Sequence([*steps, *([] if own is None else [own])])
