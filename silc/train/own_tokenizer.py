"""The files of a Hugging Face tokenizer in a checkpoint, so that its model can be used where their folder is gone.

    step_00012000/tokenizer/     the files as they lay in `data.tokenizer`; none for open_clip's own tokenizer

Evaluation, exports and :func:`silc.load` take them. A resumed run takes the `data.tokenizer` of its command, which may
lie elsewhere than before, if its files are the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from silc.config import Config
from silc.data.hf_files import FILES, TOKENIZER
from silc.data.tokenizer import OPEN_CLIP_BPE, tokenizer_of
from silc.files import check_regular

FOLDER = "tokenizer"
NAMES = tuple(f"{FOLDER}/{name}" for name in FILES)  # in a checkpoint
MAX_FILE = 64 << 20  # bytes


def tokenizer_files(name: str) -> dict[str, bytes]:
    """The content of a tokenizer's files by their names; nothing for open_clip's own.

    name: `data.tokenizer`. Raises ValueError and OSError for a tokenizer that is gone.
    """
    if name == OPEN_CLIP_BPE:
        return {}
    from silc.data.hf_tokenizer import folder_of  # as in silc.data.tokenizer

    return _read(folder_of(name))


def own_folder(checkpoint: Path) -> Path | None:
    """Where a checkpoint has its tokenizer; None where it has none."""
    folder = checkpoint / FOLDER
    return folder if (folder / TOKENIZER).is_file() else None


def with_own_tokenizer(config: Config, checkpoint: Path) -> Config:
    """The configuration of a checkpoint, with the tokenizer that lies in it."""
    folder = own_folder(checkpoint)
    return config if folder is None else replace(config, data=replace(config.data, tokenizer=str(folder)))


def is_own(name: str, checkpoint: Path) -> bool:
    """Whether a tokenizer's files are those that a checkpoint has."""
    folder = own_folder(checkpoint)
    if folder is None:
        return False
    try:
        return tokenizer_files(name) == _read(folder)
    except (OSError, ValueError):
        return False


def check_there(config: Config, checkpoint: Path) -> None:
    """Raises ValueError where a resumed run cannot load its tokenizer, naming the checkpoint's."""
    folder = own_folder(checkpoint)
    if folder is None:
        return
    try:
        tokenizer_of(config)
    except ValueError as error:
        raise ValueError(f"{error}. The checkpoint has a copy: data.tokenizer={folder}") from None


def _read(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in FILES:
        if (folder / name).exists():
            check_regular(folder / name, MAX_FILE)
            found[name] = (folder / name).read_bytes()
    return found
