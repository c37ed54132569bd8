"""A trained model for use in Python: :func:`load` and the :class:`Model` it returns."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from silc.config import Config
from silc.config_rules import is_prompt
from silc.data import Tokenizer
from silc.data.images.decode import image_pixels
from silc.data.prompts import expanded
from silc.data.shards import Unreadable
from silc.data.views.crops import resize_into
from silc.evaluate.tasks.task import TEMPLATES
from silc.evaluate.towers import Towers, build_towers
from silc.interchange.read import is_readable
from silc.interchange.source import Source
from silc.model.scale import LogitScale
from silc.train import checkpoint
from silc.train.weights import needs_tokenizer, read_weights

BATCH = 64  # images a forward pass
Name = Literal["student", "teacher"]
Images = Image.Image | Tensor | Sequence[Image.Image | Tensor]


def load(
    path: str | Path,
    *,
    model: Name = "student",
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: str | None = None,
) -> Model:
    """A trained model from a run folder (its newest checkpoint), a checkpoint, an export of this package, or a model of
    another library: an open_clip folder or .safetensors file, a Hugging Face folder of SiglipModel, or a .npz of
    big_vision.

    Args:
        path: of the file or folder.
        model: student, or teacher: the image tower of the teacher (the EMA of the student's) beside the student's text
            tower. Only runs hold both; the model of other files is called student.
        device: None: the first GPU if there is one, else the CPU.
        dtype: of the weights and of the forward pass: float32, bfloat16 or float16. Features are float32 in any case.
        tokenizer: as `data.tokenizer`, "open_clip_bpe" or the name or folder of a Hugging Face tokenizer; None: the one
            that the files say. Files of weights alone do not.

    Warns, as Python's warnings do, of what the files do not say and is taken as usual: heads and GELU of files of
    weights alone, for example.

    Raises:
        ValueError: no such path or device, files that are not of these kinds, or damaged, or of another architecture,
            a checkpoint without a teacher, or a tokenizer that is not known or cannot be used. No file is executed:
            weights are read from safetensors and plain .npz, and by torch.load with weights_only.
    """
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise ValueError(f"path={path!r}: give the path of a file or folder, as text or as a pathlib.Path")
    folder = Path(path)
    if model not in get_args(Name):
        raise ValueError(f"model={model!r}: give 'student' or 'teacher'")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype={dtype}: give torch.float32, torch.bfloat16 or torch.float16")
    place = _device(device)
    try:
        source = read_weights(folder, model)
        config = source.config() if is_readable(folder) else checkpoint.load_model_config(source.path)
    except (OSError, RecursionError) as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error
    for key, reason in source.assumed.items():
        warnings.warn(f"{folder}: {key}: {reason}", stacklevel=2)
    if tokenizer is not None:
        config.data.tokenizer = tokenizer
    elif source.tokenizer is None:
        raise ValueError(needs_tokenizer(source, "tokenizer"))
    return Model(_towers(config, model, source.weights, place, dtype), config, *_scale(source, config))


class Model:
    """Image and text embeddings of a trained model. Nothing is trained here: weights are frozen, no gradients.

    Attributes:
        name: student or teacher.
        config: the configuration it was trained with; of an export, as much as the export holds.
        image_size: pixels a side of an image for :meth:`encode_image`.
        patch_size: pixels a side of a patch.
        width: D, of the embeddings.
        logit_scale: the factor of cosines in the logits, at most objective.max_scale.
        logit_bias: the bias of the logits of a model trained with the sigmoid loss, else None.
        tokenizer: list of texts -> int64 [texts, context length].
        device: of the weights and of what is returned.
    """

    def __init__(self, towers: Towers, config: Config, logit_scale: float, logit_bias: float | None) -> None:
        self._towers = towers
        self.name, self.config, self.device = towers.name, config, towers.device
        self.image_size, self.patch_size, self.width = towers.size, towers.patch, config.model.vision.width
        self.logit_scale, self.logit_bias = logit_scale, logit_bias
        self.tokenizer: Tokenizer = towers.tokenizer

    def __repr__(self) -> str:
        vision = self.config.model.vision
        return (
            f"Model({self.name}, ViT of {vision.depth} blocks, width {vision.width}, patches of "
            f"{self.patch_size} px, images of {self.image_size} px, on {self.device})"
        )

    def preprocess(self, image: Image.Image, size: int | tuple[int, int] | None = None) -> Tensor:
        """An image's pixels as evaluation sees them: RGB, the whole image resized (bicubic, antialiased).

        What is transparent lies on white, 16 bits become 8. The image is taken as it is, whatever its EXIF orientation
        says; PIL.ImageOps.exif_transpose turns it. Normalisation by mean and std is part of the model.

        Args:
            image: of any size and mode.
            size: (height, width) in pixels, or a square's side; None: `image_size`. The aspect ratio is not kept; for
                :meth:`dense` give a size in the image's proportions.

        Returns:
            uint8 [3, height, width].

        Raises:
            ValueError: no PIL image, one that cannot be decoded, or a side that `patch_size` does not divide.
        """
        if not isinstance(image, Image.Image):
            raise ValueError(f"preprocess takes a PIL image, not {type(image).__name__}; see PIL.Image.fromarray")
        if not image.width or not image.height:
            raise ValueError(f"the image has {image.width} x {image.height} pixels; give one of at least 1 x 1")
        height, width = self._wanted(size)
        out = torch.empty(3, *self._sides(height, width), dtype=torch.uint8)
        try:
            resize_into(out, image_pixels(image).contiguous())
        except (OSError, SyntaxError, Image.DecompressionBombError, ValueError, Unreadable) as error:
            raise ValueError(f"the image cannot be decoded: {error}") from error
        return out

    @torch.no_grad()
    def encode_image(self, images: Images, *, normalize: bool = True) -> Tensor:
        """Image embeddings.

        Args:
            images: a PIL image or a list of them, of any size (see :meth:`preprocess`); or pixels, uint8 [B, 3, H, W]
                or [3, H, W] of any size, resized by the same arithmetic; or floating point of the same shapes with
                sides that `patch_size` divides (best: `image_size`), normalised already: (pixel / 255 - mean) / std
                with the mean and std of `config.data`, which is what open_clip's preprocessing of the export returns.
                Floats that all lie in [0, 1] are refused: they look like pixels that were only divided by 255.
            normalize: to length 1.

        Returns:
            fp32 [B, D]; B is 1 for a single image.

        Raises:
            ValueError: other kinds, shapes or dtypes.
        """
        if normalize:
            return self._each(images, self._towers.images, resized=True)
        return self._each(images, lambda pixels: self._towers.model.encode_image([pixels])[0].float(), resized=True)

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str], *, normalize: bool = True) -> Tensor:
        """Text embeddings: a text, or a list of N -> fp32 [N, D] (N is 1 for a single text).

        Longer texts are cut to the context length. normalize: to length 1.

        Raises ValueError for no text, or something else than texts.
        """
        listed = _texts("texts", texts)
        if normalize:
            return self._towers.texts(listed)
        tokens = self.tokenizer(listed).to(self.device)
        return torch.cat([self._towers.model.encode_text(part).float() for part in tokens.split(BATCH)])

    @torch.no_grad()
    def dense(self, images: Images) -> Tensor:
        """Embeddings of patches, comparable with :meth:`encode_text` by their dot product.

        The value path of MaskCLIP (arXiv 2112.01071), as zero-shot segmentation uses it: in the last block and in the
        pooling, each patch attends to itself alone.

        Args:
            images: as for :meth:`encode_image`; but tensors keep their size, of any height and width that `patch_size`
                divides.

        Returns:
            fp32 [B, H / patch_size, W / patch_size, D], of length 1.

        Raises:
            ValueError: other kinds, shapes or dtypes.
        """
        return self._each(images, self._towers.values)

    @torch.no_grad()
    def classify(self, images: Images, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
        """Probabilities of classes, from the names alone (zero-shot, arXiv 2103.00020).

        Args:
            images: as for :meth:`encode_image`.
            class_names: C names in plain words.
            templates: prompts with {} for the name, as in "a drawing of a {}"; their embeddings are averaged. None: the
                run's eval.templates, or "a {}".

        Returns:
            fp32 [B, C]. Of a model trained with the softmax loss: softmax over the classes, rows sum to 1. With the
            sigmoid loss (SigLIP): sigmoid of each class's logit on its own; rows do not sum to 1.

        Raises:
            ValueError: no names, a template without {}, or images as for :meth:`encode_image`.
        """
        if isinstance(class_names, str):
            raise ValueError(f"class_names={class_names!r}: give a list of names")
        listed = templates is None or isinstance(templates, list | tuple)
        prompts = tuple(templates if listed and templates else expanded(self.config.eval.templates) or TEMPLATES)
        if not listed or not all(isinstance(prompt, str) and is_prompt(prompt) for prompt in prompts):
            raise ValueError(
                f"templates={templates!r}: give a list of prompts with {{}} once each, as in 'a drawing of {{}}'"
            )
        classes = self._towers.classes(_texts("class_names", class_names), prompts)
        logits = self.logit_scale * self.encode_image(images) @ classes.T
        return logits.softmax(-1) if self.logit_bias is None else (logits + self.logit_bias).sigmoid()

    def _each(self, images: Images, encode: Callable[[Tensor], Tensor], *, resized: bool = False) -> Tensor:
        """Features of all images, `BATCH` a pass. resized: whether uint8 tensors are brought to `image_size`."""
        return torch.cat([encode(pixels.to(self.device)) for pixels in self._batches(images, resized)])

    def _batches(self, images: Images, resized: bool) -> Iterator[Tensor]:
        """Pixels [b, 3, H, W]. Raises ValueError."""
        _refuse_unnormalised(images)
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, Tensor):
            for part in self._of_known_kind(images[None] if images.ndim == 3 else images).split(BATCH):
                yield self._checked(self._resized(part) if resized else part)
            return
        if not isinstance(images, list | tuple) or not images:
            raise ValueError(f"give a PIL image, a list of them, or a tensor [B, 3, H, W]; found {_described(images)}")
        self._check_alike(images, resized)
        for first in range(0, len(images), BATCH):
            yield self._checked(torch.stack([self._one(image, resized) for image in images[first : first + BATCH]]))

    def _check_alike(self, images: Sequence[Image.Image | Tensor], resized: bool) -> None:
        """Raises ValueError for a list whose images cannot stand in one batch: torch.stack would convert the pixel
        values of uint8 to floating point, where they mean something else.
        """
        tensors = [_held(image) for image in images if isinstance(image, Tensor)]
        others = any(not isinstance(image, Tensor) for image in images)  # of which preprocess makes uint8 on the CPU
        kinds = {str(pixels.dtype).removeprefix("torch.") for pixels in tensors} | ({"uint8"} if others else set())
        if len(kinds) > 1:
            raise ValueError(
                f"the list mixes pixels of {' and '.join(sorted(kinds))} (a PIL image counts as uint8); give images of "
                "one kind, or encode each kind by itself"
            )
        square = torch.Size((3, self.image_size, self.image_size))
        shapes = {square if resized and image.dtype == torch.uint8 else image.shape for image in tensors}
        if len(shapes | ({square} if others else set())) > 1:
            raise ValueError("images of a list must be of one size; encode tensors of different sizes one by one")
        if len({pixels.device for pixels in tensors} | ({torch.device("cpu")} if others else set())) > 1:
            raise ValueError("images of a list lie on different devices; give them on one device")

    def _one(self, image: Image.Image | Tensor, resized: bool) -> Tensor:
        if not isinstance(image, Tensor):
            return self.preprocess(image)
        if resized and image.ndim == 3:
            return self._resized(self._of_known_kind(image[None]))[0]
        return image

    def _resized(self, pixels: Tensor) -> Tensor:
        """uint8 [b, 3, H, W] as :meth:`preprocess` resizes images; other tensors as given."""
        size = self.image_size
        if pixels.dtype != torch.uint8 or pixels.shape[2:] == (size, size) or 0 in pixels.shape:
            return pixels
        out = torch.empty(len(pixels), 3, size, size, dtype=torch.uint8)
        for into, image in zip(out, pixels.cpu(), strict=True):
            resize_into(into, image.permute(1, 2, 0).contiguous())
        return out

    def _of_known_kind(self, pixels: Tensor) -> Tensor:
        """Raises ValueError for other shapes or dtypes than those of images."""
        _held(pixels)
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels):
            raise ValueError(
                f"images have shape {list(pixels.shape)}; give [B, 3, H, W] with at least one image, channels first"
            )
        if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
            raise ValueError(f"images have dtype {pixels.dtype}; give uint8 pixels, or normalised floating point")
        return pixels

    def _checked(self, pixels: Tensor) -> Tensor:
        self._sides(*self._of_known_kind(pixels).shape[2:])
        return pixels

    def _wanted(self, size: object) -> tuple[int, int]:
        """Height and width that :meth:`preprocess` is asked for. Raises ValueError for another kind."""
        sides = self.image_size if size is None else size
        if isinstance(sides, int):
            sides = (sides, sides)
        if not isinstance(sides, tuple | list) or len(sides) != 2 or any(type(side) is not int for side in sides):
            raise ValueError(f"size={size!r}: give (height, width) in pixels, or a square's side, as whole numbers")
        return sides[0], sides[1]

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        """The sides of an image. Raises ValueError."""
        patch = self.patch_size
        if height < 1 or width < 1 or height % patch or width % patch:
            near = [max(1, round(side / patch)) * patch for side in (height, width)]
            raise ValueError(
                f"images of {height} x {width} pixels are not divided by patches of {patch}; take {near[0]} x {near[1]}"
            )
        return height, width


def _refuse_unnormalised(images: object) -> None:
    """Raises ValueError where all floating-point pixels lie in [0, 1]."""
    listed = images if isinstance(images, list | tuple) else [images]
    floats = [
        image for image in listed if isinstance(image, Tensor) and image.is_floating_point() and _held(image).numel()
    ]
    if floats and all(image.min() >= 0 and image.max() <= 1 for image in floats):
        raise ValueError(
            "all values of the floating-point images lie in [0, 1], so they look like pixels that are not normalised; "
            "give uint8 pixels, or floats as (pixel / 255 - mean) / std with the mean and std of config.data"
        )


def _device(wanted: str | torch.device | None) -> torch.device:
    """Raises ValueError for a device that is not here."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        # Which error it is depends on the backend: an unknown one is a module that is not found, for example.
        torch.empty(1, device=device).cpu()
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={str(wanted)!r} cannot be used ({reason}); give 'cpu' or 'cuda'") from None
    return device


def _scale(source: Source, config: Config) -> tuple[float, float | None]:
    """The factor of cosines in the logits, and their bias; where the files have none, a run's first ones."""
    if source.logit_scale is not None:
        return torch.tensor(source.logit_scale).exp().item(), source.logit_bias
    multiplier, bias = LogitScale.of(config.objective).effective()
    return multiplier.item(), None if bias is None else bias.item()


def _towers(
    config: Config, name: Name, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Towers:
    """The model on a device, by whatever backends run there."""
    here = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, attention="auto", checkpoint_activations=False, compile=False),
        kernels=dataclasses.replace(config.kernels, patch_embed="auto"),
        eval=dataclasses.replace(config.eval, models=[name]),
    )
    (towers,) = build_towers(here, weights, weights, device, dtype)
    return towers


def _texts(name: str, texts: str | Sequence[str]) -> list[str]:
    if not isinstance(texts, str | Iterable):
        raise ValueError(f"{name} must be strings; found {type(texts).__name__}")
    listed = [texts] if isinstance(texts, str) else list(texts)
    others = [text for text in listed if not isinstance(text, str)]
    if others:
        raise ValueError(f"{name} must be strings; found {type(others[0]).__name__}")
    if not listed:
        raise ValueError(f"{name} is empty; give at least one string")
    return listed


def _held(pixels: Tensor) -> Tensor:
    """A tensor that holds its values one after another. Raises ValueError for another."""
    if pixels.layout != torch.strided or pixels.is_meta or pixels.is_nested or pixels.is_quantized:
        kind = "without values (meta)" if pixels.is_meta else f"of layout {pixels.layout}, {pixels.dtype}"
        raise ValueError(f"images are a tensor {kind}; give a dense tensor, as .to_dense() makes of a sparse one")
    return pixels


def _described(value: object) -> str:
    return "an empty list" if isinstance(value, list | tuple) else type(value).__name__
