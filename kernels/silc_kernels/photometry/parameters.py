"""The row of parameters of a view: what stands where, and in which bounds."""

from itertools import permutations
from operator import ge, le

from torch import Tensor

WIDTH = 8
BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GREY, SIGMA, SOLARIZE = range(WIDTH)
NAMES = ("brightness", "contrast", "saturation", "hue", "order", "grey", "sigma", "solarize")
# Of brightness, contrast, saturation and hue (0 to 3), in the order in which they are applied; -1 in a row: none is.
ORDERS = tuple(permutations(range(4)))
MOST_SIGMA = 2.0  # pixels
MOST_RADIUS = 6  # of the blur at that sigma: 13 taps
SOLARIZE_FROM = 128
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue, as torchvision's
MOST_FACTOR = 8.0  # larger ones, one after the other, would make more than a level of what float32 rounds
_MOST = (MOST_FACTOR, MOST_FACTOR, MOST_FACTOR, 1.0, len(ORDERS) - 1.0, 1.0, MOST_SIGMA, 1.0)
_LEAST = (0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0)
_WHOLE = (ORDER, GREY, SOLARIZE)


def radius(sigma: float) -> int:
    """Of a blur, in pixels: it has 2 radius + 1 taps."""
    return max(1, round(3 * sigma))


def check_values(op: str, parameters: Tensor) -> None:
    """Rows [n, 8] on the CPU within their bounds. Raises ValueError with the first value that is not."""
    if not len(parameters):
        return
    least, most = (bound.tolist() for bound in parameters.aminmax(dim=0))  # NaN, where there is one
    fractions = parameters.frac().abs_().amax(0).tolist()
    fits = all(map(ge, least, _LEAST)) and all(map(le, most, _MOST))
    if fits and not any(fractions[place] for place in _WHOLE):
        return
    for view, row in enumerate(parameters.tolist()):
        for place, value in enumerate(row):
            whole = place in _WHOLE
            if not _LEAST[place] <= value <= _MOST[place] or (whole and value != int(value)):
                raise ValueError(
                    f"{op}: parameters[{view}, {place}] is {value:g}; {NAMES[place]} must be "
                    f"{'a whole number' if whole else 'a number'} from {_LEAST[place]:g} to {_MOST[place]:g}"
                )
