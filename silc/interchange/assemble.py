"""From tensors under this package's names, not read yet, to weights: compared with the sizes first, then read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from silc.config import ModelConfig, TextConfig, VisionConfig
from silc.interchange.shapes import shapes_of
from silc.interchange.tensors import FLOATS, Stored
from silc.text import shown

TOWERS = ("visual.", "text.")
MOST_LOGARITHM = math.log(1e6)  # objective.max_scale has that limit
_SOME = 6  # names that a message lists


class Names:
    """Tensors by the names that their library gives them, and which of them were asked for."""

    def __init__(self, where: Path, stored: Mapping[str, Stored]) -> None:
        self._where, self._stored = where, stored
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __call__(self, name: str) -> Stored:
        """Raises ValueError for one that is not there."""
        if name not in self._stored:
            raise ValueError(f"{self._where}: {name} is missing")
        self._taken.add(name)
        return self._stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def left(self) -> tuple[str, ...]:
        """Those that were not asked for."""
        return tuple(name for name in self._stored if name not in self._taken)


def sizes(where: Path, vision: Callable[[], VisionConfig], text: Callable[[], TextConfig]) -> ModelConfig:
    """A model of the sizes that files state. Raises ValueError for sizes that no tower here can have."""
    try:
        model = ModelConfig(vision=vision(), text=text())
    except ValidationError as error:  # beyond the limits of silc.config
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {field} is {str(first['input'])[:40]}: {first['msg'].lower()}") from None
    check_divisions(where, model)
    return model


def check_divisions(where: Path, model: ModelConfig) -> None:
    """Raises ValueError for sizes that do not divide one another as they must."""
    for tower in (model.vision, model.text):
        if tower.width % tower.heads:
            raise ValueError(f"{where}: {tower.heads} heads do not divide a width of {tower.width}")
    image, patch = model.vision.image_size, model.vision.patch_size
    if image % patch:
        raise ValueError(f"{where}: patches of {patch} px do not divide images of {image} px")


def assemble(where: Path, model: ModelConfig, stored: Mapping[str, Stored]) -> tuple[dict[str, Tensor], list[str]]:
    """Read the towers' tensors.

    Args:
        where: for messages.
        model: the sizes.
        stored: tensors under the names of :class:`silc.model.SilcModel`, and others.

    Returns:
        The towers' tensors, fp32 on the CPU; and the names of what belongs to no tower.

    Raises:
        ValueError: a tensor is missing, is one that these towers do not have, or has another shape; is no floating
            point number; or is damaged.
    """
    check_depths(where, model, stored)
    wanted = shapes_of(model, with_head=False)
    others = [name for name in stored if name not in wanted]
    refuse_unknown(where, (name for name in others if name.startswith(TOWERS)))
    for name, shape in wanted.items():
        if name not in stored:
            raise ValueError(f"{where}: {name} is missing")
        if stored[name].shape != tuple(shape):
            raise ValueError(f"{where}: {name} has shape {list(stored[name].shape)}, not {list(shape)}")
        if stored[name].dtype not in FLOATS:
            raise ValueError(f"{where}: {name} is of type {stored[name].dtype!r:.40}; floating point is read alone")
    # Blocks' tensors of one kind together, as some files store them.
    order = sorted(wanted, key=lambda name: re.sub(r"\d+", "", name))
    read = {name: _finite(where, name, stored[name].load()) for name in order}
    return {name: read[name] for name in wanted}, others


def refuse_unknown(where: Path, names: Iterable[str]) -> None:
    """Raises ValueError for tensors that take part in what another model computes."""
    found = list(names)
    if found:
        listed = ", ".join(shown(name) for name in found[:_SOME])
        more = f" and {len(found) - _SOME} more" if len(found) > _SOME else ""
        raise ValueError(f"{where} holds another architecture: the towers here have no {listed}{more}")


def scalar(where: Path, name: str, stored: Stored) -> float:
    """A tensor of one number. Raises ValueError for another."""
    if math.prod(stored.shape) != 1 or len(stored.shape) > 1 or stored.dtype not in FLOATS:
        raise ValueError(
            f"{where}: {name} has shape {list(stored.shape)} and type {stored.dtype!r:.40}; it is a number"
        )
    return _finite(where, name, stored.load()).item()


def logarithm(where: Path, name: str, stored: Stored) -> float:
    """The logarithm of the logits' multiplier. Raises ValueError for one that no run can have."""
    found = scalar(where, name, stored)
    if abs(found) > MOST_LOGARITHM:
        raise ValueError(f"{where}: {name} is {found:.4g}; it is the logarithm of a multiplier of 1e-6 to 1e6")
    return found


def _finite(where: Path, name: str, value: Tensor) -> Tensor:
    if not torch.isfinite(value).all():
        raise ValueError(f"{where}: {name} holds values that are not finite in fp32")
    return value.contiguous()


def check_sizes(model: ModelConfig, weights: Mapping[str, Tensor], where: Path) -> None:
    """Compare sizes with the tensors before a model of these sizes is built: what a few bytes of a configuration claim
    would otherwise decide how long that takes. The shapes are compared one by one when the weights are put in.

    Raises ValueError naming `where`.
    """
    if "visual.trunk.attn_pool.latent" not in weights:
        raise ValueError(f"{where} holds no attention-pooled ViT (visual.trunk.attn_pool)")
    check_depths(where, model, weights)
    check_divisions(where, model)


def check_depths(where: Path, model: ModelConfig, names: Iterable[str]) -> None:
    """Compare the numbers of blocks, before a model of a stranger's sizes is laid out. Raises ValueError."""
    names = list(names)
    depths = {"visual.trunk.blocks": model.vision.depth, "text.transformer.resblocks": model.text.depth}
    for stem, depth in depths.items():
        found = count(names, stem + ".")
        if found != depth:
            raise ValueError(f"{where}: the weights have {found} blocks {stem}, the description says {depth}")


def count(names: Iterable[str], stem: str) -> int:
    """How many numbers follow a stem: blocks of a tower."""
    number = re.compile(re.escape(stem) + r"(\d+)[./]", re.ASCII)
    return len({match[1] for match in map(number.match, names) if match})
