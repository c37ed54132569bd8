"""What a run begins with: weights of another run or of another library, at step 0 and with a schedule of its own.

In this order the first that applies: the checkpoint of `train.resume`, the weights of `train.init`, first weights.

Of `train.init` the towers are taken, with position tables resized, and the distillation head where it has the sizes
wanted; scale and bias of the logits where they are of the same kind of loss. The teacher then begins as the student and
the center at zero, as where distillation starts late; optimiser, schedule and place in the data begin anew.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silc.config import Config
from silc.data.tokenizer import OPEN_CLIP_BPE, build_tokenizer, check_vocabulary
from silc.data.tokens import Tokenizer
from silc.distributed import all_gather_objects, of_first
from silc.interchange.fit import Report, fit
from silc.interchange.source import Source
from silc.model.scale import LogitScale
from silc.model.silc import SilcModel, build
from silc.train.sources import together
from silc.train.weights import needs_tokenizer, place_of, read_weights

# Texts whose tokens tell tokenizers apart.
PROBES = [
    "A photo of two dogs, in_the park!",
    "the quick brown fox jumps over the lazy dog",
    "Black-and-white drawing of an old house; 1950s, 35mm film",
    "it's a caf\u00e9 & a hotel (with 12 rooms) near the river",
    "\u732b\u3068\u72ac \u041c\u043e\u0441\u043a\u0432\u0430 \u00fcber",
]


@dataclass(frozen=True)
class Initial:
    """Weights to begin with.

    Attributes:
        path: of the checkpoint, file or folder.
        weights: see :func:`silc.interchange.fit.fit`; empty when a student has them.
        report: what became of each tensor.
        scale, bias: logarithm of the logits' multiplier, and their bias; None where they begin as in a run of its own.
        words: a line that says all this; notes: what differs from what the weights were trained with.
    """

    path: Path
    weights: dict[str, Tensor]
    report: Report
    scale: float | None
    bias: float | None
    words: str
    notes: list[str]

    def student(self, config: Config) -> SilcModel:
        """The student with these weights, which are given away; what they lack has its first values."""
        student = build(config)
        left = student.load_state_dict(self.weights, strict=False, assign=True)
        assert set(left.missing_keys) == set(self.report.initialised)
        assert not left.unexpected_keys
        self.weights.clear()
        return student

    @torch.no_grad()
    def put_scale(self, scale: LogitScale) -> None:
        """Give scale and bias of the logits their values."""
        if self.scale is not None:
            scale.logit_scale.fill_(self.scale)
        if self.bias is not None and scale.logit_bias is not None:
            scale.logit_bias.fill_(self.bias)

    def record(self) -> dict[str, Any]:
        """For the first row of the log."""
        counts = {name: len(getattr(self.report, name)) for name in ("loaded", "resized", "initialised", "ignored")}
        return {"init": {"path": str(self.path), **counts}}


def find_initial(config: Config) -> Initial | None:
    """The weights that `train.init` names, the same on every rank; None where it names none (collective).

    Raises ValueError on every rank for what cannot be read there, or does not fit the configuration.
    """
    if config.train.init is None:
        return None
    wanted = config.train.init

    def find() -> tuple[str, str]:
        """The newest checkpoint of a run that goes on is not the same a second later."""
        try:
            return str(place_of(wanted)), ""
        except (OSError, ValueError) as error:
            return wanted, _refusal(error)

    path, wrong = of_first(find)
    if wrong:
        raise ValueError(wrong)
    found = together(lambda: read_initial(config, path))
    sums = all_gather_objects(_digest(found))
    if any(other != sums[0] for other in sums):
        rank = next(rank for rank, other in enumerate(sums) if other != sums[0])
        raise ValueError(f"train.init={path} holds other weights where rank {rank} runs; give all machines the same")
    return found


def _digest(found: Initial) -> str:
    """SHA-256 of all weights and the scale, bit by bit: the same on every machine, whatever its number of threads."""
    digest = hashlib.sha256(repr((found.scale, found.bias)).encode())
    for name, value in sorted(found.weights.items()):
        digest.update(f"{name} {list(value.shape)} ".encode())
        digest.update(value.flatten().numpy().data)
    return digest.hexdigest()


def read_initial(config: Config, path: str | Path | None = None) -> Initial:
    """Read the weights that `train.init` names, in this process. path: in its place.

    Raises ValueError as :func:`find_initial`.
    """
    try:
        source = read_weights(path or config.train.init or "", config.train.init_model, sizes=config.model)
        weights, report = fit(source, config.model, with_head=config.objective.distill)
        for name, value in weights.items():
            if not value.isfinite().all():
                raise ValueError(f"{source.path}: {name} holds values that are not finite; take other weights")
        here = build_tokenizer(config.data.tokenizer, config.model.text.context_length, config.data.tokenizer_clean)
        notes = [*_tokenizer_notes(source, config, here), *_pixel_notes(source, config)]
        check_vocabulary(here, config)
    except (OSError, ValueError) as error:
        raise ValueError(_refusal(error)) from None
    scale, bias, told = _scale(source, config)
    notes += _scale_notes(source, scale, config)
    said = [*(line.replace(": ", " ", 1) for line in report.lines()), told]
    words = f"train.init: {source.kind} {source.path}: {'; '.join(said)}"
    return Initial(source.path, weights, report, scale, bias, words, notes)


def _scale(source: Source, config: Config) -> tuple[float | None, float | None, str]:
    """Scale and bias that are taken, and words for it."""
    kind = "softmax" if source.logit_bias is None else "sigmoid"
    if source.logit_scale is None or kind != config.objective.contrastive:
        why = "the files have none" if source.logit_scale is None else f"they are of the {kind} loss"
        return None, None, f"logit scale and bias begin anew ({why})"
    scale = min(source.logit_scale, math.log(config.objective.max_scale))
    bias = "" if source.logit_bias is None else f" and bias {source.logit_bias:.4g}"
    return scale, source.logit_bias, f"logit scale {math.exp(scale):.4g}{bias}"


def _scale_notes(source: Source, taken: float | None, config: Config) -> list[str]:
    """taken: logarithm of the multiplier to begin with; None: it begins anew."""
    limit = config.objective.max_scale
    if source.logit_scale is None or taken is None or source.logit_scale - taken < 1e-6:
        return []
    multiplier = math.exp(source.logit_scale)  # about 118 in SigLIP
    return [
        f"the weights' multiplier of {multiplier:.4g} is cut to objective.max_scale={limit:g}; objective.max_scale="
        f"{math.ceil(multiplier)} leaves it as it is"
    ]


def _refusal(error: Exception) -> str:
    return f"train.init: {error}"


def _tokenizer_notes(source: Source, config: Config, here: Tokenizer) -> list[str]:
    """Raises ValueError for another tokenizer, `here`, than the text tower was trained with."""
    data = config.data
    if source.tokenizer is None:
        # What is not chosen is open_clip's own: of another size, it is not theirs.
        if data.tokenizer == OPEN_CLIP_BPE and here.vocab_size != source.model.text.vocab_size:
            raise ValueError(needs_tokenizer(source, "data.tokenizer"))
        return [
            f"the weights do not say which tokenizer they were trained with; data.tokenizer={data.tokenizer} is used"
        ]
    if (source.tokenizer, source.tokenizer_clean) == (data.tokenizer, data.tokenizer_clean):
        return []
    try:
        there = build_tokenizer(source.tokenizer, config.model.text.context_length, source.tokenizer_clean)
        alike = build_tokenizer(source.tokenizer, config.model.text.context_length, here.clean)
    except ValueError as error:
        if source.tokenizer == data.tokenizer:
            raise
        return [f"the weights were trained with a tokenizer that cannot be compared with data.tokenizer: {error}"]
    if not _equal(here, alike):
        fits = [f"data.tokenizer={source.tokenizer}"]
        fits += [] if source.tokenizer_clean == "auto" else [f"data.tokenizer_clean={source.tokenizer_clean}"]
        raise ValueError(
            f"{source.path} was trained with other tokens than those of data.tokenizer={data.tokenizer}, which would "
            f"mean nothing to its text tower. What fits: {' '.join(shlex.quote(word) for word in fits)}"
        )
    if there.clean != here.clean:
        return [
            f"texts are cleaned by data.tokenizer_clean={here.clean}, the weights were trained with {there.clean}: "
            f"data.tokenizer_clean={there.clean} fits"
        ]
    return []


def _equal(first: Tokenizer, second: Tokenizer) -> bool:
    return first.vocab_size == second.vocab_size and torch.equal(first(PROBES), second(PROBES))


def _pixel_notes(source: Source, config: Config) -> list[str]:
    notes = []
    for name in ("mean", "std"):
        here, there = getattr(config.data, name), getattr(source, name)
        if there is not None and any(abs(a - b) > 1e-6 for a, b in zip(here, there, strict=True)):
            listed = ",".join(f"{value:g}" for value in there)
            notes.append(f"data.{name} is {list(here)}, the weights were trained with data.{name}=[{listed}]")
    size, stored = config.views.global_size, source.model.vision.image_size
    if size != stored:
        notes.append(f"global crops have {size} px a side (views.global_size), the weights are of {stored} px")
    return notes
