"""The photometric list on the processor, in float32; silc.data.views.photometric defines it.

Brightness, contrast, saturation and grey are affine maps of a colour. They are composed, 3 x 4 numbers, and applied to
the pixels only where a clamp, a change of hue or the end asks for them: a product with [4, pixels], as fast as one
addition. The blur is two products with banded matrices, cut into blocks. NumPy does the arithmetic, and torch the
clamps, which take NumPy twice the time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from silc.data.views.photometric import GREYS, ORDERS, SOLARIZE_FROM

SMALLEST = 7  # pixels a side; the widest blur reflects six at a border
_BLOCK = 16  # outputs of the blur that one product makes
_PIXELS = 1 << 14  # mapped at a time: they stay in the cache, and are too few for BLAS to start threads for them
_GREY = np.array(GREYS)


def distort_(views: Tensor, rows: np.ndarray) -> None:
    """Distort views in place.

    Args:
        views: uint8 [n, 3, R, R], R at least SMALLEST.
        rows: float32 [n, photometric.PARAMETERS], see :func:`silc.data.views.photometric.parameters`.
    """
    canvas = _Canvas(views.shape[-1])
    for view, row in zip(views.numpy(), rows.tolist(), strict=True):
        _distort(canvas, view, row)


def _distort(canvas: _Canvas, view: np.ndarray, row: list[float]) -> None:
    *factors, hue, order, grey, sigma, solarize = row
    if order < 0 and not (grey or sigma):
        if solarize:
            np.minimum(view, 255 - view, out=view)  # of whole numbers it is the smaller one
        return
    canvas.load(view)
    if order >= 0:
        steps = (canvas.brightness, canvas.contrast, canvas.saturation, canvas.hue)
        for step in ORDERS[int(order)]:
            steps[step]((*factors, hue)[step])
    if grey:
        canvas.grey()
    if sigma:
        canvas.blur(sigma)
    canvas.store(view, solarize > 0)


class _Canvas:
    """A view in work: its colours are _mix [3, 4] @ _pixels [4, R * R], of red, green, blue and 1."""

    def __init__(self, size: int) -> None:
        self._size = size
        # The pixels, where the next ones are written, and room for what turning the hue needs on the way.
        self._pixels, self._spare = np.empty((2, 4, size * size), np.float32)
        self._pixels[3] = self._spare[3] = 1
        self._room = np.empty((11, size * size), np.float32)

    def load(self, view: np.ndarray) -> None:
        """Begin with a view [3, R, R]."""
        np.copyto(self._colours(3), view)
        self._planes = 3  # 1 once they are equal
        self._mix = np.eye(3, 4)
        self._mixed = False  # whether _mix is more than the identity

    def brightness(self, factor: float) -> None:
        self._mix *= factor
        self._bound(factor)

    def contrast(self, factor: float) -> None:
        # NumPy's sums do not depend on the number of threads, as torch's do.
        mean = _GREY @ (self._mix[:, :3] @ self._pixels[:3].mean(axis=1) + self._mix[:, 3])
        self._mix *= factor
        self._mix[:, 3] += (1 - factor) * mean
        self._bound(factor)

    def saturation(self, factor: float) -> None:
        self._mix = factor * self._mix + (1 - factor) * (_GREY @ self._mix)
        self._bound(factor)

    def _bound(self, factor: float) -> None:
        """After a change by a factor; one of at most 1 leaves all colours between others of the range."""
        self._mixed = True
        if factor > 1:
            self._apply()
            torch.from_numpy(self._pixels[:3]).clamp_(0, 255)

    def hue(self, turns: float) -> None:
        self._apply()
        _turn_hue(self._pixels[:3], turns, self._room)

    def grey(self) -> None:
        self._mix = (_GREY @ self._mix)[None]
        self._planes = 1
        self._mixed = True

    def blur(self, sigma: float) -> None:
        self._apply()
        pixels, spare = self._colours(self._planes), self._spare[: self._planes].reshape(-1, self._size, self._size)
        bands = _bands(self._size, sigma)
        for band in bands:
            np.matmul(band.weights, pixels[:, band.inputs], out=spare[:, band.outputs])
        for band in bands:
            np.matmul(spare[:, :, band.inputs], band.transposed, out=pixels[:, :, band.outputs])

    def store(self, view: np.ndarray, solarize: bool) -> None:
        """Write the view [3, R, R], rounded."""
        self._apply()
        colours = self._colours(self._planes)
        if solarize:  # by arithmetic: a mask of pixels takes NumPy ten times as long
            bright = np.greater_equal(colours, SOLARIZE_FROM).astype(np.float32)
            colours += bright * (255 - 2 * colours)
        np.copyto(view, np.rint(colours, out=colours), casting="unsafe")

    def _colours(self, planes: int) -> np.ndarray:
        return self._pixels[:planes].reshape(planes, self._size, self._size)

    def _apply(self) -> None:
        """Make the colours the pixels."""
        if not self._mixed:
            return
        mix = self._mix.astype(np.float32)
        for at in range(0, self._size * self._size, _PIXELS):
            part = np.s_[:, at : at + _PIXELS]
            np.matmul(mix, self._pixels[part], out=self._spare[: self._planes][part])
        self._pixels, self._spare = self._spare, self._pixels
        self._mix = np.eye(self._planes, 4)
        self._mixed = False


def _turn_hue(colours: np.ndarray, turns: float, room: np.ndarray) -> None:
    """Turn the hue of colours float32 [3, n] in place, by at most a sixth of a turn; room: float32 [11, n].

    On the hexagon of a chroma c = max - min, one side is c long and each colour moves by p = 6 |turns| c. Of the three
    channels one is the largest, one the smallest, and only the third one moves, until it meets one of these; then that
    one moves. For red, turned towards green, all six sides are one formula without a case or a division:

        red - clip(red - blue, -clip(p - (green - red), 0, p), clip(p + (green - red), 0, p))

    and the other channels follow by rotation; turned to the other side, by reflection.
    """
    step = 1 if turns > 0 else -1
    differences, reach, low, high = room[:4], room[4], room[5:8], room[8:]
    # To the next channel, and from the one before: the same three, one place apart, so that one is kept twice.
    to_next, from_last = (differences[1:], differences[:3]) if step > 0 else (differences[:3], differences[1:])
    for i in range(3):
        np.subtract(colours[(i + step) % 3], colours[i], out=to_next[i])
    from_last[0 if step > 0 else 2] = to_next[2 if step > 0 else 0]
    np.maximum(np.maximum(colours[0], colours[1], out=reach), colours[2], out=reach)
    np.minimum(np.minimum(colours[0], colours[1], out=low[0]), colours[2], out=low[0])
    reach -= low[0]
    reach *= np.float32(6 * abs(turns))
    to_next_, high_, low_ = torch.from_numpy(to_next), torch.from_numpy(high), torch.from_numpy(low)
    torch.clamp(to_next_, max=0, out=high_)
    torch.clamp(to_next_, min=0, out=low_)
    high += reach
    low -= reach
    colours -= torch.clamp(torch.from_numpy(from_last), low_.clamp_(max=0), high_.clamp_(min=0), out=high_).numpy()


class _Band(NamedTuple):
    """Some outputs of a line's blur: weights float32 [outputs, inputs], and the same as [inputs, outputs]."""

    outputs: slice
    inputs: slice
    weights: np.ndarray
    transposed: np.ndarray  # in memory too: as a view the product takes twice the time


def _bands(size: int, sigma: float) -> list[_Band]:
    radius = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    inner = np.zeros((_BLOCK, _BLOCK + 2 * radius), np.float32)
    for i in range(_BLOCK):
        inner[i, i : i + len(taps)] = taps
    inner_transposed = inner.T.copy()
    bands = []
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        before, after = max(0, radius - start), max(0, stop + radius - size)
        weights, transposed = inner, inner_transposed
        if before or after or stop - start < _BLOCK:
            weights = _reflected(inner[: stop - start, : stop - start + 2 * radius], before, after)
            transposed = weights.T.copy()
        inputs = slice(start - radius + before, stop + radius - after)
        bands.append(_Band(slice(start, stop), inputs, weights, transposed))
    return bands


def _reflected(weights: np.ndarray, before: int, after: int) -> np.ndarray:
    """Weights of as many inputs before the first and after the last one, added to those of their mirror images."""
    end = weights.shape[1] - after
    inner = weights[:, before:end].copy()
    inner[:, 1 : before + 1] += weights[:, :before][:, ::-1]
    inner[:, -1 - after : -1] += weights[:, end:][:, ::-1]
    return inner
