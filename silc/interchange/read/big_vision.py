"""Two-tower models of big_vision in one .npz file, as Google released SigLIP's and SILC's (arXiv 2310.13355) weights.

    params/img/embedding/kernel                      [p, p, 3, D], and bias
    params/img/pos_embedding                         [1, N, D]
    params/img/Transformer/encoderblock_0/...        one by one; or encoderblock/..., stacked over the blocks
    params/img/Transformer/encoder_norm/...
    params/img/MAPHead_0/...                         pooling by attention
    params/txt/Embed_0/embedding                     [vocabulary, D]
    params/txt/pos_embedding                         [1, L, D]
    params/txt/Encoder_0/...                         as Transformer above
    params/txt/head/...                              to the image tower's width
    params/t                                         logarithm of the logits' multiplier, [1]
    params/b                                         their bias, [1]; missing: trained with the softmax

Files that hold parameters alone leave `params/` out; the optimiser's state beside it (`opt/`) is not looked at. GELU
is the approximation by tanh there, as flax has it by default (big_vision/models/vit.py: nn.gelu). open_clip computes
these weights with exact GELU in the towers that it had first, so that its features of them differ a little.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from silc.config import ModelConfig, TextConfig, VisionConfig
from silc.interchange.assemble import Names, assemble, count, logarithm, refuse_unknown, scalar, sizes
from silc.interchange.npz import open_npz
from silc.interchange.read.from_shapes import square
from silc.interchange.shapes import mlp_ratio
from silc.interchange.source import Source
from silc.interchange.tensors import Stored, joined, of

ROOT = "params/"
_ATTENTION, _MLP = "MultiHeadDotProductAttention_0/", "MlpBlock_0/"
_KINDS = {"kernel": "weight", "bias": "bias"}
_HALF = (0.5, 0.5, 0.5)
# Where the blocks' tensors of one kind are stored as one, it is kept while the blocks are read from it.
_KEPT = 3  # query, key and value
Get = Callable[[str], Stored]


def read_file(path: Path) -> Source:
    """A file of two towers. Raises ValueError as :func:`silc.interchange.read.read`."""
    with open_npz(path) as file:
        root = ROOT if any(name.startswith(ROOT) for name in file.names) else ""
        towers = [name for name in file.names if name.startswith((f"{root}img/", f"{root}txt/"))]
        scalars = [name for name in (f"{root}t", f"{root}b") if name in file.names]
        for part, what in (("img", "image"), ("txt", "text")):
            if not any(name.startswith(f"{root}{part}/") for name in towers):
                raise ValueError(f"{path} has no {what} tower ({root}{part}/...); two towers are read, of one file")
        if f"{root}img/MAPHead_0/probe" not in towers:
            raise ValueError(
                f"{path}: the image tower is not pooled by attention ({root}img/MAPHead_0/probe is missing)"
            )
        names = Names(path, {name.removeprefix(root): file.stored(name) for name in (*towers, *scalars)})
        image, text = _Tower(path, names, "img/", "Transformer/"), _Tower(path, names, "txt/", "Encoder_0/")
        model = _sizes(path, names, image, text)
        stored = _image(names, image) | _text(names, text)
        scale, bias = (names(name) if name in names else None for name in "tb")
        refuse_unknown(path, names.left())
        weights, _ = assemble(path, model, stored)
        taken = {*towers, *scalars}
        return Source(
            path=path,
            kind="a big_vision file",
            model=model,
            weights=weights,
            logit_scale=None if scale is None else logarithm(path, "t", scale),
            logit_bias=None if bias is None else scalar(path, "b", bias),
            mean=_HALF,
            std=_HALF,
            resize="big_vision",
            assumed={"data.mean, data.std": "0.5, as in big_vision's configurations, since the file does not say"},
            ignored=tuple(name for name in file.names if name not in taken),
        )


class _Tower:
    """The blocks of a tower, stored one by one or stacked."""

    def __init__(self, where: Path, names: Names, prefix: str, encoder: str) -> None:
        self.prefix, self.encoder = prefix, prefix + encoder
        self._where, self._names = where, names
        self._load = lru_cache(_KEPT)(lambda name: names(name).load())
        self.stacked = f"{self.encoder}encoderblock/LayerNorm_0/scale" in names
        if self.stacked:
            self.depth = self.shape("encoderblock/LayerNorm_0/scale", 2)[0]
        else:
            self.depth = count(names, f"{self.encoder}encoderblock_")

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        return of(self._names(self.encoder + name), dimensions).shape

    def of_block(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor of the first block."""
        if self.stacked:
            return self.shape(f"encoderblock/{name}", dimensions + 1)[1:]
        return self.shape(f"encoderblock_0/{name}", dimensions)

    def block(self, index: int) -> Callable[[str], Stored]:
        """The tensors of a block, by their names in it."""

        def one(name: str) -> Stored:
            return self._names(f"{self.encoder}encoderblock_{index}/{name}")

        def of_stack(name: str) -> Stored:
            full = f"{self.encoder}encoderblock/{name}"
            whole = self._names(full)
            if not whole.shape or whole.shape[0] != self.depth:
                raise ValueError(f"{self._where}: {full} has shape {list(whole.shape)}, not [{self.depth}, ...]")
            return Stored(whole.shape[1:], whole.dtype, lambda: self._load(full)[index].clone())

        return of_stack if self.stacked else one


