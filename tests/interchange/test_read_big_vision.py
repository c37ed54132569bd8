"""Two towers of big_vision in one .npz: the tensors that open_clip's converter makes, and the features."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.convert import load_big_vision_weights

from silc.interchange.read import is_readable, read
from tests.interchange.foreign import MODEL_CFG, TOWER, assert_same, changed, inputs, ours

Arrays = dict[str, np.ndarray]
SMALL: dict[str, Any] = {
    "patch": 8, "grid": 6, "width": 64, "depth": 2, "heads": 2, "hidden": 160,
    "vocabulary": 90, "context": 12, "text_width": 48, "text_depth": 2, "text_heads": 3, "text_hidden": 192,
}  # fmt: skip
# open_clip's model of these sizes; its features are big_vision's only where GELU is the approximation by tanh.
CFG = changed(MODEL_CFG, "vision_cfg.timm_model_name", f"{TOWER}_tanh")
CFG = changed(CFG, "text_cfg.act_kwargs", {"approximate": "tanh"})


def _attention(width: int, heads: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("query", "key", "value"):
        shapes |= {f"{part}/kernel": (width, heads, width // heads), f"{part}/bias": (heads, width // heads)}
    shapes |= {"out/kernel": (heads, width // heads, width), "out/bias": (width,)}
    return {f"MultiHeadDotProductAttention_0/{name}": shape for name, shape in shapes.items()}


def _mlp(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    shapes = {"Dense_0/kernel": (width, hidden), "Dense_0/bias": (hidden,)}
    shapes |= {"Dense_1/kernel": (hidden, width), "Dense_1/bias": (width,)}
    return {f"MlpBlock_0/{name}": shape for name, shape in shapes.items()}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def _encoder(prefix: str, width: int, heads: int, hidden: int, depth: int, stacked: bool) -> dict[str, tuple[int, ...]]:
    block = _attention(width, heads) | _mlp(width, hidden) | _norm("LayerNorm_0", width) | _norm("LayerNorm_1", width)
    if stacked:
        shapes = {f"{prefix}encoderblock/{name}": (depth, *shape) for name, shape in block.items()}
    else:
        shapes = {
            f"{prefix}encoderblock_{index}/{name}": shape
            for index, (name, shape) in itertools.product(range(depth), block.items())
        }
    return shapes | _norm(f"{prefix}encoder_norm", width)


def arrays(*, stacked: bool = False, bias: bool = True, of: dict[str, Any] = SMALL) -> Arrays:
    """Parameters under big_vision's names, without a root; values that half precision holds too."""
    width, text_width = of["width"], of["text_width"]
    shapes: dict[str, tuple[int, ...]] = {
        "img/embedding/kernel": (of["patch"], of["patch"], 3, width),
        "img/embedding/bias": (width,),
        "img/pos_embedding": (1, of["grid"] ** 2, width),
        "img/MAPHead_0/probe": (1, 1, width),
        "txt/Embed_0/embedding": (of["vocabulary"], text_width),
        "txt/pos_embedding": (1, of["context"], text_width),
        "txt/head/kernel": (text_width, width),
        "txt/head/bias": (width,),
        "t": (1,),
        "b": (1,),
    }
    head = _attention(width, of["heads"]) | _mlp(width, of["hidden"]) | _norm("LayerNorm_0", width)
    shapes |= {f"img/MAPHead_0/{name}": shape for name, shape in head.items()}
    shapes |= _encoder("img/Transformer/", width, of["heads"], of["hidden"], of["depth"], stacked)
    shapes |= _encoder("txt/Encoder_0/", text_width, of["text_heads"], of["text_hidden"], of["text_depth"], stacked)
    if not bias:
        del shapes["b"]
    random = np.random.default_rng(5)
    found = {}
    for name, shape in shapes.items():
        some = random.standard_normal(min(int(np.prod(shape)), 999_983), np.float32)
        values = np.resize(some * (0.1 if name.endswith("kernel") else 0.3) + name.endswith("scale"), shape)
        found[name] = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)  # bfloat16's
    return found


def write(path: Path, found: Arrays, root: str = "params/", save: Any = np.savez) -> Path:
    save(path, **{f"{root}{name}": value for name, value in found.items()})
    return path


def twin_of(path: Path, cfg: dict[str, Any] = CFG) -> torch.nn.Module:
    """open_clip's model with the weights that its converter reads."""
    plain = {name: value for name, value in cfg.items() if name != "custom_text"}
    with torch.device("meta"):
        model = open_clip.CustomTextCLIP(**plain).eval()
    model.to_empty(device="cpu")  # the converter writes every parameter
    load_big_vision_weights(model, str(path))
    return model


