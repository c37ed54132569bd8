"""Hugging Face tokenizers: SigLIP's and any other one, from a folder or the hub, as open_clip's HFTokenizer has them.

A text tower that pools its last token needs of a tokenizer what :func:`_check` asks for: a token for padding, an end
token after each text, whether it was cut or not, and no id beyond its vocabulary. Truncation of the tokenizers library
leaves room for the tokens that a tokenizer's post-processor adds, so that a cut text keeps its end token where there is
such a post-processor, as SigLIP's, T5's and BERT's tokenizers have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from open_clip.tokenizer import get_clean_fn
from torch import Tensor

from silc.data.hf_files import FILES, OPEN_CLIP, TOKENIZER, check_folder, is_hub_name
from silc.data.recent import Bounded, beginning, goes_on, longest_text
from silc.data.tokens import Clean, Cleaned, Tokens
from silc.files import read_json
from silc.text import shown

RECENT = 32768  # texts whose tokens are cached
RECENT_BYTES = 16 << 20
PATIENCE = 2.0  # seconds that a text of a trial may take: thousands of times what it does
TRIAL = ("a dog ", "x", "X1", " ", "!?., ", "\u00e9\u4e8c", "\n\t", "'s ", "0")  # repeated, these are texts of trials
MISSING = 'transformers is not installed; pip install "silc[hf]"'
KINDS: tuple[Cleaned, ...] = get_args(Cleaned)


class HuggingFaceTokenizer:
    """See :class:`silc.data.tokens.Tokenizer`. The tokens of recent texts are cached: open_clip's cleaning of a text
    takes longer than its tokens.

    Args:
        loaded: a tokenizer of transformers that stands on the tokenizers library.
        context_length: tokens that a text is padded or truncated to.
        clean: what is done to a text first.
        without_separator: put 0 in place of separators, as open_clip's `strip_sep_token` does.

    Attributes:
        tokenizer: `loaded`.
        without_separator: as given.
    """

    def __init__(self, loaded: Any, context_length: int, clean: Cleaned, *, without_separator: bool = False) -> None:
        self.tokenizer, self.clean, self.without_separator = loaded, clean, without_separator
        self.vocab_size = 1 + max(loaded.get_vocab().values())
        self._clean_fn = get_clean_fn(clean)
        self._context, self._longest_text = context_length, longest_text(context_length)
        self._separator = loaded.sep_token_id if without_separator else None
        self._recent = Bounded(RECENT, RECENT_BYTES)

    def __call__(self, texts: list[str]) -> Tensor:
        return self.tokenize(texts).ids

    def tokenize(self, texts: list[str]) -> Tokens:
        """See :class:`silc.data.tokens.Tokenizer`."""
        read = [beginning(text, self._longest_text) for text in texts]
        found: dict[str, bytes] = {text: self._recent[text] for text in read if text in self._recent}
        new = [text for text in dict.fromkeys(read) if text not in found]
        for text, row in zip(new, self._rows(new), strict=True):
            found[text] = self._recent[text] = row
        rows = np.frombuffer(b"".join(found[text] for text in read), np.int32).reshape(len(read), self._context + 1)
        cut = rows[:, -1].astype(bool) | [goes_on(text, self._longest_text) for text in texts]
        return Tokens(torch.from_numpy(rows[:, :-1].astype(np.int64)), int(cut.sum()))

    def count(self, text: str) -> int:
        """See :class:`silc.data.tokens.Tokenizer`."""
        cleaned = self._clean_fn(beginning(text, self._longest_text))
        try:
            with _without_panic():
                return len(self.tokenizer(cleaned, truncation=True, max_length=self._context)["input_ids"])
        except _GaveUp:
            return self._context  # it is cut

    def _rows(self, texts: Sequence[str]) -> list[bytes]:
        """As :meth:`_encode`; texts that the library gives up on are cut."""
        try:
            return self._encode(texts)
        except _GaveUp:
            return [self._halved(text) for text in texts]

    def _halved(self, text: str) -> bytes:
        """As :meth:`_encode`; cut to its half until the library does not give up. Raises _GaveUp for an empty text."""
        length = len(text)
        while True:
            try:
                (row,) = self._encode([text[:length]])
            except _GaveUp:
                if not length:
                    raise
                length //= 2
                continue
            return row if length == len(text) else row[:-4] + np.int32(1).tobytes()

    def _encode(self, texts: Sequence[str]) -> list[bytes]:
        """For each text its ids and whether it was cut, int32 [context + 1]. Raises _GaveUp."""
        if not texts:
            return []
        cleaned = [self._clean_fn(text) for text in texts]
        with _without_panic():
            out = self.tokenizer(cleaned, max_length=self._context, padding="max_length", truncation=True)
        ids = np.asarray(out["input_ids"], dtype=np.int32)
        if self._separator is not None:
            ids[ids == self._separator] = 0
        cut = np.array([[bool(encoding.overflowing)] for encoding in out.encodings], dtype=np.int32)
        return [row.tobytes() for row in np.hstack([ids, cut])]


def load(name: str, context_length: int, clean: Clean = "auto") -> HuggingFaceTokenizer:
    """A tokenizer from a folder, or by its name on the hub where that is reached or has been.

    Args:
        name: `data.tokenizer`.
        context_length: tokens that a text is padded or truncated to.
        clean: see `data.tokenizer_clean`; auto: as an open_clip_config.json beside it says; else canonicalize for the
            tokenizer class of SigLIP, and lower for that of SigLIP 2, which do so themselves; else whitespace.

    Raises:
        ValueError: it cannot be loaded, or a text tower cannot use it; the message says why and what to do.
    """
    try:
        folder = folder_of(name)
        settings, model = check_folder(folder)
        options = _open_clip_options(folder / OPEN_CLIP)
        chosen: Cleaned = clean if clean != "auto" else options.get("clean") or _own_clean(settings, model)
        without = bool(options.get("strip_sep_token"))
        with _without_panic():
            made = HuggingFaceTokenizer(_loaded(folder, settings), context_length, chosen, without_separator=without)
            _check(made, context_length)
    except Exception as error:  # of transformers, and of the Rust library below it, any
        raise ValueError(
            f"data.tokenizer={name!r:.200} cannot be used ({_said(error)}); give open_clip_bpe, or the name or "
            "folder of another Hugging Face tokenizer"
        ) from error
    return made


class _GaveUp(ValueError):
    """The tokenizers library ended the search for a match that takes too long, or found a bug in itself."""


@contextmanager
def _without_panic() -> Iterator[None]:
    """A panic of Rust, which is no Exception and would end a process without a message, as a ValueError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _GaveUp(f"the tokenizers library gave up: {_said(error)}") from None