def _sizes(path: Path, names: Names, image: _Tower, text: _Tower) -> ModelConfig:
    """All from shapes."""
    rows, columns, _, width = of(names("img/embedding/kernel"), 4).shape
    positions = of(names("img/pos_embedding"), 3).shape[1]
    vocabulary, text_width = of(names("txt/Embed_0/embedding"), 2).shape
    if rows != columns:
        raise ValueError(f"{path}: patches of {rows} x {columns} px are not square")
    return sizes(
        path,
        lambda: VisionConfig(
            image_size=square(path, positions) * rows, patch_size=rows, width=width, **_common(image, width)
        ),
        lambda: TextConfig(
            context_length=of(names("txt/pos_embedding"), 3).shape[1],
            vocab_size=vocabulary,
            width=text_width,
            **_common(text, text_width),
        ),
    )


def _common(tower: _Tower, width: int) -> dict[str, Any]:
    return {
        "depth": tower.depth,
        "heads": tower.of_block(f"{_ATTENTION}query/kernel", 3)[1],
        "mlp_ratio": mlp_ratio(width, tower.of_block(f"{_MLP}Dense_0/kernel", 2)[1]),
        "gelu": "tanh",
    }


def _image(names: Names, tower: _Tower) -> dict[str, Stored]:
    """The image tower's tensors under the names here."""
    trunk, pool = "visual.trunk.", "visual.trunk.attn_pool."
    kernel = of(names("img/embedding/kernel"), 4)
    patch, _, channels, width = kernel.shape
    found = {
        f"{trunk}patch_embed.proj.weight": kernel.changed(
            (width, channels, patch, patch), lambda value: value.permute(3, 2, 0, 1)
        ),
        f"{trunk}patch_embed.proj.bias": names("img/embedding/bias"),
        f"{trunk}pos_embed": names("img/pos_embedding"),
    }
    found |= _norm(names, f"{trunk}norm.", "img/Transformer/encoder_norm/")
    for index in range(tower.depth):
        block, ours = tower.block(index), f"{trunk}blocks.{index}."
        for kind in ("kernel", "bias"):
            found[f"{ours}attn.qkv.{_KINDS[kind]}"] = _projected(block, "query", "key", "value", kind=kind)
        found |= _out(block, f"{ours}attn.proj.")
        found |= _norm(block, f"{ours}norm1.", "LayerNorm_0/") | _norm(block, f"{ours}norm2.", "LayerNorm_1/")
        found |= _mlp(block, f"{ours}mlp.fc1.", f"{ours}mlp.fc2.")

    def head(name: str) -> Stored:
        return names(f"img/MAPHead_0/{name}")

    found[f"{pool}latent"] = head("probe")
    for kind in ("kernel", "bias"):
        found[f"{pool}q.{_KINDS[kind]}"] = _projected(head, "query", kind=kind)
        found[f"{pool}kv.{_KINDS[kind]}"] = _projected(head, "key", "value", kind=kind)
    found |= _out(head, f"{pool}proj.") | _norm(head, f"{pool}norm.", "LayerNorm_0/")
    return found | _mlp(head, f"{pool}mlp.fc1.", f"{pool}mlp.fc2.")


