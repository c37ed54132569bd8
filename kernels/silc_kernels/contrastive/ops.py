"""Image-text contrastive loss over all ranks: softmax (CLIP, arXiv 2103.00020) and sigmoid (SigLIP, 2303.15343).

The face checks its arguments; below it, one opaque operator for each backend, where autograd, compilers and process
groups meet. The gradients are found in the forward, with the loss: the features are gathered once, and the backward,
where an engine runs its own collectives, sends nothing.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from ..common import dispatch
from ..common.checks import check_float, check_shape
from ..common.collectives import Ranks, group_name
from ..common.first_order import once
from .agreement import PLANS, Call, recompute
from .operator import define
from .passes import Options, Similarities, Solution, Tiles, wide_dtype
from .torch_tiles import TorchTiles

OP = "contrastive_loss"
KINDS = ("softmax", "sigmoid")
SCHEMA = (
    "(Tensor image, Tensor text, Tensor scale, Tensor? bias, str group, int[] call) -> (Tensor, Tensor, Tensor, Tensor)"
)


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    kind: str = "softmax",
    group: dist.ProcessGroup | None = None,
    plan: str = "auto",
    chunk: int = 4096,
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The contrastive loss of the global batch, B = n x ranks, from this rank's n images and n texts.

    With s_ij = logit_scale image_i . text_j + logit_bias:

        softmax   mean_i of [LSE_j s_ij + LSE_j s_ji] / 2 - s_ii
        sigmoid   sum_ij softplus(-z_ij s_ij) / B, z_ij = 1 for i = j, else -1

    Gradient convention: the value is the global mean, the same on all ranks. Engines average gradients over ranks, and
    that average equals the gradient of one process on the concatenated batch: each rank's features get `ranks` times
    their share; logit_scale and logit_bias get the whole gradient on every rank, averaged or not.

    All collectives run in the forward, so every rank of the group must call (also under no_grad). The first one
    compares the calls: shape and dtypes of the features, kind, plan, chunk, and which of image, text and logit_scale
    get a gradient. Values are not compared: logit_scale and logit_bias must be equal on all ranks. On CUDA a call that
    repeats the last one does not wait for it (agreement.py); none is compared while a CUDA graph is captured.

    Gradients of first order only: differentiating them again is an error.

    Args:
        image: [n, d], or [V, n, d]: the mean of V losses, each view's own B x B problem over the same texts, gathered
            once.
        text: [n, d].
        logit_scale: [1], the multiplier itself (the exponential of CLIP's parameter).
        logit_bias: [1] or None. Without effect on the softmax (gradient 0).
        kind: "softmax" or "sigmoid".
        group: process group; None: the default one if initialised, else this process alone.
        plan: how text gradients are found. "reduce_scatter": each rank computes the text gradient of its rows for all
            texts and they are summed between ranks (fewest products: best on one node). "recompute": images are
            gathered too and each rank computes its own columns again (no gradient travels: best across nodes). "auto":
            reduce_scatter where all ranks of the group are on one node (their host names are equal), else recompute.
        chunk: how many features, over all ranks, are gathered at a time, while those before are worked on. Memory is
            O(n d + chunk d) and a tile of similarities of fixed size, never n x B. One rank alone gathers nothing.
        normalize: L2-normalise image and text first: in float32 at least, then rounded back to their dtype, in which
            they are gathered and multiplied.
        backend: "auto", or a name from `dispatch.report`.

    Returns:
        scalar, float32 (float64 for float64 features).

    Raises:
        ValueError: misuse, or ranks whose calls differ (with what differs and all values named; on every rank, but on
            CUDA at once only on those whose call is not the last one again, and on the others at their next call).
        RuntimeError: a collective failed; names the op and the rank. In a backward: gradients differentiated again.
    """
    op = OP
    _check(op, image, text, {"logit_scale": logit_scale} | ({} if logit_bias is None else {"logit_bias": logit_bias}))
    for name, value, known in (("kind", kind, KINDS), ("plan", plan, PLANS)):
        if value not in known:
            raise ValueError(f"{op}: {name} is {value!r}; choose one of {', '.join(known)}")
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"{op}: chunk is {chunk}; it counts gathered features: give a whole number, at least 1")
    if normalize:
        image, text = _normalized(image), _normalized(text)
    return dispatch.run(
        op,
        (image, text),
        backend,
        image,
        text,
        logit_scale,
        logit_bias,
        kind=kind,
        group=group,
        plan=plan,
        chunk=chunk,
    )


