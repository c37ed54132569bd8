"""Models of open_clip: a folder as it saves them, or a file of weights alone.

    open_clip_config.json          {"model_cfg", "preprocess_cfg"}
    open_clip_model.safetensors    visual.trunk.*, text.*, logit_scale, logit_bias
    tokenizer.json, ...            where the model has a tokenizer of Hugging Face

Names of tensors and arithmetic are open_clip's here too, so tensors are taken as they are. A folder that asks for other
arithmetic is refused, since the towers here would compute other features from its weights.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from silc.config import ModelConfig
from silc.files import inside
from silc.interchange.assemble import assemble, logarithm, scalar
from silc.interchange.folder import has, read_fields
from silc.interchange.read.described import Description, describe, is_description
from silc.interchange.read.from_shapes import from_shapes
from silc.interchange.source import Source
from silc.interchange.tensors import Stored, open_safetensors
from silc.text import shown

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# In the order in which open_clip prefers them.
_WEIGHTS = (WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors")
PICKLES = (".bin", ".pt", ".pth")
# Under these names, without a prefix, open_clip's class CLIP has what CustomTextCLIP has below `text.`.
_BARE_TEXT = ("positional_embedding", "token_embedding.", "transformer.", "ln_final.", "text_projection")


def read_folder(folder: Path) -> Source:
    """A folder with a description. Raises ValueError as :func:`silc.interchange.read.read`."""
    described = describe(inside(folder, CONFIG))
    return _read(folder, _weights(folder), "an open_clip folder", described)


def read_file(path: Path, sizes: ModelConfig | None) -> Source:
    """A file of weights, with a description beside it (of the same name, or open_clip_config.json) or without.

    Raises ValueError as :func:`silc.interchange.read.read`.
    """
    kind = "an open_clip file"
    for beside in (path.with_suffix(".json").name, CONFIG):
        if has(path.parent, beside) and is_description(read_fields(inside(path.parent, beside))):
            return _read(path, path, kind, describe(path.parent / beside))
    return _read(path, path, kind, None, sizes)


def _read(
    where: Path, file: Path, kind: str, described: Description | None, sizes: ModelConfig | None = None
) -> Source:
    with open_safetensors([file]) as found:
        stored = _renamed(found)
        _check_family(file, stored)
        known = described or from_shapes(file, stored, sizes)
        scale, bias = (stored.pop(name, None) for name in ("logit_scale", "logit_bias"))
        if scale is None and described is not None:
            raise ValueError(f"{file} has no logit_scale")
        weights, others = assemble(file, known.model, stored)
        # As open_clip loads a model with a bias whose weights have none.
        absent = 0.0 if known.sigmoid else None
        return Source(
            path=where,
            kind=kind,
            model=known.model,
            weights=weights,
            logit_scale=None if scale is None else logarithm(file, "logit_scale", scale),
            logit_bias=absent if bias is None else scalar(file, "logit_bias", bias),
            mean=known.mean,
            std=known.std,
            tokenizer=known.tokenizer,
            tokenizer_clean=known.tokenizer_clean,
            assumed=known.assumed,
            ignored=tuple(others),
        )


def _weights(folder: Path) -> Path:
    """The file of weights, as open_clip looks for it. Raises ValueError."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from None
    files = [name for name in names if name.endswith(".safetensors")]
    preferred = [name for name in _WEIGHTS if name in files]
    if preferred or len(files) == 1:
        return inside(folder, (preferred or files)[0])
    if files:
        raise ValueError(
            f"{folder} holds several files of weights ({', '.join(map(shown, files[:4]))}); give one of them"
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise ValueError(pickled(folder / pickles[0]))
    raise ValueError(f"{folder} has {CONFIG} but no {WEIGHTS}")


def pickled(path: Path) -> str:
    """The refusal of a pickle, with the Python that turns one into safetensors."""
    to = path.with_suffix(".safetensors")
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"found = torch.load({str(path)!r}, map_location='cpu', weights_only=True); "
        "found = found.get('state_dict', found); "
        f"save_file({{name: value.contiguous() for name, value in found.items()}}, {str(to)!r})"
    )
    return f"{path} may run code when it is read, so it is not; turn it into safetensors: python -c {shlex.quote(code)}"


def _renamed(found: Mapping[str, Stored]) -> dict[str, Stored]:
    """Names of CustomTextCLIP, without the prefix of a model that was trained on several ranks."""
    plain = dict(found)
    if all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    if "positional_embedding" in plain:
        plain = {f"text.{name}" if name.startswith(_BARE_TEXT) else name: value for name, value in plain.items()}
    return plain


def _check_family(where: Path, stored: Mapping[str, Stored]) -> None:
    """Raises ValueError for weights of another kind, with what tells it."""
    if any(name.startswith(("vision_model.", "text_model.")) for name in stored):
        raise ValueError(f"{where} has the names of Hugging Face; give its folder, where config.json describes it")
    signs = {
        "a class token": ("visual.class_embedding", "visual.trunk.cls_token"),
        "CLIP's own ViT": ("visual.conv1.weight", "visual.ln_pre.weight", "visual.transformer.resblocks.0.ln_1.weight"),
        "a projection of the image features": ("visual.proj", "visual.head.proj.weight", "visual.trunk.head.weight"),
        "a projection of the text features without bias": ("text.text_projection",),
        "a text tower of Hugging Face": ("text.proj.weight", "text.proj.0.weight"),
    }
    wrong = [sign for sign, names in signs.items() if any(name in stored for name in names)]
    for name, what in (
        ("visual.trunk.attn_pool.latent", "pooling by attention"),
        ("text.ln_final.weight", "text tower"),
    ):
        if name not in stored:
            wrong.append(f"no {what}")
    if wrong:
        raise ValueError(f"{where} holds another architecture than SigLIP's: {', '.join(wrong)}")