def _said(error: BaseException) -> str:
    """The first line of a message."""
    return shown(str(error).strip().partition("\n")[0] or type(error).__name__, 300)


def folder_of(name: str) -> Path:
    """The folder that a name stands for; what the hub has by this name is brought to its cache.

    Raises ValueError where there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists() or not is_hub_name(name):
        raise ValueError("there is no such folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:
        raise ValueError(f"there is no such folder here, and the hub does not give it: {_said(error)}") from error


def _open_clip_options(path: Path) -> dict[str, Any]:
    """What an open_clip_config.json says of the tokenizer beside it."""
    found: Any = read_json(path, 1 << 20) if path.exists() else {}
    for name in ("model_cfg", "text_cfg"):
        found = found.get(name) if isinstance(found, dict) else None
    text = found if isinstance(found, dict) else {}
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict) or options.keys() - {"clean", "strip_sep_token"} or text.get("tokenizer_mode"):
        raise ValueError(
            f"{path} asks for more than clean and strip_sep_token of its tokenizer, which is not done here"
        )
    if options.get("clean", KINDS[0]) not in KINDS:
        raise ValueError(f"{path}: tokenizer_kwargs.clean={options['clean']!r:.80} is none of {', '.join(KINDS)}")
    return options


def _own_clean(settings: dict[str, Any], model: dict[str, Any]) -> Cleaned:
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    of_siglip = model.get("model_type") in ("siglip", "siglip2")
    if kind == "SiglipTokenizer" or (kind == "T5Tokenizer" and of_siglip):
        return "canonicalize"
    return "lower" if kind == "Siglip2Tokenizer" or (kind == "GemmaTokenizer" and of_siglip) else "whitespace"


def _loaded(folder: Path, settings: dict[str, Any]) -> Any:
    """A tokenizer of transformers; no code of the folder is run."""
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError:
        raise ValueError(MISSING) from None
    # SigLIP's own class needs the sentencepiece library for what tokenizer.json holds too, and cleans texts as
    # open_clip does.
    own = str(settings.get("tokenizer_class", "")).removesuffix("Fast") == "SiglipTokenizer"
    kind = PreTrainedTokenizerFast if own else AutoTokenizer
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of the model's config.json, whose ids are another tokenizer's
    try:
        # Named, since else transformers may ask at the terminal whether code in the folder is to be run.
        loaded = kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    finally:
        logger.setLevel(level)
    if not getattr(loaded, "is_fast", False):
        raise ValueError(f"{type(loaded).__name__} does not stand on the tokenizers library ({TOKENIZER})")
    return loaded


def _check(made: HuggingFaceTokenizer, context: int) -> None:
    """Try the tokenizer. Raises ValueError for what a text tower cannot use."""
    if made.tokenizer.pad_token_id is None:
        raise ValueError('it has no token for padding; name one in tokenizer_config.json, as "pad_token": "<pad>"')
    length = 64
    while length <= longest_text(context):  # longer and longer: what grows fast shows before it takes hours
        for piece in TRIAL:
            began = time.process_time()  # of this process: a busy machine is no slow tokenizer
            rows = np.frombuffer(b"".join(made._encode([(piece * length)[:length]])), np.int32)
            if time.process_time() - began > PATIENCE:
                raise ValueError(f"a text of {length} characters takes it more than {PATIENCE:.0f} s")
            if rows.shape != (context + 1,) or rows.min() < 0 or rows[:-1].max() >= made.vocab_size:
                raise ValueError(f"it gives ids beyond its vocabulary of {made.vocab_size}, or not {context} of them")
        length *= 4
    ends = {_last(made.tokenizer, text, context) for text in ("a dog", "two cats", "words and " * context)}
    if len(ends) > 1:
        raise ValueError(
            "it puts no end token after a text, where the text tower looks; its tokenizer.json needs a post_processor "
            'that does, as TemplateProcessing(single="$A </s>") of the tokenizers library'
        )


def _last(tokenizer: Any, text: str, context: int) -> int:
    return tokenizer(text, truncation=True, max_length=context)["input_ids"][-1]
