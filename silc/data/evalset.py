"""A split read once, in order, without augmentation."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from silc.config import DataConfig
from silc.data.batch import Skip
from silc.data.crops import resize_into
from silc.data.decode import decode_picture
from silc.data.shards import ShardIndex, Unreadable

log = logging.getLogger(__name__)

MASK_KEYS = ("mask.png",)


@dataclass(frozen=True)
class EvalBatch:
    """b pictures with what is known of them.

    Attributes:
        images: uint8 [b, 3, R, R], the whole pictures resized to a square.
        captions: b texts, empty where there is none.
        infos: the samples' json, b dictionaries, empty where there is none.
        masks: class of each pixel, int64 [H, W] at the picture's own size, or None; b of them.
        keys: shard/key, b of them.
    """

    images: Tensor
    captions: list[str]
    infos: list[dict[str, Any]]
    masks: list[Tensor | None]
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)


class EvalSet:
    """Batches of a split, in the order of its shards; iterating again reads it again.

    Args:
        config: which members of the tars hold what.
        patterns: shards, see :func:`silc.data.shards.expand_shards`.
        size: R, pixels a side.
        batch: pictures a batch; the last one may be smaller.
        rank, world: this process reads the rank-th of `world` contiguous parts.

    Attributes:
        size: as given.
        skipped: the unreadable samples met in the last iteration.

    Raises:
        ValueError: shards that are missing, are no tars or hold no picture.
    """

    def __init__(
        self, config: DataConfig, patterns: Sequence[str], *, size: int, batch: int, rank: int = 0, world: int = 1
    ) -> None:
        columns = {"picture": config.image_keys, "caption": [config.caption_key], "json": ["json"], "mask": MASK_KEYS}
        self._index = ShardIndex(patterns, columns, required=("picture",))
        places = [(shard, sample) for shard, count in enumerate(self._index.counts) for sample in range(count)]
        self._places = places[len(places) * rank // world : len(places) * (rank + 1) // world]
        self.size, self._batch, self._max_pixels = size, batch, config.max_image_pixels
        self.skipped: list[Skip] = []

    def __len__(self) -> int:
        """Samples of this part, the unreadable ones included."""
        return len(self._places)

    def __iter__(self) -> Iterator[EvalBatch]:
        self.skipped = []
        rows: list[tuple] = []
        for place in self._places:
            try:
                rows.append(self._read(place))
            except Unreadable as error:
                self.skipped.append(Skip(self._index.key(*place), str(error)))
                log.warning("evaluation skipped %s: %s", *self.skipped[-1])
            if len(rows) == self._batch:
                yield _stack(rows)
                rows = []
        if rows:
            yield _stack(rows)
        self._index.close()

    def _read(self, place: tuple[int, int]) -> tuple[Tensor, str, dict, Tensor | None, str]:
        image = torch.empty(3, self.size, self.size, dtype=torch.uint8)
        resize_into(image, decode_picture(self._index.read(*place, "picture"), self._max_pixels).contiguous())
        caption, info, mask = (self._index.read(*place, column) for column in ("caption", "json", "mask"))
        try:
            text = (caption or b"").decode("utf-8").strip()
            known = json.loads(info) if info else {}
            classes = None if mask is None else _decode_mask(mask)
        except (ValueError, OSError) as error:
            raise Unreadable(f"bad caption, json or mask ({error})") from error
        return image, text, known, classes, self._index.key(*place)


def _decode_mask(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as mask:
        return torch.from_numpy(np.array(mask).astype(np.int64))


def _stack(rows: list[tuple]) -> EvalBatch:
    images, captions, infos, masks, keys = zip(*rows, strict=True)
    return EvalBatch(torch.stack(images), list(captions), list(infos), list(masks), list(keys))