def _check(op: str, image: Tensor, text: Tensor, scalars: dict[str, Tensor]) -> None:
    for name, scalar in scalars.items():
        if not isinstance(scalar, Tensor):
            raise ValueError(
                f"{op}: {name} is {scalar!r}, no tensor; give one number as a tensor on the features' device, "
                f"such as torch.tensor([{scalar}])"
            )
    check_float(op, image=image, text=text, **scalars)
    check_shape(op, "text", text, (None, None), "[n, d]")
    views = (None,) if image.dim() == 3 else ()
    check_shape(op, "image", image, (*views, *text.shape), "[n, d] or [V, n, d]")
    for name, scalar in scalars.items():
        if scalar.numel() != 1:
            raise ValueError(f"{op}: {name} has shape {list(scalar.shape)}; it must hold one number, shape [1]")


def _normalized(features: Tensor) -> Tensor:
    # The norm in float32 at least: in bf16 it would cost the cosine three digits. Products of float32 are slow.
    wide = features if features.element_size() >= 4 else features.float()
    return functional.normalize(wide, dim=-1).to(features.dtype)


@functools.cache
def _tiles(backend: str) -> type[Tiles]:
    """The arithmetic on tiles of a backend."""
    if backend == "triton":
        from .triton_tiles import TritonTiles  # when a call first wants it: the face costs no import of triton

        return TritonTiles
    return TorchTiles


def _operator(backend: str) -> Callable[..., Tensor]:
    """The operator silc_kernels::contrastive_`backend`, and the function with a backend's arguments that calls it."""

    def solve(
        image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, group: str, call: Sequence[int]
    ) -> Solution:
        asked = Call(*call)
        ranks = Ranks.named_group(OP, group)
        step = max(1, asked.chunk // ranks.size)
        # Kernels are launched on the current device.
        with torch.cuda.device_of(image) if image.is_cuda else nullcontext():
            again = recompute(ranks, image, text, asked)
            options = Options(bool(asked.softmax), ranks, again, step, *map(bool, asked[3:]))
            return Similarities(image, text, scale, bias, options, _tiles(backend)).solve()

    # Plain torch decides by the span of a tile how many exponentials it takes: the host looks at it.
    tags = () if backend == "triton" else (torch.Tag.cudagraph_unsafe,)
    run = define(f"contrastive_{backend}", SCHEMA, solve, _shapes, _remember, _backward, tags)

    def loss(
        image: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        *,
        kind: str = "softmax",
        group: dist.ProcessGroup | None = None,
        plan: str = "auto",
        chunk: int = 4096,
    ) -> Tensor:
        """`silc_kernels.contrastive_loss`; arguments are not checked."""
        wanted = [int(torch.is_grad_enabled() and tensor.requires_grad) for tensor in (image, text, logit_scale)]
        call = [int(kind == "softmax"), PLANS.index(plan), chunk, *wanted]
        return run(image, text, logit_scale, logit_bias, group_name(OP, group), call)

    return loss


def _shapes(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, group: str, call: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the operator returns, for compilers: loss [], d_scalars [4], d_image and d_text, empty if not wanted."""
    dtype = wide_dtype(image.dtype, text.dtype)
    wanted = Call(*call)
    d_image, d_text = (
        like.new_empty(like.shape if needed else (0,), dtype=dtype)
        for like, needed in ((image, wanted.image_wanted), (text, wanted.text_wanted))
    )
    return image.new_empty((), dtype=dtype), image.new_empty((4,), dtype=dtype), d_image, d_text


def _remember(ctx: Any, inputs: tuple[Any, ...], gradients: Sequence[Tensor | None]) -> None:
    """gradients: d_scalars, d_image and d_text."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.like = [None if tensor is None else (tensor.shape, tensor.dtype) for tensor in inputs[:4]]


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    if not torch.is_grad_enabled():
        return *_scaled(ctx, grad), None, None
    with torch.no_grad():
        gradients = _scaled(ctx, grad)
    # The inputs are not kept: a leaf in their place.
    cause = torch.empty(0, requires_grad=True)
    return *(None if each is None else once(OP, each, cause) for each in gradients), None, None


def _scaled(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Gradients of image, text, scale and bias where wanted, `grad` times what the forward has found."""
    d_scalars, *d_features = ctx.saved_tensors
    of_scalars = (d_scalars * grad).chunk(4)
    factor = of_scalars[3]
    scaled: list[Tensor | None] = []
    for index, like in enumerate(ctx.like):
        if not ctx.needs_input_grad[index]:
            scaled.append(None)
            continue
        shape, dtype = like
        if index >= 2:
            gradient = of_scalars[index - 1]
            gradient = gradient if gradient.shape == shape else gradient.view(shape)
            scaled.append(gradient if gradient.dtype == dtype else gradient.to(dtype))
        else:
            gradient = d_features[index]
            if gradient.dtype == dtype:
                scaled.append(gradient * factor)
            else:  # in one trip through memory
                scaled.append(torch.mul(gradient, factor, out=torch.empty(shape, dtype=dtype, device=gradient.device)))
    return scaled


dispatch.register(OP, "torch", _operator("torch"))
dispatch.register(OP, "triton", _operator("triton"), dispatch.triton_takes(OP))
