"""Whether Triton's interpreter works with the NumPy that is installed."""

import numpy
import torch
import triton
import triton.language as tl


@triton.jit
def counting(out, n):
    """A loop up to an argument: where versions do not fit, it fails."""
    total = 0
    for i in range(n):
        total += i
    tl.store(out, total)


def trouble() -> str:
    """What is wrong, in a line; empty: nothing."""
    out = torch.zeros(1, dtype=torch.int32)
    try:
        counting[(1,)](out, 4)
    except Exception as error:  # whatever the interpreter ends by
        return (
            f"the interpreter of triton {triton.__version__} does not work with NumPy {numpy.__version__} "
            f"({str(error).splitlines()[-1]}): tests under it need NumPy below 2.4, or triton 3.8; a GPU's do not"
        )
    return "" if int(out) == 6 else f"the interpreter of triton {triton.__version__} counts 0 + 1 + 2 + 3 = {int(out)}"
