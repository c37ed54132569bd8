"""Calls of every op, forward and backward, for the instruments; random ones are small enough for the interpreter."""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from ..contrastive import contrastive_loss, triton_tiles
from ..crops import crop_resize
from ..distill import distill_head_loss, distill_loss
from ..patch_embedding import patch_embed
from ..photometry import photometric
from .same_ranks import same_ranks

BF16, FP16, FP32, BYTES = torch.bfloat16, torch.float16, torch.float32, torch.uint8
FLOATS = (BF16, FP16, FP32)
OPS = ("distill_loss", "distill_head_loss", "contrastive_loss", "patch_embed", "photometric", "crop_resize")

Make = Callable[[Sequence[int], torch.dtype], Tensor]


class Case(NamedTuple):
    """One call. run: makes its inputs by a `Make` and calls forward and backward of the Triton backend."""

    op: str
    label: str
    run: Callable[[Make], None]


def blank(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Where nothing is executed: memory without values."""
    return torch.empty(*shape, dtype=dtype)


def drawn(seed: int) -> Make:
    """Values from a seed: normal ones of deviation 0.3, and bytes."""
    generator = torch.Generator().manual_seed(seed)

    def make(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if dtype == BYTES:
            return torch.randint(0, 256, tuple(shape), dtype=BYTES, generator=generator)
        return (0.3 * torch.randn(*shape, generator=generator)).to(dtype)

    return make


def _name(*dtypes: torch.dtype) -> str:
    names = {BF16: "bf16", FP16: "fp16", FP32: "fp32"}
    return "/".join(names[dtype] for dtype in dtypes)


STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04


def distill(
    students: int, samples: int, prototypes: int, teachers: int, dtypes: tuple[torch.dtype, torch.dtype], form: str = ""
) -> Case:
    """form: "", "strided" (every second logit of a larger tensor) or "in place"."""

    def run(make: Make) -> None:
        step = 2 if form == "strided" else 1
        student = make((students, samples, prototypes * step), dtypes[0])[..., ::step].requires_grad_()
        teacher = make((teachers, samples, prototypes), dtypes[1])
        logits = student * 1 if form == "in place" else student
        center = make((prototypes,), FP32)
        distill_loss(
            logits,
            teacher,
            center,
            student_temp=STUDENT_TEMP,
            teacher_temp=TEACHER_TEMP,
            inplace_backward=form == "in place",
            backend="triton",
        ).backward()

    shape = f"S={students} N={samples} K={prototypes} T={teachers} {_name(*dtypes)} {form}".rstrip()
    return Case("distill_loss", shape, run)


def head(students: int, samples: int, prototypes: int, teachers: int, width: int, dtype: torch.dtype) -> Case:
    def run(make: Make) -> None:
        student, weight = (
            make(shape, dtype).requires_grad_() for shape in ((students, samples, width), (prototypes, width))
        )
        teacher, teacher_weight = (make(shape, dtype) for shape in ((teachers, samples, width), (prototypes, width)))
        center = make((prototypes,), FP32)
        distill_head_loss(
            student,
            teacher,
            weight,
            teacher_weight,
            center,
            student_temp=STUDENT_TEMP,
            teacher_temp=TEACHER_TEMP,
            backend="triton",
        ).backward()

    shape = f"S={students} N={samples} K={prototypes} T={teachers} d={width} {_name(dtype)}"
    return Case("distill_head_loss", shape, run)


def contrastive(
    kind: str,
    views: int,
    n: int,
    width: int,
    dtype: torch.dtype,
    ranks: int = 1,
    chunk: int = 4096,
    elements: int = triton_tiles.ELEMENTS,
) -> Case:
    """ranks: that take part, see `same_ranks`. chunk: features gathered at a time. elements: of a tile at most."""

    def run(make: Make) -> None:
        image, text = (make(shape, dtype).requires_grad_() for shape in ((views, n, width), (n, width)))
        scale, bias = (torch.tensor([value], requires_grad=True) for value in (14.0, -10.0))
        with same_ranks(ranks), mock.patch.multiple(triton_tiles.TritonTiles, elements=elements, summed=2 * elements):
            contrastive_loss(image, text, scale, bias, kind=kind, chunk=chunk, backend="triton").backward()

    slices = f" ranks={ranks} chunk={chunk}" if ranks > 1 else ""
    tiles = f" elements={elements}" if elements != triton_tiles.ELEMENTS else ""
    return Case("contrastive_loss", f"{kind} V={views} n={n} d={width} {_name(dtype)}{slices}{tiles}", run)


class Crops(NamedTuple):
    """One resolution. dtype: bytes, or floats; last: channels last."""

    images: int
    height: int
    across: int
    dtype: torch.dtype = BYTES
    last: bool = False

    def __str__(self) -> str:
        kind = "bytes" if self.dtype == BYTES else _name(self.dtype)
        return f"{self.images}x{self.height}x{self.across} {kind}{' channels_last' * self.last}"


def patches(
    crops: Sequence[Crops], patch: int, width: int, out: torch.dtype, prefix: int = 1, weights: torch.dtype = FP32
) -> Case:
    def run(make: Make) -> None:
        weight, bias = make((width, 3, patch, patch), weights), make((width,), weights)
        tables = [make(((each.height // patch) * (each.across // patch), width), weights) for each in crops]
        before = make((prefix, width), weights) if prefix else None
        for parameter in (weight, bias, *tables, *([] if before is None else [before])):
            parameter.requires_grad_()
        pixels = [make((each.images, 3, each.height, each.across), each.dtype) for each in crops]
        pixels = [
            crop.contiguous(memory_format=torch.channels_last if each.last else torch.contiguous_format)
            for crop, each in zip(pixels, crops, strict=True)
        ]
        half = (0.5, 0.4, 0.3)
        tokens = patch_embed(
            pixels, weight, bias, tables, mean=half, std=half, prefix=before, out_dtype=out, backend="triton"
        )
        tokens.backward(make(tokens.shape, out))

    sizes = " + ".join(map(str, crops))
    return Case("patch_embed", f"p={patch} D={width} {_name(weights, out)} prefix={prefix} {sizes}", run)


def photometry(views: int, height: int, width: int) -> Case:
    """All that the list knows, with a blur of 13 taps."""

    def run(make: Make) -> None:
        rows = torch.tensor([[0.9, 1.1, 0.8, 0.05, number % 24, number % 2, 2.0, 1] for number in range(views)])
        photometric(make((views, 3, height, width), BYTES), rows, inplace=True, backend="triton")

    return Case("photometric", f"{views}x{height}x{width}", run)


def crops(size: int, *boxes: tuple[int, int, int, int]) -> Case:
    """boxes: (height, width of the image, of a crop in its middle), an image each."""

    def run(make: Make) -> None:
        sizes = torch.tensor([box[:2] for box in boxes])
        counts = 3 * sizes.prod(1)
        pixels = make((int(counts.sum()),), BYTES)
        regions = torch.tensor([[(h - ch) // 2, (w - cw) // 2, ch, cw] for h, w, ch, cw in boxes])
        index = torch.arange(len(boxes))
        crop_resize(pixels, counts.cumsum(0) - counts, sizes, index, regions, index % 2 == 1, size, backend="triton")

    cut = " + ".join(f"{ch}x{cw} of {h}x{w}" for h, w, ch, cw in boxes)
    return Case("crop_resize", f"R={size} {cut}", run)


def random_case(op: str, random: Random) -> Case:
    """One of `op` that takes the interpreter some seconds at most."""
    return _RANDOM[op](random)


def random_cases(op: str, seed: int) -> Iterator[Case]:
    """The same ones for a seed, without an end."""
    random = Random(seed)
    while True:
        yield random_case(op, random)


def _random_distill(random: Random) -> Case:
    one = random.choice
    dtypes = one(FLOATS), one((BF16, FP32))
    form = one(("", "", "strided", "in place"))
    prototypes = one((1, 3, 7, 64, 300, 1023, 1024, 1025, 1037, 2048))
    return distill(one((1, 2, 3, 10, 17)), one((1, 2, 5)), prototypes, one((1, 2, 3, 8)), dtypes, form)


def _random_head(random: Random) -> Case:
    one = random.choice
    prototypes, width = one((1, 3, 63, 64, 65, 130, 200)), one((1, 16, 24, 72, 130, 256))
    return head(one((1, 2, 3)), one((1, 5, 43)), prototypes, one((1, 2)), width, one(FLOATS))


def _random_contrastive(random: Random) -> Case:
    one = random.choice
    n, width = one((1, 2, 5, 63, 127, 129, 150)), one((1, 3, 8, 12, 40, 72, 130))
    kind, views, elements = one(("softmax", "sigmoid")), one((1, 1, 2, 8)), one((256, 4096, triton_tiles.ELEMENTS))
    if views == 8 or elements == 256:  # either takes many more programs
        n = min(n, 63) // views + 1
    return contrastive(kind, views, n, width, one(FLOATS), one((1, 2, 3)), one((7, 16, 64, 4096)), elements)


def _random_patches(random: Random) -> Case:
    one = random.choice
    patch = one((1, 2, 4, 7, 8, 14, 16, 16, 20, 32))
    most = 3 if patch >= 16 else 5
    groups = [
        Crops(one((1, 2, 5)), patch * one(range(1, most)), patch * one((*range(1, most), 16 if patch == 16 else 1)))
        for _ in range(one((1, 2)))
    ]
    groups = [each._replace(dtype=one((BYTES, BYTES, FP32, BF16)), last=random.random() < 0.25) for each in groups]
    return patches(groups, patch, one((1, 8, 20, 72, 136)), one(FLOATS), one((0, 1, 3)), one((FP32, FP32, BF16)))


def _random_photometry(random: Random) -> Case:
    return photometry(random.choice((1, 2)), random.choice((7, 16, 33, 50)), random.choice((7, 31, 32, 70)))


def _random_crops(random: Random) -> Case:
    def box() -> tuple[int, int, int, int]:
        height, width = random.randint(1, 90), random.randint(1, 90)
        return height, width, random.randint(1, height), random.randint(1, width)

    return crops(random.choice((1, 7, 32, 40)), *(box() for _ in range(random.choice((1, 2, 3)))))


_RANDOM: dict[str, Callable[[Random], Case]] = dict(
    zip(
        OPS,
        (_random_distill, _random_head, _random_contrastive, _random_patches, _random_photometry, _random_crops),
        strict=True,
    )
)
