"""First weights, as timm and open_clip start SigLIP's towers and DINO its head.

Each tensor is drawn on the CPU from a generator of its own, seeded by the run's seed and the tensor's name: the same
weights whatever the device, the number of ranks or the order of modules, and a tensor keeps its values when another one
is added.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Generator, Tensor, nn

from silc.model.head import PrototypeHead, Prototypes
from silc.model.pool import AttentionPool, LatentKeyValue
from silc.model.text import SelfAttention, TextTower
from silc.model.vision import PatchProjection, Trunk


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Fill every parameter of a model; one that no rule knows stays NaN and shows at once."""
    for parameter in model.parameters():
        parameter.fill_(math.nan)
    for prefix, module in model.named_modules():
        _fill(_Draw(seed, prefix), module)
    # Deviations that depend on depth or width: drawn last, over the rule for linear layers.
    for prefix, module in model.named_modules():
        if isinstance(module, TextTower):
            _fill_text(_Draw(seed, prefix), module)
        elif isinstance(module, PrototypeHead):
            _fill_head(_Draw(seed, prefix), module)


class _Draw:
    """Random values for the tensors below one module, each a function of (seed, full name, shape)."""

    def __init__(self, seed: int, prefix: str) -> None:
        self.seed, self.prefix = seed, prefix

    def _generator(self, name: str) -> Generator:
        full = f"{self.prefix}.{name}" if self.prefix else name
        # A CPU generator uses 32 bits of its seed, so seed and name have to be mixed into those.
        return Generator().manual_seed(zlib.crc32(f"{self.seed}:{full}".encode()))

    def normal(self, tensor: Tensor, name: str, std: float) -> None:
        tensor.copy_(torch.empty(tensor.shape).normal_(std=std, generator=self._generator(name)))

    def truncated(self, tensor: Tensor, name: str, std: float) -> None:
        """A normal cut at two deviations."""
        values = nn.init.trunc_normal_(torch.empty(tensor.shape), generator=self._generator(name))
        tensor.copy_(values.mul_(std))

    def uniform(self, tensor: Tensor, name: str, bound: float) -> None:
        tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=self._generator(name)))


def _fill(draw: _Draw, module: nn.Module) -> None:
    if isinstance(module, nn.Linear | LatentKeyValue):
        draw.normal(module.weight, "weight", 0.02)
        module.bias.zero_()
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1)
        module.bias.zero_()
    elif isinstance(module, PatchProjection):
        bound = module.weight[0].numel() ** -0.5
        draw.uniform(module.weight, "weight", bound)
        draw.uniform(module.bias, "bias", bound)
    elif isinstance(module, Trunk):
        draw.normal(module.pos_embed, "pos_embed", 0.02)
    elif isinstance(module, AttentionPool):
        draw.truncated(module.latent, "latent", module.latent.shape[-1] ** -0.5)
    elif isinstance(module, SelfAttention):
        module.in_proj_bias.zero_()
    elif isinstance(module, Prototypes):
        draw.uniform(module.weight, "weight", module.weight.shape[1] ** -0.5)


def _fill_head(draw: _Draw, head: PrototypeHead) -> None:
    """DINO's deviation of 0.02 at its width of 2048, at other widths the one with the same gain.

    The output is normalised to length 1, so its gradient is divided by the length it had: 0.02 in a narrow head leaves
    almost nothing there, and a first gradient hundreds of times the rest of the model's.
    """
    for name, layer in head.mlp.named_children():
        if isinstance(layer, nn.Linear):
            draw.normal(layer.weight, f"mlp.{name}.weight", 0.02 * (2048 / layer.in_features) ** 0.5)


def _fill_text(draw: _Draw, text: TextTower) -> None:
    """open_clip's deviations (GPT-2's scaling by depth); its uniform biases of the MLP are zero here, as in SigLIP."""
    width, depth = text.token_embedding.embedding_dim, len(text.transformer.resblocks)
    draw.normal(text.token_embedding.weight, "token_embedding.weight", 0.02)
    draw.normal(text.positional_embedding, "positional_embedding", 0.01)
    draw.normal(text.text_projection.weight, "text_projection.weight", width**-0.5)
    residual = (2 * depth * width) ** -0.5
    deviations = {
        "attn.in_proj_weight": width**-0.5,
        "attn.out_proj.weight": residual,
        "mlp.c_fc.weight": (2 * width) ** -0.5,
        "mlp.c_proj.weight": residual,
    }
    for index, block in enumerate(text.transformer.resblocks):
        for tail, std in deviations.items():
            draw.normal(block.get_parameter(tail), f"transformer.resblocks.{index}.{tail}", std)
