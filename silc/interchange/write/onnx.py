"""Export to ONNX: both towers as graphs that need no torch, and what is needed around them.

    image.onnx         pixels, float32 [batch, 3, R, R], normalised -> image_features, float32 [batch, D]
    text.onnx          tokens, int64 [batch, L] -> text_features, float32 [batch, D]
    tokenizer.json     for the tokenizers library: texts -> L token ids, cut and padded
    metadata.json      shapes, mean, std, scale and bias of the logits, opset

Features have unit length: the logits are exp(logit_scale) * image_features @ text_features.T + logit_bias. The graphs
are of the model as open_clip loads it. Weights beyond 2 GB, the limit of a protobuf, lie beside a graph (*.onnx.data).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from silc.interchange.source import Source
from silc.interchange.write import open_clip
from silc.interchange.write.common import pixel_statistics, scale_of, write_json
from silc.interchange.write.tokenizer import write_alone

OPSET = 18
LARGEST = 2_000_000_000  # bytes of weights in a graph's own file


def write(source: Source, folder: Path) -> None:
    """Write the files into a folder, which exists.

    Raises:
        ValueError: a tokenizer that cannot be loaded.
        OSError: a file that cannot be written.
    """
    write_alone(source, folder / "tokenizer.json")
    write_json(folder / "metadata.json", metadata(source))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as draft:
        open_clip.write(source, Path(draft))
        model = open_clip.reload(Path(draft)).model
    size = source.model.vision.image_size
    pixels = torch.zeros(2, 3, size, size)
    tokens = torch.zeros(2, source.model.text.context_length, dtype=torch.int64)
    _write_graph(_Image(model), pixels, "pixels", "image_features", folder / "image.onnx")
    _write_graph(_Text(model), tokens, "tokens", "text_features", folder / "text.onnx")


class reload:
    """The graphs as onnxruntime runs them on the CPU."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.library = f"onnxruntime {onnxruntime.__version__}"
        found = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        self._size, self._mean, self._std = found["image_size"], found["mean"], found["std"]
        self.scale = (found["logit_scale"], found["logit_bias"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._run = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
            for name in ("image", "text")
        }

    def images(self, images: list[Image.Image]) -> Tensor:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        sized = [image.convert("RGB").resize((self._size, self._size), Image.Resampling.BICUBIC) for image in images]
        pixels = (np.stack([np.asarray(image, np.float32) for image in sized]) / 255 - self._mean) / self._std
        inputs = {"pixels": pixels.transpose(0, 3, 1, 2).astype(np.float32)}
        return torch.from_numpy(self._run["image"].run(["image_features"], inputs)[0])

    def texts(self, texts: list[str]) -> Tensor:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        ids = np.array([encoding.ids for encoding in self._tokenizer.encode_batch(texts)], np.int64)
        return torch.from_numpy(self._run["text"].run(["text_features"], {"tokens": ids})[0])


def loading_call(source: Source, folder: Path) -> str:
    """The Python that loads an export, for a message."""
    del source
    return f"import onnxruntime; image = onnxruntime.InferenceSession({str(folder / 'image.onnx')!r})"


def metadata(source: Source) -> dict[str, Any]:
    """What a program needs to know beside the graphs."""
    text, (mean, std), (scale, bias) = source.model.text, pixel_statistics(source), scale_of(source)
    return {
        "opset": OPSET,
        "image_size": source.model.vision.image_size,
        "context_length": text.context_length,
        "embedding_width": source.model.vision.width,
        "resize": "bicubic, antialiased, the whole image to a square",
        "mean": list(mean),
        "std": list(std),
        "features": "unit length",
        "logit_scale": scale,
        "logit_bias": bias,
        "logits": "exp(logit_scale) * image_features @ text_features.T" + ("" if bias is None else " + logit_bias"),
        "probabilities": "softmax over the texts" if bias is None else "sigmoid",
    }


class _Image(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower = model.visual

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.tower(pixels), dim=-1)


class _Text(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower = model.text

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.tower(tokens), dim=-1)


def _write_graph(model: nn.Module, example: Tensor, given: str, found: str, path: Path) -> None:
    """Trace a tower, its batch left open, write the graph and check it."""
    import onnx

    size = sum(math.prod(value.shape) * 4 for value in model.parameters())
    with _quiet():
        program = torch.onnx.export(
            model.eval().requires_grad_(False),
            (example,),
            input_names=[given],
            output_names=[found],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    _forget_origin(program.model.graph)
    program.save(str(path), external_data=size > LARGEST)
    onnx.checker.check_model(str(path), full_check=True)


def _forget_origin(graph: Any) -> None:
    """Remove where each node comes from: stack traces with paths of this machine, most of a graph's bytes."""
    for node in graph.all_nodes():
        for part in (node, *node.outputs):
            part.metadata_props.clear()
        node.doc_string = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its progress; what it raises says enough."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
