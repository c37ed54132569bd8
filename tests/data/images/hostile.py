"""An image to hide things in, and the proof that a file is refused before it is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from silc.data.images import decode
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable

DEFAULT = 89_478_485


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((width, height))


def refuses(data: bytes, words: str, monkeypatch, limit: int = DEFAULT) -> None:
    """Refused in these words, without a decoder being asked."""
    asked: list[object] = []

    def decodes(*args, **_keywords):
        asked.append(args)
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_jpeg", decodes)
        patch.setattr("simplejpeg.decode_jpeg", decodes)
        patch.setattr(Image.Image, "load", decodes)
        patch.setattr("PIL.ImageFile.ImageFile.load", decodes)
        patch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", decodes)
        with pytest.raises(Unreadable, match=words):
            decode_image(data, limit)
    assert not asked