def assert_as_converted(path: Path, twin: torch.nn.Module) -> None:
    source = read(path)
    theirs = twin.state_dict()
    assert source.logit_scale == theirs.pop("logit_scale").item()
    assert source.logit_bias == theirs.pop("logit_bias").item()
    assert source.weights.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(source.weights[name], value), name


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("root", ["params/", ""])
def test_as_open_clips_converter(tmp_path, stacked, root):
    path = write(tmp_path / "silc.npz", arrays(stacked=stacked), root)
    assert is_readable(path)
    twin = twin_of(path)
    assert_as_converted(path, twin)
    source = read(path)
    model = ours(source)
    crops, pixels, tokens = inputs(source)
    with torch.no_grad():
        assert_same(model.encode_image(crops), twin.encode_image(pixels))
        assert_same(model.encode_text(tokens), twin.encode_text(tokens))
    assert (source.model.vision.gelu, source.model.text.gelu, source.resize) == ("tanh", "tanh", "big_vision")
    assert (source.mean, source.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_at_the_size_of_vit_b16_at_256(tmp_path):
    """open_clip's ViT-B-16-SigLIP-256: the tensors, since its GELU is exact."""
    cfg = open_clip.get_model_config("ViT-B-16-SigLIP-256")
    base = {
        "patch": 16, "grid": 16, "width": 768, "depth": 12, "heads": 12, "hidden": 3072,
        "vocabulary": 32000, "context": 64, "text_width": 768, "text_depth": 12, "text_heads": 12, "text_hidden": 3072,
    }  # fmt: skip
    path = write(tmp_path / "base.npz", arrays(of=base))
    assert_as_converted(path, twin_of(path, cfg))
    path.unlink()


def test_trained_with_the_softmax(tmp_path):
    """SILC's loss has no bias, and neither has its file."""
    source = read(write(tmp_path / "a.npz", arrays(bias=False)))
    assert source.logit_bias is None
    assert source.config().objective.contrastive == "softmax"
    assert source.config().data.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", "bfloat16"])
def test_other_precisions(tmp_path, dtype):
    """bfloat16 is stored as void of two bytes."""
    exact = arrays(stacked=True)
    if dtype == "bfloat16":
        stored = {name: (value.view(np.uint32) >> 16).astype(np.uint16).view("V2") for name, value in exact.items()}
    else:
        stored = {name: value.astype(dtype) for name, value in exact.items()}
    expected = {name: value.astype(np.float32) for name, value in (exact if dtype == "bfloat16" else stored).items()}
    found = read(write(tmp_path / "a.npz", stored)).weights
    wanted = read(write(tmp_path / "b.npz", expected)).weights
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_columns_first_and_packed(tmp_path):
    """Arrays that NumPy stores in Fortran's order, in a packed file."""
    exact = arrays()
    path = write(tmp_path / "a.npz", {n: np.asfortranarray(v) for n, v in exact.items()}, save=np.savez_compressed)
    assert_as_converted(path, twin_of(path))
    wanted = read(write(tmp_path / "b.npz", exact)).weights
    assert all(torch.equal(value, wanted[name]) for name, value in read(path).weights.items())


def test_the_optimisers_state_is_not_looked_at(tmp_path):
    found = {f"params/{name}": value for name, value in arrays().items()}
    found |= {"opt/0/mu/img/embedding/bias": np.zeros(3), "opt/1/count": np.array(7), "chrono/accum": np.array("abc")}
    source = read(write(tmp_path / "a.npz", found, ""))
    assert source.ignored == ("opt/0/mu/img/embedding/bias", "opt/1/count", "chrono/accum")


def replaced(name: str, value: np.ndarray | None) -> Arrays:
    found = arrays() | ({} if value is None else {name: value})
    if value is None:
        del found[name]
    return found


WRONG = {
    "img/head/kernel": (np.zeros((64, 64), "f4"), "the towers here have no img/head/kernel"),
    "img/cls": (np.zeros((1, 1, 64), "f4"), "have no img/cls"),
    "img/Transformer/encoderblock_2/LayerNorm_0/scale": (np.ones(64, "f4"), "encoderblock_2/.* is missing"),
    "img/Transformer/encoderblock_1/LayerNorm_0/scale": (None, "encoderblock_1/LayerNorm_0/scale is missing"),
    "img/MAPHead_0/probe": (None, "not pooled by attention"),
    "img/embedding/kernel": (np.zeros((8, 7, 3, 64), "f4"), "patches of 8 x 7 px are not square"),
    "img/pos_embedding": (np.zeros((1, 35, 64), "f4"), "35 positions of patches are no square grid"),
    "txt/pos_embedding": (np.zeros((2, 12, 48), "f4"), r"shape \[2, 12, 48\]"),
    "txt/head/kernel": (np.zeros((48, 63), "f4"), r"text_projection.weight has shape \[63, 48\], not \[64, 48\]"),
    "txt/head/bias": (np.zeros((64,), "i4"), "of type 'int32'; floating point"),
    "txt/Encoder_0/encoder_norm/bias": (np.full((48,), np.nan, "f4"), "not finite"),
    "txt/Embed_0/embedding": (np.zeros((90,), "f4"), r"shape \[90\] where there are 2 dimensions"),
    "t": (np.zeros(2, "f4"), r"t has shape \[2\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_model_is_refused(tmp_path, name):
    value, said = WRONG[name]
    path = write(tmp_path / "a.npz", replaced(name, value))
    with pytest.raises(ValueError, match=said) as refused:
        read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(("part", "what"), [("img/", "text"), ("txt/", "image")])
def test_one_tower_alone_is_refused(tmp_path, part, what):
    path = write(tmp_path / "a.npz", {n: v for n, v in arrays().items() if n.startswith(part)})
    with pytest.raises(ValueError, match=f"has no {what} tower"):
        read(path)
