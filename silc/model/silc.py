"""The student: image tower, text tower and distillation head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silc.config import Config, ModelConfig
from silc.model.dropping import Drawn, Dropping
from silc.model.head import DistillInputs, PrototypeHead
from silc.model.init import initialize
from silc.model.text import ResidualBlock, TextTower
from silc.model.vision import DEFAULT_PIXELS, Pixels, VisionTower
from silc.model.vision import Block as VisionBlock


class SilcModel(nn.Module):
    """Image tower, text tower and prototype head; :class:`silc.model.scale.LogitScale` stands beside it.

    Weights are uninitialised until :func:`silc.model.init.initialize`; :func:`build` does both.

    Args:
        config: sizes, attention backend, activation checkpointing, compilation.
        pixels: how the patch embedding reads uint8 crops.
        with_head: False leaves the distillation head out, for baselines without distillation.
    """

    def __init__(self, config: ModelConfig, *, pixels: Pixels = DEFAULT_PIXELS, with_head: bool = True) -> None:
        super().__init__()
        self.visual = VisionTower(
            config.vision,
            attention=config.attention,
            checkpoint_activations=config.checkpoint_activations,
            pixels=pixels,
        )
        self.text = TextTower(config.text, config.vision.width, checkpoint_activations=config.checkpoint_activations)
        self.head = PrototypeHead(config.vision.width, config.head) if with_head else None
        if config.compile:
            compile_blocks(self)

    @classmethod
    def of(cls, config: Config, *, with_head: bool | None = None) -> SilcModel:
        """The model of a run, its weights uninitialised; with_head: None for the head where the run distils."""
        head = config.objective.distill if with_head is None else with_head
        return cls(config.model, pixels=Pixels.of(config), with_head=head)

    def forward(
        self,
        large: Tensor | None,
        small: Tensor | None,
        tokens: Tensor | None,
        distill: DistillInputs | None = None,
        dropping: Dropping | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """All crops through one image pass, the captions through the text tower; the distillation loss if asked for.

        Args:
            large: uint8 [B, V, 3, R, R]: the views aligned with the text and seen by the teacher, global views last;
                None, then without `small` and `distill`: the image tower is left out.
            small: uint8 [B, S, 3, r, r], local crops, or None.
            tokens: int [B, L], or None.
            distill: the teacher's side; None leaves the loss out.
            dropping: what decides which patches of the large crops, and which branches of blocks, are left out; None:
                nothing is.

        Returns:
            Image features [B, V, D] or None; text features [B, D] or None; distillation loss or None; the teacher
            features [T, B, d] it used, or None. The first two are not normalised. The loss's student rows are the small
            crops in order, then the last `distill.student_views` large views.
        """
        features = [] if large is None else self._image(large, small, dropping)
        image = features[0] if features else None
        text = None if tokens is None else self.text(tokens)
        if distill is None or image is None:
            return image, text, None, None
        assert self.head is not None, "a model without the distillation head has no distillation loss"
        students = features[1:]
        if distill.student_views:
            students.append(image[:, image.shape[1] - distill.student_views :])
        if not students:
            raise ValueError("distillation without student views: give small crops, or set distill.student_views")
        rows = torch.cat([view.transpose(0, 1) for view in students])
        teacher = distill.teacher(image.detach()) if callable(distill.teacher) else distill.teacher
        return image, text, self.head(rows, teacher, distill), teacher

    def _image(self, large: Tensor, small: Tensor | None, dropping: Dropping | None) -> list[Tensor]:
        """Features of the large and, if any, of the small crops, [B, views, D]. Small crops' views are numbered on."""
        samples, views = large.shape[:2]
        crops, numbers = [large.flatten(0, 1)], [range(views)]
        if small is not None:
            crops.append(small.flatten(0, 1))
            numbers.append(range(views, views + small.shape[1]))
        drawn = None
        if dropping is not None:
            keys = [dropping.keys(samples, own, large.device) for own in numbers]
            drawn = [Drawn(key, whole=group > 0) for group, key in enumerate(keys)]
        return [group.unflatten(0, (samples, -1)) for group in self.visual(crops, drawn)]

    def encode_image(
        self, crops: Tensor | Sequence[Tensor], *, normalize: bool = False, dense: bool = False
    ) -> Tensor | list[Tensor]:
        """Image features.

        Args:
            crops: uint8 [M, 3, H, W] (or normalised floats), or a list of such tensors, one a resolution.
            normalize: to length 1.
            dense: patch features [M, H / p, W / p, D] after the final norm, in place of pooled ones [M, D].

        Returns:
            A tensor for a tensor, a list for a list.
        """
        groups = [crops] if isinstance(crops, Tensor) else crops
        features = self.visual.dense(groups) if dense else self.visual(groups)
        if normalize:
            features = [F.normalize(group, dim=-1) for group in features]
        return features[0] if isinstance(crops, Tensor) else features

    def encode_text(self, tokens: Tensor, *, normalize: bool = False) -> Tensor:
        """Text features: int [B, L] -> [B, D]."""
        features = self.text(tokens)
        return F.normalize(features, dim=-1) if normalize else features


def compile_blocks(module: nn.Module, **options: object) -> None:
    """torch.compile each transformer block in place; `options` go to torch.compile.

    A deep copy of a compiled module is not compiled: call this on the copy.
    """
    for child in module.modules():
        if isinstance(child, VisionBlock | ResidualBlock):
            child.compile(**options)


def build(config: Config) -> SilcModel:
    """The student of a run, with its first weights: a function of the configuration alone, the same on every rank."""
    model = SilcModel.of(config)
    initialize(model, config.train.seed)
    return model
