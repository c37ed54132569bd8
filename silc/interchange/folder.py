"""Files of a folder that a stranger wrote: none is looked for outside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from silc.files import parse_json, read_text
from silc.interchange.tensors import shown

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


def inside(folder: Path, name: str) -> Path:
    """A file of a folder, by its bare name.

    A link may lead to another file of the folder; in a snapshot of Hugging Face's cache also to the cache's own blobs.

    Raises ValueError for a name that is a path, and a link that leads elsewhere.
    """
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"{folder}: {shown(name)} is no name of a file in it")
    try:
        home, found = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ValueError(f"{folder}: {shown(name)} cannot be found ({error})") from None
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" and len(home.parents) > 1 else home
    if found.parent not in (home, blobs):
        raise ValueError(f"{folder / name} is a link out of its folder; put the file itself there")
    return folder / name


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


def tokenizer_of(folder: Path) -> str | None:
    """The folder, where a tokenizer was saved in it."""
    return str(folder) if any(has(folder, name) for name in _TOKENIZERS) else None
