"""The photometric list in plain torch: views that share an order or a size of blur together, some at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .parameters import (
    BRIGHTNESS,
    CONTRAST,
    GREY,
    GREY_WEIGHTS,
    HUE,
    ORDER,
    ORDERS,
    SATURATION,
    SIGMA,
    SOLARIZE,
    SOLARIZE_FROM,
    radius,
)

CHUNK_ELEMENTS = 1 << 20  # numbers held at a time, 4 MiB of float32, several times over


def distort_(views: Tensor, parameters: Tensor) -> None:
    """See `ops.photometric`. Computes in float32. Waits for the parameters, where they are on a GPU."""
    rows = parameters.tolist()
    at_once = max(1, CHUNK_ELEMENTS // views[0].numel())
    for order, members in _groups([row[ORDER] for row in rows]):
        for start in range(0, len(members), at_once):
            chosen = members[start : start + at_once]
            index = torch.tensor(chosen, device=views.device)
            x, given = views[index].float(), parameters[index]
            for step in ORDERS[int(order)] if order >= 0 else ():
                x = _STEPS[step](x, given)
            x = _finished(x, given, [rows[view] for view in chosen])
            views[index] = x.round_().to(torch.uint8)


def _finished(x: Tensor, given: Tensor, rows: Sequence[Sequence[float]]) -> Tensor:
    """Grey, blur and solarization of those views that have them."""
    grey = [view for view, row in enumerate(rows) if row[GREY]]
    if grey:
        x[grey] = _grey(x[grey]).expand(-1, 3, -1, -1)
    for reach, members in _groups([radius(row[SIGMA]) if row[SIGMA] else 0 for row in rows]):
        if reach:
            sigma = given[members, SIGMA].double()
            x[members] = _blur(_blur(x[members], sigma, int(reach), 3), sigma, int(reach), 2)
    solarized = [view for view, row in enumerate(rows) if row[SOLARIZE]]
    if solarized:
        part = x[solarized]
        x[solarized] = torch.where(part >= SOLARIZE_FROM, 255 - part, part)
    return x


def _groups(values: Sequence[float]) -> Iterator[tuple[float, list[int]]]:
    """(value, where it stands), for each value."""
    for value in sorted(set(values)):
        yield value, [place for place, other in enumerate(values) if other == value]


def _factor(given: Tensor, place: int) -> Tensor:
    return given[:, place].view(-1, 1, 1, 1)


def _brightness(x: Tensor, given: Tensor) -> Tensor:
    return x.mul_(_factor(given, BRIGHTNESS)).clamp_(0, 255)


def _contrast(x: Tensor, given: Tensor) -> Tensor:
    factor = _factor(given, CONTRAST)
    # The mean of the grey is the grey of the means. Summed wide: 256 x 256 levels lose digits in float32.
    means = x.mean((2, 3), keepdim=True, dtype=torch.float64)
    return x.mul_(factor).add_((1 - factor) * _grey(means).float()).clamp_(0, 255)


def _saturation(x: Tensor, given: Tensor) -> Tensor:
    factor = _factor(given, SATURATION)
    return torch.addcmul(_grey(x).mul_(1 - factor), x, factor).clamp_(0, 255)


def _hue(x: Tensor, given: Tensor) -> Tensor:
    red, green, blue = x.unbind(1)
    low, top = torch.aminmax(x, dim=1)
    span = top - low
    divisor = torch.where(span == 0, 1.0, span)
    sixths = torch.where(top == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(top == red, (green - blue) / divisor, sixths)
    sixths = (sixths + 6 * given[:, HUE].view(-1, 1, 1)).remainder_(6)
    # How much of the span each channel has: all of it within a sixth of a turn of its hue, none beyond a third.
    shares = ((sixths - 3).abs_() - 1, 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_())
    return torch.stack([torch.addcmul(low, span, share.clamp_(0, 1)) for share in shares], 1)


_STEPS = (_brightness, _contrast, _saturation, _hue)


def _grey(x: Tensor) -> Tensor:
    """[m, 3, ...] -> [m, 1, ...]."""
    red, green, blue = GREY_WEIGHTS
    return (x[:, :1] * red).add_(x[:, 1:2], alpha=green).add_(x[:, 2:], alpha=blue)


def _blur(x: Tensor, sigma: Tensor, reach: int, dim: int) -> Tensor:
    """Views [m, 3, H, W] along one dimension; sigma [m]. A sum of shifted copies: no convolution rounds it to TF32."""
    length = x.shape[dim]
    period = max(1, 2 * (length - 1))
    places = torch.arange(-reach, length + reach, device=x.device).abs() % period
    padded = x.index_select(dim, torch.minimum(places, period - places).clamp_(max=length - 1))
    taps = torch.exp(-(torch.arange(-reach, reach + 1, device=x.device) ** 2) / (2 * sigma[:, None] ** 2))
    taps = (taps / taps.sum(1, keepdim=True)).float()
    out = padded.narrow(dim, reach, length) * _factor(taps, reach)
    for away in range(1, reach + 1):
        pair = padded.narrow(dim, reach - away, length) + padded.narrow(dim, reach + away, length)
        out.addcmul_(pair, _factor(taps, reach + away))
    return out
