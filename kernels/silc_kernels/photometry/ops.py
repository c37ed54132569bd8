"""The photometric list of a batch of views: the face, and one operator for each backend."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from ..common import dispatch
from ..common.checks import check_shape
from ..common.transfer import sent
from . import torch_backend
from .parameters import WIDTH, check_values

OP = "photometric"


def photometric(views: Tensor, parameters: Tensor, *, inplace: bool = False, backend: str = "auto") -> Tensor:
    """Color jitter, greyscale, blur and solarization of byte views, each by its row of parameters.

    The list of DINO (arXiv 2104.14294, after BYOL), as torchvision computes it on floats. Levels are real numbers from
    0 to 255; brightness, contrast (towards the mean of the view's grey) and saturation clamp to that range, hue is
    turned in HSV, the blur reflects at the edges, and nothing is rounded but the result, halves to even. A result
    differs from that in float64 by one level at most.

    Args:
        views: uint8 [n, 3, H, W], contiguous.
        parameters: float32 [n, 8]: factors of brightness, contrast and saturation, 0 to 8; turns of hue, -1 to 1; the
            order of these, an index in `itertools.permutations(range(4))`, or -1 for none of them; 1 for grey, else 0;
            sigma of the blur in pixels, at most 2, or 0 for none (2 max(1, round(3 sigma)) + 1 taps); 1 to solarize
            from 128 on. On the CPU, where their values are checked before they are copied, or where the views are.
        inplace: write the result over `views`.
        backend: "auto", or a name from `dispatch.report`.

    Returns:
        uint8 [n, 3, H, W], in the memory of `views` if `inplace`. It has no gradient.

    Raises:
        ValueError: a wrong shape, dtype, device or (on the CPU) value; with the reason.

    A CUDA graph can hold the call on the Triton backend if the parameters are on the GPU, where nobody checks their
    values. From the CPU they are copied at each call, which is a RuntimeError during a capture.
    """
    if not isinstance(views, Tensor) or views.dtype != torch.uint8:
        given = views.dtype if isinstance(views, Tensor) else repr(views)
        raise ValueError(f"{OP}: views are {given}; give a tensor of uint8 levels")
    if views.dim() != 4 or views.shape[1] != 3:
        raise ValueError(f"{OP}: views has shape {list(views.shape)}; it must be [n, 3, H, W], channels first")
    if not views.is_contiguous():
        raise ValueError(f"{OP}: views are not contiguous; give views.contiguous()")
    if not isinstance(parameters, Tensor) or parameters.dtype != torch.float32:
        given = parameters.dtype if isinstance(parameters, Tensor) else repr(parameters)
        raise ValueError(f"{OP}: parameters are {given}; give a tensor of float32")
    if len(views) or parameters.shape != (0, WIDTH):
        check_shape(OP, "parameters", parameters, (len(views), WIDTH), "[n, 8], a row a view")
    if parameters.device not in (views.device, torch.device("cpu")):
        raise ValueError(f"{OP}: parameters are on {parameters.device}, views on {views.device}; move them there")
    if parameters.device.type == "cpu" and not torch.compiler.is_compiling():
        check_values(OP, parameters)
    out = views if inplace else views.clone()
    if out.numel():
        rows = sent(parameters, views.device)
        dispatch.run(OP, (out, rows), backend, out, rows)
    return out


def _module(backend: str) -> ModuleType:
    """What implements a backend: distort_(views, parameters), in place."""
    if backend == "triton":
        from . import triton_backend  # when a call first wants it: the face costs no import of triton

        return triton_backend
    return torch_backend


def _operator(backend: str) -> Callable[..., Tensor]:
    """The operator silc_kernels::photometric_`backend`, which writes over its views."""

    def distort_(views: Tensor, parameters: Tensor) -> None:
        _module(backend).distort_(views, parameters)

    return torch.library.custom_op(
        f"silc_kernels::{OP}_{backend}",
        distort_,
        mutates_args=("views",),
        schema="(Tensor(a!) views, Tensor parameters) -> ()",
        # In plain torch each view's row decides on the host what is done.
        tags=() if backend == "triton" else (torch.Tag.cudagraph_unsafe,),
    )


dispatch.register(OP, "torch", _operator("torch"))
dispatch.register(OP, "triton", _operator("triton"), dispatch.triton_takes(OP))
