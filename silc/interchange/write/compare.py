"""Whether another library computes from an exported folder what this package computes from the source.

Images and texts go through the other library's own preprocessing and tokenizer. The images have the model's size
already: libraries resize in slightly different ways, which is a property of theirs and not of the export.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from silc.interchange.source import Source
from silc.interchange.write.common import scale_of, towers
from silc.interchange.write.tokenizer import tokenizer_of

TOLERANCE = 1e-5  # of an element of a feature of unit length; fp32 rounding stays some hundred times below
IMAGES = 3
TEXTS = ("a drawing of a cat", "two red boats beside a green tree", "A Photo of 3  dogs,\trunning!", "")

T = TypeVar("T")


class Mismatch(ValueError):
    """The other library computes something else: the export must not be used."""


class Reloaded(Protocol):
    """An exported model as another library has loaded it.

    Attributes:
        library: its name and version.
        scale: logarithm of the logits' multiplier, and their bias (0 or None for none); None: the folder holds neither.
    """

    library: str
    scale: tuple[float, float | None] | None

    def images(self, images: list[Image.Image]) -> Tensor:
        """Features of RGB images, fp32 [B, D], of unit length."""
        ...

    def texts(self, texts: list[str]) -> Tensor | None:
        """Features of texts, fp32 [B, D], of unit length; None where the folder holds no text tower."""
        ...


@dataclass(frozen=True)
class Compared:
    """What a comparison found.

    Attributes:
        library: name and version of the other library.
        image: largest difference of an element of the images' features, which have unit length.
        text: the same of texts; None where there is no text tower.
    """

    library: str
    image: float
    text: float | None

    def __str__(self) -> str:
        text = "" if self.text is None else f", text features by at most {self.text:.1e}"
        return f"loaded by {self.library}; image features of unit length differ by at most {self.image:.1e}{text}"


@torch.no_grad()
def compare(source: Source, library: str, load: Callable[[], Reloaded]) -> Compared:
    """Compare features, scale and bias.

    Args:
        source: what was exported.
        library: the other library's name, for messages about what `load` and the model raise.
        load: loads the export with it.

    Raises:
        Mismatch: a difference larger than TOLERANCE, an error of the other library, or features of the source itself
            that are not finite.
        OSError: a file that cannot be read.
    """
    model = towers(source)
    images, texts = sample_images(source.model.vision.image_size), sample_texts(source.model.text.context_length)
    found = _asked(library, load)
    own = model.encode_image(torch.stack([_pixels(image) for image in images]), normalize=True)
    assert isinstance(own, Tensor)
    image = _difference("image", own, _asked(library, lambda: found.images(images)), found.library)
    theirs, text = _asked(library, lambda: found.texts(texts)), None
    if theirs is not None:
        own = model.encode_text(tokenizer_of(source)(texts), normalize=True)
        text = _difference("text", own, theirs, found.library)
    if found.scale is not None:
        _compare_scale(scale_of(source), found.scale, found.library)
    return Compared(found.library, image, text)


def _asked(library: str, call: Callable[[], T]) -> T:
    """What the other library returns. Raises Mismatch, which names it, for whatever it raises, but for OSError."""
    try:
        return call()
    except OSError:
        raise
    except Exception as error:  # another library's: any
        said = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise Mismatch(f"the export was not written: {library} does not load it ({said})") from error


def sample_images(size: int) -> list[Image.Image]:
    """A few pictures of colored blocks, size x size pixels, always the same."""
    draw = np.random.default_rng(0)
    side = -(-size // 8)
    blocks = [draw.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(IMAGES)]
    return [Image.fromarray(np.kron(one, np.ones((8, 8, 1), np.uint8))[:size, :size]) for one in blocks]


def sample_texts(context_length: int) -> list[str]:
    """A few captions: lower and upper case, digits, punctuation, white space, nothing, and more than the context."""
    return [*TEXTS, " ".join(f"house {n}" for n in range(context_length))]


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _difference(what: str, own: Tensor, theirs: Tensor, library: str) -> float:
    if own.shape != theirs.shape:
        raise Mismatch(f"{library} gives {what} features of shape {list(theirs.shape)}, not {list(own.shape)}")
    if not own.isfinite().all():
        raise Mismatch(f"the model's own {what} features are not finite: its weights are damaged")
    largest = (own - theirs.float()).abs().max().item()
    if not largest <= TOLERANCE:  # NaN is not either
        raise Mismatch(
            f"{library} computes other {what} features from the export: they differ by up to {largest:.1e} of their "
            f"length, {TOLERANCE:.0e} is allowed; nothing was written"
        )
    return largest


def _compare_scale(own: Sequence[float | None], theirs: Sequence[float | None], library: str) -> None:
    for name, ours, found in zip(("logit_scale", "logit_bias"), own, theirs, strict=True):
        if not math.isclose(ours or 0.0, found or 0.0, rel_tol=1e-5, abs_tol=1e-6):
            raise Mismatch(f"{library} reads {name} as {found}, not {ours}; nothing was written")
