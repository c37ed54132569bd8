"""Time from a JPEG to ten views on one core, and the quality of the views beside it.

Correct first: our decoding and crops give the bits of version 0.1.0, and the photometric list is within one level of
torchvision's operations in fp64. Then all ways take turns over the same pictures; ratios are of the same round.

Pictures are random, with a spectrum that falls as that of photos of the web does, and about as many bytes. Quality is
the PSNR of crops against bicubic resizing with antialiasing in fp64, before any photometric change.
"""

from __future__ import annotations

import io
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.data import crops_before
from benchmarks.data.crop_ways import LIMIT, LISTED, VIEWS, Before, Ours, Resize, Way, exact, ways
from silc.data.images.decode import decode_image

QUALITY = 90  # of the JPEGs
FALL = 1.5  # amplitude over frequency, as a power


@dataclass(frozen=True)
class Plan:
    """sizes: width and height of the pictures. rounds: of all ways, over all pictures."""

    sizes: Sequence[tuple[int, int]] = ((341, 256), (640, 480), (1024, 768))
    pictures: int = 16
    rounds: int = 9


@dataclass(frozen=True)
class Cut:
    """kind: what is done; image: its size in pixels, kilobytes: of its file, mean. per_second: images a second of one
    core, from ms, the processor time of an image; wall_ms: by the clock; both are medians of the rounds. ratio: time of
    this way over that of ours of the same kind, median of the rounds' ratios. psnr: dB, of crops; None where none is
    cut.
    """

    provider: str
    kind: str
    image: str
    kilobytes: float
    per_second: float
    ms: float
    wall_ms: float
    ratio: float
    psnr: float | None


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG of noise, whose amplitudes fall with the frequency as those of photos."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = math.inf
    waves = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    channels = np.fft.irfft2(waves / frequency**FALL, (height, width))
    grey = channels.mean(0)
    pixels = grey + 0.4 * (channels - grey)  # colours of photos are not vivid
    levels = 120 + 50 * (pixels - pixels.mean()) / pixels.std()
    file = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def gate(pictures: Sequence[bytes]) -> str:
    """What was checked of ours, in a line. Raises ValueError where ours is wrong."""
    if not all(torch.equal(decode_image(data, LIMIT), crops_before.decode(data)) for data in pictures):
        raise ValueError("decoding does not give the bits of version 0.1.0; nothing is timed")
    views, then = Ours(VIEWS).views(pictures), Before(VIEWS).views(pictures)
    if not all(map(torch.equal, views, then)):
        raise ValueError("crops do not have the bits of version 0.1.0; nothing is timed")
    off = torch.cat(list(_off(views, Ours(LISTED).distort(*views), Ours(LISTED).drawn(len(pictures)))))
    if off.max() > 1.01:
        raise ValueError(f"photometric list: {float(off.max()):.2f} levels off its definition; nothing is timed")
    share = float((off > 0.501).double().mean())
    return f"correct: decoding and crops bit for bit; the list's levels, but {share:.0e} of them by one"


def _off(views: Sequence[Tensor], listed: Sequence[Tensor], drawn: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Distances in levels of our distorted views from torchvision's operations in fp64."""
    for i, rows in enumerate(drawn):
        before = [view for sizes in views for view in sizes[i]]
        after = [view for sizes in listed for view in sizes[i]]
        for plain, done, row in zip(before, after, rows.tolist(), strict=True):
            defined = 255 * crops_before.distorted(plain.double() / 255, row, solarize_from=128 / 255)
            yield (done - defined).abs().flatten()


def measure(plan: Plan) -> Iterator[Cut | str]:
    """The rows of each size, after a line on what was checked. Raises ValueError where ours is wrong."""
    with _one_thread():
        for width, height in plan.sizes:
            pictures = [photo(width, height, seed) for seed in range(plan.pictures)]
            yield f"{width}x{height}: {gate(pictures)}"
            yield from _rows(f"{width}x{height}", pictures, plan.rounds)


def _rows(image: str, pictures: Sequence[bytes], rounds: int) -> Iterator[Cut]:
    every = ways(pictures)
    spent: list[list[tuple[float, float]]] = [[] for _ in every]
    for number in range(rounds + 1):
        for turn in range(len(every)):
            at = (number + turn) % len(every)  # each way follows the same one, but none is always the first
            torch.manual_seed(number)  # of the others' boxes; ours have a seed of their own
            spent[at].append(_milliseconds(every[at], pictures))
    quality = {way.resize: psnr(pictures, way.resize) for way in every if way.resize is not None}
    processor = [[each[0] for each in times[1:]] for times in spent]  # the first round warms up
    first = {way.kind: own for way, own in reversed(list(zip(every, processor, strict=True)))}
    for way, own, both in zip(every, processor, spent, strict=True):
        ms = statistics.median(own)
        yield Cut(
            provider=way.provider,
            kind=way.kind,
            image=image,
            kilobytes=statistics.mean(map(len, pictures)) / 1e3,
            per_second=1e3 / ms,
            ms=ms,
            wall_ms=statistics.median(wall for _, wall in both[1:]),
            ratio=statistics.median(this / ours for this, ours in zip(own, first[way.kind], strict=True)),
            psnr=None if way.resize is None else quality[way.resize],
        )


def _milliseconds(way: Way, pictures: Sequence[bytes]) -> tuple[float, float]:
    """An image's processor time and time by the clock."""
    processor, wall = time.process_time(), time.perf_counter()
    way.run(pictures)
    n = len(pictures) / 1e3
    return (time.process_time() - processor) / n, (time.perf_counter() - wall) / n


def psnr(pictures: Sequence[bytes], resize: Resize) -> float:
    """Of our boxes, over all views, in dB."""
    squares, n = 0.0, 0
    for data, row in zip(pictures, Ours(VIEWS).rows(len(pictures)), strict=True):
        pixels = crops_before.decode(data).contiguous()
        for i, box in enumerate(Ours(VIEWS).plan(pixels, row).boxes.tolist()):
            size = VIEWS.global_size if i < VIEWS.n_global else VIEWS.local_size
            off = resize(pixels, box, size).double() - exact(pixels, box, size)
            squares, n = squares + float(off.square().sum()), n + off.numel()
    return 10 * math.log10(255**2 * n / squares)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
