"""The formats of exports by the names that `silc export --to` takes."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from silc.interchange.source import Source
from silc.interchange.write.compare import Reloaded

Format = Literal["open_clip", "hf", "timm", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
LIBRARY: dict[Format, str] = {"open_clip": "open_clip", "hf": "transformers", "timm": "timm", "onnx": "onnxruntime"}
# Modules that writing and comparing need beyond this package's own requirements, and the extra that has them.
_NEEDED: dict[Format, tuple[str, tuple[str, ...]]] = {
    "hf": ("hf", ("transformers", "tokenizers")),
    "onnx": ("onnx", ("onnx", "onnxscript", "onnxruntime", "tokenizers")),
}


class Writer(Protocol):
    """A module of a format."""

    def write(self, source: Source, folder: Path) -> None:
        """Write the files into a folder, which exists. Raises ValueError and OSError."""
        ...

    def reload(self, folder: Path) -> Reloaded:
        """The model as the other library loads it. Raises whatever that library raises."""
        ...

    def loading_call(self, source: Source, folder: Path) -> str:
        """The Python that loads an export, for a message."""
        ...


def writer(to: Format) -> Writer:
    """The module of a format.

    Raises ValueError for an unknown format, or where a library that it needs is not installed.
    """
    if to not in FORMATS:
        raise ValueError(f"there is no format {to!r}; give one of {', '.join(FORMATS)}")
    extra, modules = _NEEDED.get(to, ("", ()))
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'an export to {to} needs {" and ".join(missing)}: pip install "silc[{extra}]"')
    return cast(Writer, importlib.import_module(f"silc.interchange.write.{to}"))
