"""The streams that the data benchmark compares, each set up as its authors do, on the same pairs.

    silc            this project's
    webdataset      as open_clip trains with it: shards shuffled by name, then a buffer of 5,000 samples in each worker
    streaming       mosaicml-streaming's StreamingDataset with its defaults, which its guide calls performant in nearly
                    all cases; streaming-py1s is its earlier shuffle

Each yields this rank's batches: samples as stored (`bytes`), or pixels and tokens by the same functions (`pixels`). A
library is imported by the function that needs it: what another one imports is no part of its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

PREFETCH = 2  # batches each worker keeps ready
SHARDS_SHUFFLED, SHARDS_FIRST = 2000, 500  # open_clip's buffers: of shards' names, and of samples; a buffer gives
SAMPLES_SHUFFLED, SAMPLES_FIRST = 5000, 1000  # samples as soon as it holds the second number
CONTEXT = 32  # tokens
SEED = 0


@dataclass(frozen=True)
class Spec:
    """What one rank reads.

    tars: folder or address of the shards, of which there are `shards`, named as in fake.name. mds: folder or address
    of mosaicml-streaming's. batch: samples of this rank. kind: bytes or pixels; side: of the images in pixels. endless:
    passes without an end, in whole batches; else one pass, whose last batch may be short. faked: the shards are links
    of a few files.
    """

    provider: str
    tars: str
    shards: int
    mds: str | None
    batch: int
    rank: int = 0
    world: int = 1
    workers: int = 0
    kind: str = "bytes"
    side: int = 32
    endless: bool = True
    faked: bool = False


class Taken(NamedTuple):
    """A batch: keys; then uint8 [bytes] of all images and captions, and their lengths int64 [b, 2]; or images uint8
    [b, 3, side, side] and tokens int64 [b, CONTEXT].
    """

    keys: list[str]
    images: Tensor
    texts: Tensor


def open_stream(spec: Spec) -> Iterable[Taken]:
    """The batches of a rank. Raises ImportError: the provider's library is not installed."""
    return STREAMS[spec.provider](spec)


class Stored:
    """Packs samples as they are stored: nothing is decoded."""

    def __call__(self, key: str, image: bytes, caption: bytes) -> tuple[str, bytes, bytes]:
        return key, image, caption

    def collate(self, samples: Sequence[tuple[str, bytes, bytes]]) -> Taken:
        packed = np.frombuffer(b"".join(part for sample in samples for part in sample[1:]), dtype=np.uint8)
        lengths = torch.tensor([[len(image), len(caption)] for _, image, caption in samples])
        return Taken([key for key, _, _ in samples], torch.from_numpy(packed.copy()), lengths)


class Decoded:
    """Decodes, resizes and tokenises with this project's functions, whatever the stream."""

    def __init__(self, side: int) -> None:
        from silc.data.tokenizer import build_tokenizer

        self._side, self._tokenizer = side, build_tokenizer("open_clip_bpe", CONTEXT)

    def __call__(self, key: str, image: bytes, caption: bytes) -> tuple[str, Tensor, str]:
        from silc.data.captions import CaptionReader
        from silc.data.images.decode import decode_image
        from silc.data.views.crops import resize_into

        out = torch.empty(3, self._side, self._side, dtype=torch.uint8)
        resize_into(out, decode_image(image, 10**8))
        return key, out, CaptionReader("txt", lines=False).read(caption)[0]

    def collate(self, samples: Sequence[tuple[str, Tensor, str]]) -> Taken:
        keys, images, captions = zip(*samples, strict=True)
        return Taken(list(keys), torch.stack(images), self._tokenizer(list(captions)))


def _preparation(spec: Spec) -> Any:
    return Stored() if spec.kind == "bytes" else Decoded(spec.side)


def _prefetch(spec: Spec) -> dict[str, int]:
    return {"num_workers": spec.workers} | ({"prefetch_factor": PREFETCH} if spec.workers else {})


def _again(loader: Iterable[Any], spec: Spec) -> Iterator[Any]:
    yield from loader
    while spec.endless:
        yield from loader


def _webdataset(spec: Spec) -> Iterable[Taken]:
    import webdataset as wds

    prepare = _preparation(spec)
    command = "pipe:curl --silent --fail --location " if "://" in spec.tars else ""
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(f"{command}{spec.tars}/{{000000..{spec.shards - 1:06}}}.tar"),
        wds.detshuffle(bufsize=SHARDS_SHUFFLED, initial=SHARDS_FIRST, seed=SEED),
        wds.split_by_node,
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.shuffle(bufsize=SAMPLES_SHUFFLED, initial=SAMPLES_FIRST),
        wds.map(lambda sample: prepare(sample["__key__"], sample["jpg"], sample["txt"])),
        wds.batched(spec.batch, collation_fn=prepare.collate, partial=not spec.endless),
    )
    loader = wds.WebLoader(pipeline, batch_size=None, persistent_workers=spec.workers > 0, **_prefetch(spec))
    return _again(loader, spec)


def _streaming(algorithm: str) -> Callable[[Spec], Iterable[Taken]]:
    def opened(spec: Spec) -> Iterable[Taken]:
        from streaming import StreamingDataset

        prepare = _preparation(spec)

        class Pairs(StreamingDataset):
            def __getitem__(self, at: int) -> Any:
                return prepare(**super().__getitem__(at))

        assert spec.mds is not None
        remote = {"remote": spec.mds, "local": f"{gettempdir()}/mds"} if "://" in spec.mds else {"local": spec.mds}
        dataset = Pairs(**remote, batch_size=spec.batch, shuffle=True, shuffle_algo=algorithm, shuffle_seed=SEED)
        loader = DataLoader(
            dataset,
            batch_size=spec.batch,
            collate_fn=prepare.collate,
            drop_last=spec.endless,
            persistent_workers=spec.workers > 0,
            **_prefetch(spec),
        )
        return _again(loader, spec)

    return opened


def _silc(spec: Spec) -> Iterable[Taken]:
    from benchmarks.data.ours import open_ours

    return open_ours(spec)


STREAMS: dict[str, Callable[[Spec], Iterable[Taken]]] = {
    "silc": _silc,
    "webdataset": _webdataset,
    "streaming": _streaming("py1e"),
    "streaming-py1s": _streaming("py1s"),
}
