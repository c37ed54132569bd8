"""A model as evaluation uses it: an image tower and a text tower with complete weights of their own.

Under ZeRO a rank holds parts of the student, in the precision of training. Evaluation works on complete copies of the
fp32 master weights, the same on every rank, and the training engine is neither called nor changed: ranks need not stay
in step, and a measurement during training equals that of `silc evaluate` on the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.config import Config
from silc.data import Tokenizer, tokenizer_of
from silc.model.scale import LogitScale
from silc.model.silc import SilcModel

TEXTS = 256  # captions in a forward pass


class Scale(NamedTuple):
    """What turns cosines into the logits of the contrastive loss: multiplier x cosine + bias.

    bias: None of a model trained with the softmax loss, a number with the sigmoid loss.
    """

    multiplier: float
    bias: float | None

    @classmethod
    def of(cls, trained: LogitScale) -> Scale:
        """Of a run."""
        multiplier, bias = trained.effective()
        return cls(multiplier.item(), None if bias is None else bias.item())

    @classmethod
    def from_logarithm(cls, logarithm: float | None, bias: float | None) -> Scale | None:
        """Of files that hold the multiplier's logarithm, as :class:`silc.interchange.source.Source` does; None where
        they hold none.
        """
        if logarithm is None:
            return None
        return cls(torch.tensor(logarithm).exp().item(), bias)  # in fp32, as a run has it


class Towers:
    """Image and text features in fp32, of unit length where they are compared; without gradients.

    Attributes:
        name: "student" or "teacher".
        size: side, in pixels, of the square that whole images are resized to.
        patch: side of a patch, in pixels.
        device: of the weights and the features.
        scale: of the logits it was trained with; None: not known, and the loss is not measured.
    """

    def __init__(
        self,
        name: str,
        model: SilcModel,
        tokenizer: Tokenizer,
        size: int,
        device: torch.device,
        scale: Scale | None = None,
    ) -> None:
        self.name, self.size, self.device, self.scale = name, size, device, scale
        self.patch = model.visual.trunk.patch_size
        self._model, self._tokenizer = model, tokenizer

    @torch.no_grad()
    def images(self, pixels: Tensor) -> Tensor:
        """Pooled features: uint8 [b, 3, R, R] -> unit length [b, D]."""
        return F.normalize(cast(Tensor, self._model.encode_image(pixels)).float(), dim=-1)

    @torch.no_grad()
    def patches(self, pixels: Tensor) -> Tensor:
        """Patch features after the final norm, not normalised: uint8 [b, 3, H, W] -> [b, H / p, W / p, D]."""
        return cast(Tensor, self._model.encode_image(pixels, dense=True)).float()

    @torch.no_grad()
    def values(self, pixels: Tensor) -> Tensor:
        """Patch features of the value path: uint8 [b, 3, H, W] -> unit length [b, H / p, W / p, D]."""
        return F.normalize(self._model.visual.value_path([pixels])[0].float(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Text features, unit length [len(texts), D]."""
        parts = []
        for first in range(0, len(texts), TEXTS):
            tokens = self._tokenizer(list(texts[first : first + TEXTS])).to(self.device)
            parts.append(F.normalize(self._model.encode_text(tokens).float(), dim=-1))
        return torch.cat(parts)

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit-length embeddings [C, D]: the prompts' embeddings, averaged over templates, normalised."""
        total = torch.stack([self.texts([template.format(name) for name in names]) for template in templates]).sum(0)
        return F.normalize(total, dim=-1)

    @property
    def model(self) -> SilcModel:
        """The weights."""
        return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts -> int64 [texts, context length]."""
        return self._tokenizer


def build_towers(
    config: Config,
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    scale: Scale | None = None,
) -> list[Towers]:
    """The models that eval.models names.

    Args:
        config: of the run.
        student: complete fp32 weights by name.
        teacher: complete weights of the moving average; the teacher is its image tower with the student's text tower.
            Without an image tower in it (a head-only EMA, or no distillation) there is no teacher to measure.
        device, dtype: of the forward pass.
        scale: of the logits, for the validation loss; student and teacher have the same.

    Raises:
        ValueError: weights that do not fit the configuration, the message names the first that does not; a tokenizer
            that cannot be loaded, or has more tokens than the text tower.
    """
    tokenizer = tokenizer_of(config)
    average = {name: value for name, value in teacher.items() if name.startswith("visual.")}
    weights = {"student": student} | ({"teacher": {**student, **average}} if average else {})
    out = []
    for name in dict.fromkeys(config.eval.models):
        if name in weights:
            model = _load(config, weights[name], device, dtype)
            out.append(Towers(name, model, tokenizer, config.views.global_size, device, scale))
    return out


def _load(config: Config, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> SilcModel:
    with torch.device("meta"):  # no memory and no random numbers for initial weights
        model = SilcModel.of(config, with_head=False)
    towers = {name: value for name, value in weights.items() if name.startswith(("visual.", "text."))}
    for name, parameter in model.named_parameters():
        found = tuple(towers[name].shape) if name in towers else "nothing"
        if found != tuple(parameter.shape):
            raise ValueError(
                f"the weights do not fit the configuration: {name} needs {tuple(parameter.shape)}, found {found}; "
                "evaluate a checkpoint with its own configuration"
            )
    model.load_state_dict({name: towers[name].to(device, dtype) for name in model.state_dict()}, assign=True)
    return model.requires_grad_(False).eval()
