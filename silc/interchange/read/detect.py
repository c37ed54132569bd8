"""Which format a file or folder has, and its reader."""

from __future__ import annotations

from pathlib import Path

from silc.config import ModelConfig
from silc.interchange.folder import has
from silc.interchange.read import big_vision, hugging_face, open_clip
from silc.interchange.source import Source
from silc.text import shown

ONNX = "image.onnx"  # of an export of this package
MOST = 2000  # characters of a message
FORMATS = (
    "an open_clip folder or .safetensors file, a Hugging Face folder of SiglipModel, or big_vision's .npz of two towers"
)


def is_readable(path: Path) -> bool:
    """Whether :func:`read` is the one to ask: a file, or a folder that looks like a model of one of its formats.

    Nothing is opened, and nothing raised.
    """
    try:
        if path.is_dir():
            return any(has(path, name) for name in (open_clip.CONFIG, hugging_face.CONFIG, ONNX))
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        return False


def read(path: Path, *, sizes: ModelConfig | None = None) -> Source:
    """A model of another library, or an export of this one.

    A file is known by its name's ending, a folder by the description in it. No code in a file is run: weights are read
    from safetensors and plain .npz alone.

    Args:
        path: of the file or folder.
        sizes: those of the configuration, for what a file of weights alone does not say (heads, GELU); None: the usual
            ones.

    Raises:
        ValueError: not a model in one of the formats, a damaged file, or another architecture; the message says which,
            in one line.
    """
    try:
        return _read(path, sizes)
    except (OSError, RecursionError, ValueError) as error:
        said = shown(" ".join(str(error).split()), MOST)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None


def _read(path: Path, sizes: ModelConfig | None) -> Source:
    if path.is_dir():
        if has(path, open_clip.CONFIG):
            return open_clip.read_folder(path)
        if has(path, hugging_face.CONFIG):
            return hugging_face.read_folder(path)
        if has(path, ONNX):
            raise ValueError(
                f"{path} is an export for onnxruntime, not read back; give the run, or an export for open_clip "
                "or Hugging Face"
            )
        raise ValueError(f"{path} holds no {open_clip.CONFIG} and no {hugging_face.CONFIG}; give {FORMATS}")
    if path.suffix == ".npz":
        return big_vision.read_file(path)
    if path.suffix == ".safetensors":
        return open_clip.read_file(path, sizes)
    if path.suffix in open_clip.PICKLES:
        raise ValueError(open_clip.pickled(path))
    raise ValueError(f"{path} {'is no model' if path.exists() else 'does not exist'}; give {FORMATS}")
