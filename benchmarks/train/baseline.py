"""What the training benchmark compares with: SILC glued from public parts, as one would without this project.

open_clip's model (timm's image tower, called once for each crop resolution) and contrastive loss, lightly's projection
head, DINOLoss and EMA, torch's AdamW, float crops by torchvision in a webdataset pipeline. Same sizes, same first
weights, same objective but for the pairs of equal index, which DINOLoss leaves out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import lightly.models.utils
import open_clip
import timm
import torch
import webdataset as wds
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from benchmarks.common.stopwatch import Span
from silc.config import Config
from silc.data.batch import Batch
from silc.interchange.source import Source
from silc.interchange.timm_names import timm_name
from silc.interchange.write import open_clip as open_clip_folder
from silc.model import LogitScale, SilcModel, build
from silc.model.timm_tower import tower_name
from silc.train.engine import precision
from silc.train.schedule import learning_rate

SHUFFLED = 1000  # samples in webdataset's shuffle buffer


class FloatBatch(NamedTuple):
    """Normalised float crops, [B, 3, R, R] a view, and tokens [B, L]."""

    large: list[Tensor]
    small: list[Tensor]
    tokens: Tensor


class Glued:
    """The baseline of a configuration. Raises ValueError for one that it cannot express."""

    def __init__(self, config: Config, shards: list[str], folder: Path) -> None:
        _refuse(config)
        self.config, self._shards = config, shards
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = precision(config, self._device)
        ours = build(config)
        self.model = _open_clip_model(ours, config, folder).to(self._device)
        self.head = _lightly_head(ours, config).to(self._device)
        self.teacher = copy.deepcopy(self.model.visual).requires_grad_(False).eval()
        # A weight-normalised layer cannot be deep-copied; lightly's own example builds the teacher's head anew.
        self.teacher_head = _lightly_head(ours, config).to(self._device).requires_grad_(False)
        sigmoid = config.objective.contrastive == "sigmoid"
        self.contrastive = SigLipLoss() if sigmoid else ClipLoss()
        self.distillation = DINOLoss(
            output_dim=config.model.head.prototypes,
            teacher_temp=config.objective.teacher_temp,
            student_temp=config.objective.student_temp,
            center_momentum=config.objective.center_momentum,
        ).to(self._device)
        self.optimizer = _adamw([*self.model.named_parameters(), *self.head.named_parameters()], config)
        self._views = _Views(config)
        self.steps = 0

    @staticmethod
    def warm_up(config: Config) -> None:
        """One step of one weight: torch imports its compiler then, which is no memory of a model."""
        weight = nn.Linear(1, 1)
        weight(torch.ones(1, 1)).sum().backward()
        torch.optim.AdamW(weight.parameters(), lr=config.optim.lr).step()

    def in_memory(self, batch: Batch) -> FloatBatch:
        """Byte crops as torchvision's ToTensor and Normalize would have left them."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.data.mean, self.config.data.std))

        def floats(crops: Tensor) -> list[Tensor]:
            views = [((view.float() / 255 - mean) / std).contiguous() for view in crops.unbind(1)]
            return [view.pin_memory() for view in views] if self._device.type == "cuda" else views

        return FloatBatch(floats(batch.large), floats(batch.small), batch.tokens)

    def batches(self, workers: int) -> Iterator[FloatBatch]:
        """open_clip's training pipeline, with DINO's crops."""
        pipeline = wds.DataPipeline(
            wds.ResampledShards(self._shards),
            wds.tarfile_to_samples(),
            wds.shuffle(SHUFFLED),
            wds.decode("pilrgb"),
            wds.to_tuple(";".join(self.config.data.image_keys), self.config.data.caption_key),
            wds.map(self._views),
            wds.batched(self.config.train.global_batch, partial=False),
        )
        views = self.config.views.n_global
        cuda = self._device.type == "cuda"
        prefetch = self.config.data.prefetch if workers else None
        loader = wds.WebLoader(
            pipeline, batch_size=None, num_workers=workers, prefetch_factor=prefetch, pin_memory=cuda
        )
        for *crops, tokens in loader:
            yield FloatBatch(crops[:views], crops[views:], tokens)

    def step(self, batch: FloatBatch) -> tuple[Tensor, Tensor]:
        """One training step, the copy to the device included: the contrastive and the distillation loss."""
        large = torch.cat([crop.to(self._device, non_blocking=True) for crop in batch.large])
        small = torch.cat([crop.to(self._device, non_blocking=True) for crop in batch.small])
        with self._autocast():
            loss_c, loss_d = self._losses(large, small, batch.tokens.to(self._device, non_blocking=True))
        self._backward(loss_c + self.config.objective.distill_weight * loss_d)
        self._update()
        self._average()
        self.steps += 1
        return loss_c.detach(), loss_d.detach()

    def _losses(self, large: Tensor, small: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        views = self.config.views
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher(large)).chunk(views.n_global)
        images = self._images(large).chunk(views.n_global)
        student = self.head(self._images(small)).chunk(views.n_local)
        texts = functional.normalize(self._texts(tokens), dim=-1)
        scale = self.model.logit_scale.exp()
        losses = [
            self.contrastive(functional.normalize(image, dim=-1), texts, scale, self.model.logit_bias)
            for image in images
        ]
        return torch.stack(losses).mean(), self.distillation(teacher, student)

    def _images(self, crops: Tensor) -> Tensor:
        return self.model.encode_image(crops)

    def _texts(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _update(self) -> None:
        optim = self.config.optim
        lr = learning_rate(self.steps, self.config.train.steps, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if optim.clip:
            nn.utils.clip_grad_norm_([*self.model.parameters(), *self.head.parameters()], optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, torch.tensor(self.config.objective.max_scale).log().item())

    def _average(self) -> None:
        momentum = self.config.ema_momentum
        lightly.models.utils.update_momentum(self.model.visual, self.teacher, momentum)
        lightly.models.utils.update_momentum(self.head, self.teacher_head, momentum)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def spans(self) -> list[Span]:
        """Where the parts of a step happen. The head's last layer is part of the distillation, as in our op."""
        return [
            Span(self.model.visual.trunk.patch_embed, "forward", "patch embedding"),
            Span(self.teacher.trunk.patch_embed, "forward", "patch embedding"),
            Span(self, "_images", "student"),
            Span(self, "_texts", "student"),
            Span(self.head, "forward", "student"),
            Span(self.teacher, "forward", "teacher"),
            Span(self.teacher_head, "forward", "teacher"),
            Span(self.head.last_layer, "forward", "distillation"),
            Span(self.teacher_head.last_layer, "forward", "distillation"),
            Span(self.distillation, "forward", "distillation"),
            Span(self.contrastive, "forward", "contrastive"),
            Span(self, "_backward", "backward"),
            Span(self, "_update", "optimiser"),
            Span(self, "_average", "EMA"),
        ]


class _Views:
    """(image, caption) -> float crops and tokens, by torchvision's transforms."""

    def __init__(self, config: Config) -> None:
        views, data = config.views, config.data
        self._tokenizer = SimpleTokenizer(context_length=config.model.text.context_length)
        shapes = [(views.global_size, views.global_area)] * views.n_global
        shapes += [(views.local_size, views.local_area)] * views.n_local
        self._transforms = [
            transforms.Compose(
                [
                    transforms.RandomResizedCrop(size, scale=area, interpolation=transforms.InterpolationMode.BICUBIC),
                    transforms.RandomHorizontalFlip(views.flip),
                    transforms.ToTensor(),
                    transforms.Normalize(data.mean, data.std),
                ]
            )
            for size, area in shapes
        ]

    def __call__(self, sample: tuple[Image.Image, str]) -> tuple[Tensor, ...]:
        image, caption = sample
        return *(transform(image) for transform in self._transforms), self._tokenizer(caption)[0]


def _refuse(config: Config) -> None:
    wanted = {
        "objective.distill": (config.objective.distill, True),
        "objective.contrastive_views": (config.objective.contrastive_views, "each_global"),
        "objective.global_to_global": (config.objective.global_to_global, False),
        "objective.head_only_ema": (config.objective.head_only_ema, False),
        "views.photometric": (config.views.photometric, False),
        "data.tokenizer": (config.data.tokenizer, "open_clip_bpe"),
        "model.compile": (config.model.compile, False),
        "train.micro_batch": (config.train.micro_batch, None),
    }
    for key, (value, needed) in wanted.items():
        if value != needed:
            raise ValueError(f"{key}={value}: the glued baseline can only do {needed}; leave the key as it is")
    if config.model.head.layers != 3:
        raise ValueError(f"model.head.layers={config.model.head.layers}: lightly's projection head has 3; take 3")


def _open_clip_model(ours: SilcModel, config: Config, folder: Path) -> nn.Module:
    """open_clip's CustomTextCLIP with our weights, its image tower open to crops of any size."""
    scale, bias = LogitScale.of(config.objective).effective()
    source = Source(
        path=folder,
        kind="a model",
        model=config.model,
        weights=ours.state_dict(),
        logit_scale=scale.log().item(),
        logit_bias=None if bias is None else bias.item(),
        mean=config.data.mean,
        std=config.data.std,
        tokenizer=config.data.tokenizer,
    )
    folder.mkdir(parents=True, exist_ok=True)
    open_clip_folder.write(source, folder)
    model = open_clip.create_model(f"local-dir:{folder}")
    name = timm_name(config.model.vision) or tower_name(config.model.vision)
    trunk = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    trunk.load_state_dict(model.visual.trunk.state_dict())
    model.visual.trunk = trunk
    model.set_grad_checkpointing(config.model.checkpoint_activations)
    return model.train()


def _lightly_head(ours: SilcModel, config: Config) -> DINOProjectionHead:
    sizes = config.model.head
    head = DINOProjectionHead(config.model.vision.width, sizes.hidden, sizes.bottleneck, sizes.prototypes)
    linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    mine = [layer for layer in ours.head.mlp if isinstance(layer, nn.Linear)]
    for layer, source in zip(linear, mine, strict=True):
        layer.load_state_dict(source.state_dict())
    with torch.no_grad():
        head.last_layer.weight_v.copy_(ours.head.last_layer.weight)
    return head


def _adamw(named: list[tuple[str, nn.Parameter]], config: Config) -> torch.optim.AdamW:
    """open_clip's two groups: matrices decay, vectors and scalars do not."""
    optim = config.optim
    groups = [
        {"params": [p for _, p in named if p.requires_grad and p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for _, p in named if p.requires_grad and p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps)