def _text(names: Names, tower: _Tower) -> dict[str, Stored]:
    """The text tower's tensors under the names here."""
    table = of(names("txt/pos_embedding"), 3)
    if table.shape[0] != 1:
        raise ValueError(f"txt/pos_embedding has shape {list(table.shape)}, not [1, ...]")
    found = {
        "text.token_embedding.weight": names("txt/Embed_0/embedding"),
        "text.positional_embedding": table.changed(table.shape[1:], lambda value: value[0]),
    }
    found |= _norm(names, "text.ln_final.", "txt/Encoder_0/encoder_norm/")
    found |= _dense(names, "text.text_projection.", "txt/head/")
    for index in range(tower.depth):
        block, ours = tower.block(index), f"text.transformer.resblocks.{index}."
        for kind in ("kernel", "bias"):
            found[f"{ours}attn.in_proj_{_KINDS[kind]}"] = _projected(block, "query", "key", "value", kind=kind)
        found |= _out(block, f"{ours}attn.out_proj.")
        found |= _norm(block, f"{ours}ln_1.", "LayerNorm_0/") | _norm(block, f"{ours}ln_2.", "LayerNorm_1/")
        found |= _mlp(block, f"{ours}mlp.c_fc.", f"{ours}mlp.c_proj.")
    return found


# flax keeps a layer's inputs first, and those of attention as heads of their own; torch has [out, in].


def _projected(block: Get, *parts: str, kind: str) -> Stored:
    """Query, key or value: kernel [D, heads, d] -> [heads * d, D], bias [heads, d] -> [heads * d]; several joined."""
    found = []
    for part in parts:
        stored = block(f"{_ATTENTION}{part}/{kind}")
        if kind == "bias":
            heads, each = of(stored, 2).shape
            found.append(stored.changed((heads * each,), lambda value: value.flatten()))
        else:
            width, heads, each = of(stored, 3).shape
            found.append(stored.changed((heads * each, width), lambda value: value.flatten(1).t()))
    return joined(found)


def _out(block: Get, ours: str) -> dict[str, Stored]:
    """The output projection: kernel [heads, d, D] -> [D, heads * d]."""
    kernel = block(f"{_ATTENTION}out/kernel")
    heads, each, width = of(kernel, 3).shape
    return {
        f"{ours}weight": kernel.changed((width, heads * each), lambda value: value.flatten(0, 1).t()),
        f"{ours}bias": block(f"{_ATTENTION}out/bias"),
    }


def _dense(block: Get, ours: str, theirs: str) -> dict[str, Stored]:
    """A linear layer: kernel [in, out] -> [out, in]."""
    kernel = block(f"{theirs}kernel")
    inputs, outputs = of(kernel, 2).shape
    return {
        f"{ours}weight": kernel.changed((outputs, inputs), lambda value: value.t()),
        f"{ours}bias": block(f"{theirs}bias"),
    }


def _mlp(block: Get, first: str, second: str) -> dict[str, Stored]:
    return _dense(block, first, f"{_MLP}Dense_0/") | _dense(block, second, f"{_MLP}Dense_1/")


def _norm(block: Get, ours: str, theirs: str) -> dict[str, Stored]:
    return {f"{ours}weight": block(f"{theirs}scale"), f"{ours}bias": block(f"{theirs}bias")}
