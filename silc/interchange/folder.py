"""Files of a folder that a stranger wrote; see also :func:`silc.files.inside`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from silc.files import parse_json, read_text

MAX_JSON = 2 << 20  # bytes; the index of a model in parts has about 100 kB
# Any of these is there where a tokenizer was saved.
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)


def has(folder: Path, name: str) -> bool:
    """Whether there is anything by that name."""
    try:
        return (folder / name).exists()
    except OSError:
        return False


def read_fields(path: Path) -> dict[str, Any]:
    """A JSON file with named fields. Raises ValueError for any other, and one that is missing or too large."""
    try:
        found = parse_json(read_text(path, MAX_JSON), unique=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no named fields")
    return found


def saved_tokenizer(folder: Path) -> str | None:
    """The folder, where a tokenizer was saved in it."""
    return str(folder) if any(has(folder, name) for name in _TOKENIZERS) else None
