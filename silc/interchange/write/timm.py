"""Export of the image tower to timm: a folder that `timm.create_model("local-dir:<folder>", pretrained=True)` loads.

    config.json           architecture, sizes, preprocessing
    model.safetensors     the tower's weights under timm's names

The towers here are timm's ViT with attention pooling, so that tensors are copied unchanged. `num_classes` is 0: the
model returns the pooled features, the image side of the shared embedding; `forward_features` returns patch features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from silc.interchange.source import Source
from silc.interchange.write.common import pixel_statistics, write_json, write_weights
from silc.model.timm_tower import BASE, timm_arguments

TRUNK = "visual.trunk."


def write(source: Source, folder: Path) -> None:
    """Write the files into a folder, which exists. Raises OSError."""
    write_json(folder / "config.json", timm_config(source))
    found = {name.removeprefix(TRUNK): value for name, value in source.weights.items() if name.startswith(TRUNK)}
    write_weights(folder / "model.safetensors", found)


class reload:
    """The tower as timm loads it."""

    scale: None = None

    def __init__(self, folder: Path) -> None:
        import timm
        from timm.data import create_transform, resolve_data_config

        self.library = f"timm {timm.__version__}"
        self.model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self._preprocess: Any = create_transform(**resolve_data_config(self.model.pretrained_cfg, model=self.model))

    def images(self, images: list[Image.Image]) -> Tensor:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        return F.normalize(self.model(torch.stack([self._preprocess(image) for image in images])), dim=-1)

    def texts(self, texts: list[str]) -> None:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        del texts


def loading_call(source: Source, folder: Path) -> str:
    """The Python that loads an export, for a message."""
    del source
    return f"import timm; model = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"


def timm_config(source: Source) -> dict[str, Any]:
    """timm's config.json: a named model of the family, with its sizes replaced, and the preprocessing."""
    vision, (mean, std) = source.model.vision, pixel_statistics(source)
    return {
        "architecture": BASE,
        "num_classes": 0,
        "num_features": vision.width,
        "global_pool": "map",
        "model_args": timm_arguments(vision),
        "pretrained_cfg": {
            "input_size": [3, vision.image_size, vision.image_size],
            "num_classes": 0,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(mean),
            "std": list(std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
