"""Weights that were read, made to fit a configuration: other image sizes and context lengths, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from silc.config import ModelConfig
from silc.interchange.positions import resize, resize_text
from silc.interchange.shapes import hidden_width, misfit, shapes_of
from silc.interchange.source import Source
from silc.text import plural, shown

IMAGES, TEXTS, HEAD = "visual.trunk.pos_embed", "text.positional_embedding", "head."
# Keys that decide what is computed from the weights. image_size and context_length are not among them: their tables are
# resized.
_VISION = ("patch_size", "width", "depth", "heads", "mlp_ratio", "gelu")
_TEXT = ("vocab_size", "width", "depth", "heads", "mlp_ratio", "gelu")
Sizes = tuple[tuple[int, ...], tuple[int, ...]]  # positions there and here


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of each tensor.

    Attributes:
        loaded: taken as they are.
        resized: position tables taken for another size: name -> (positions there, positions here), each (rows, columns)
            of the image tower's patches or (tokens,).
        initialised: here, but not in the source: they begin as in a run of their own.
        ignored: in the source, but not here.
        assumed: see :class:`silc.interchange.source.Source`.
    """

    loaded: tuple[str, ...]
    resized: Mapping[str, Sizes] = field(default_factory=dict)
    initialised: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report in words, a line for each kind that occurs."""
        changes = [f"{name} from {_times(old)} to {_times(new)}" for name, (old, new) in self.resized.items()]
        found = {
            "loaded": plural(len(self.loaded), "tensor") if self.loaded else "",
            "resized": ", ".join(changes),
            "initialised": _listed(self.initialised),
            "ignored": _listed(self.ignored),
            "assumed": "; ".join(f"{key}: {reason}" for key, reason in self.assumed.items()),
        }
        return [f"{kind}: {text}" for kind, text in found.items() if text]


def fit(source: Source, model: ModelConfig, *, with_head: bool = True) -> tuple[dict[str, Tensor], Report]:
    """Weights of a source for a configuration whose image size and context length may be others.

    The distillation head is taken where the source has one of these sizes, and left out else: it then begins as at the
    start of a run.

    Args:
        source: what was read.
        model: the configuration's.
        with_head: whether the model here has the distillation head.

    Returns:
        Tensors under the names of :class:`silc.model.SilcModel`, fp32 on the CPU, those of `initialised` left out; and
        the report.

    Raises:
        ValueError: another architecture, with every difference and the overrides that fit; or weights that do not have
            the sizes that the source states.
    """
    _check_architecture(source, model)
    wanted = shapes_of(model, with_head=with_head)
    weights, resized = _resized(source, model)
    head = {name: shape for name, shape in wanted.items() if name.startswith(HEAD)}
    if misfit(weights, head):
        wanted = {name: shape for name, shape in wanted.items() if name not in head}
    else:
        head = {}
    wrong = misfit(weights, wanted)
    if wrong:
        raise ValueError(f"{source.path}: {wrong}")
    report = Report(
        loaded=tuple(name for name in wanted if name not in resized),
        resized=resized,
        initialised=tuple(head),
        ignored=(*(name for name in weights if name not in wanted), *source.ignored),
        assumed=source.assumed,
    )
    return {name: weights[name].to(torch.float32) for name in wanted}, report


def _resized(source: Source, model: ModelConfig) -> tuple[dict[str, Tensor], dict[str, Sizes]]:
    """All weights of a source, position tables for the sizes wanted; and which were resized, see :class:`Report`."""
    weights = dict(source.weights)
    resized: dict[str, Sizes] = {}
    here, there = _grid(model), _grid(source.model)
    length, stored = model.text.context_length, source.model.text.context_length
    try:
        if IMAGES in weights and there != here:
            weights[IMAGES] = resize(weights[IMAGES], there, here, source.resize)
            resized[IMAGES] = (there, here)
        if TEXTS in weights and length != stored:
            weights[TEXTS] = resize_text(weights[TEXTS], length)
            resized[TEXTS] = ((stored,), (length,))
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from None
    return weights, resized


def differences(source: Source, model: ModelConfig) -> dict[str, tuple[object, object]]:
    """Keys whose values lead to another function of the weights: `model.vision.width` -> (here, of the source)."""
    found: dict[str, tuple[object, object]] = {}
    for tower, keys in (("vision", _VISION), ("text", _TEXT)):
        ours, theirs = getattr(model, tower), getattr(source.model, tower)
        for key in keys:
            pair = (getattr(ours, key), getattr(theirs, key))
            if key == "mlp_ratio":  # a ratio is rounded, what it stands for is not
                equal = hidden_width(theirs.width, pair[0]) == hidden_width(theirs.width, pair[1])
            else:
                equal = pair[0] == pair[1]
            if not equal:
                found[f"model.{tower}.{key}"] = pair
    return found


def _check_architecture(source: Source, model: ModelConfig) -> None:
    found = differences(source, model)
    if not found:
        return
    said = "; ".join(f"{key} is {here}, the weights have {there}" for key, (here, there) in found.items())
    overrides = [f"{key}={there}" for key, (_, there) in found.items()]
    if "model.text.vocab_size" in found and source.tokenizer is not None:
        overrides.append(shlex.quote(f"data.tokenizer={source.tokenizer}"))
    if "model.text.vocab_size" in found and source.tokenizer is None:
        overrides.append("data.tokenizer=FOLDER (of the tokenizer that it was trained with, which it does not name)")
    raise ValueError(f"{source.path} holds another architecture: {said}. What fits: {' '.join(overrides)}")


def _grid(model: ModelConfig) -> tuple[int, int]:
    side = model.vision.image_size // model.vision.patch_size
    return side, side


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    """Names, those of one module together where there are many."""
    if len(names) <= most:
        return ", ".join(map(shown, names))
    stems = sorted({name.partition(".")[0] for name in names})
    counts = [f"{shown(stem)}.* ({sum(name.partition('.')[0] == stem for name in names)})" for stem in stems[:most]]
    return ", ".join(counts) + (f" and {len(stems) - most} more" if len(stems) > most else "")
