"""Crops and training pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from silc.config.fields import (
    STRICT,
    Area,
    Crops,
    Fraction,
    Minutes,
    NonNegativeFloat,
    Pixels,
    Positive,
    PositiveFloat,
    Rgb,
    Size,
    as_set,
    key,
)

Artist = Literal[
    "emojione", "fluent-emoji", "fluent-emoji-flat", "fxemoji", "noto", "noto-v1", "streamline-emojis", "twemoji"
]


@dataclass(config=STRICT, kw_only=True)
class ViewsConfig:
    """The crops of one image (SILC: 2 global views, 8 local ones)."""

    n_global: Annotated[int, Field(ge=0, le=8)] = key(2, "global crops per image; the teacher sees them all")
    n_local: Crops = key(8, "local crops per image, seen by the student alone")
    global_size: Size = key(256, "pixels per side of a global crop")
    local_size: Size = key(96, "pixels per side of a local crop")
    global_area: Area = key((0.4, 1.0), "range of a global crop's area, as a fraction of the image")
    local_area: Area = key((0.05, 0.4), "range of a local crop's area")
    flip: Fraction = key(0.5, "probability of a horizontal flip")
    photometric: bool = key(False, "DINO's list: color jitter, grey, blur, solarize")
    device: Literal["auto", "host", "device"] = key(
        "auto", "where the photometric list is computed; auto: on the device where that is a GPU, else on the host"
    )
    crops_on: Literal["host", "device"] = key(
        "host",
        "where crops are cut; device: decoded images are sent there, and host memory holds whole batches of them",
    )


@dataclass(config=STRICT, kw_only=True)
class SourceRule:
    """One source of a mixture of training pairs."""

    shards: list[str] = Field(description="as data.shards")
    weight: PositiveFloat = key(1.0, "share of the samples, relative to the other sources")


@dataclass(config=STRICT, kw_only=True)
class DataConfig:
    """Image-text pairs from WebDataset tar shards."""

    shards: list[str] = key(
        [],
        "shards, brace patterns (data/{000..099}.tar), folders or .manifest files, local or http(s)://, s3://, gs://, "
        "az://; empty: `sources`, or else the embedded sample set",
    )
    sources: list[SourceRule] = Field(
        default_factory=list,
        description="a mixture in place of `shards`, as [{shards: [/a], weight: 3}, {shards: [s3://b/c], weight: 1}]",
    )
    sample_concepts: Literal["default", "all"] = key("default", "concepts of the embedded sample set")
    sample_scenes: Positive = key(24000, "training scenes rendered from the embedded sample set")
    sample_test_scenes: Annotated[int, Field(ge=2)] = key(
        1024, "scenes of each of its test splits, half of them with one object"
    )
    sample_captions: Literal["clean", "web"] = key(
        "clean",
        "captions of its training scenes: clean ones name every object, web-like ones leave some out or are another "
        "image's",
    )
    sample_left_out: Fraction = key(0.5, "web-like captions: probability that an object is not named; one always is")
    sample_mismatched: Fraction = key(0.2, "web-like captions: share of them that is another image's")
    sample_objects: list[NonNegativeFloat] = key(
        [0.65, 0.2, 0.1, 0.05], "shares of its scenes with one, two, ... objects, up to eight"
    )
    sample_unseen: Annotated[list[Artist], AfterValidator(as_set)] = key(
        ["emojione"], "its artists that are tested on; these and EmojiOne are not trained on"
    )
    image_keys: list[str] = key(
        ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"],
        "tar member extensions that hold the image; the first one that a sample has",
    )
    caption_key: Annotated[str, Field(pattern=r"^[^:]+(:.+)?$")] = key(
        "txt", "tar member extension that holds the caption, or json:FIELD for a field of a JSON member (a.b: b in a)"
    )
    caption_lines: bool = key(
        True, "each line of a text member is a caption of its own, and one is drawn each time; false: the text is one"
    )
    tokenizer: str = key("open_clip_bpe", "open_clip's own BPE, or the name or folder of a Hugging Face tokenizer")
    tokenizer_clean: Literal["auto", "whitespace", "lower", "canonicalize"] = key(
        "auto",
        "what open_clip does to a text first; canonicalize: lower case and no punctuation, as SigLIP's; auto: lower "
        "for open_clip_bpe, for another one what its folder says (docs/data.md), or else whitespace: it is collapsed",
    )
    license: str | None = key(None, "licence of the training data, for the card of an exported model")
    workers: Annotated[int, Field(ge=0, le=4096)] = key(4, "decoding processes per rank")
    worker_start: Literal["auto", "fork", "forkserver", "spawn"] = key(
        "auto", "how these are started; auto: fork where that is safe, else forkserver"
    )
    prefetch: Positive = key(2, "batches each worker keeps ready")
    shuffle_block: Positive = key(8192, "samples shuffled together, rounded up to whole global batches")
    unique_captions: bool = key(False, "keep equal captions out of one global batch where the shuffle block allows")
    mean: Rgb = key((0.5, 0.5, 0.5), "pixel mean on [0, 1], folded into the patch embedding")
    std: Rgb = key((0.5, 0.5, 0.5), "pixel standard deviation on [0, 1]")
    max_image_pixels: Pixels = key(89_478_485, "larger images and masks are skipped before they are decoded")
    upright: bool = key(True, "turn images as their EXIF orientation says, as viewers show them")
    max_skipped: Fraction = key(0.1, "share of recent samples that may be skipped as unreadable before the run stops")
    store_minutes: Minutes = key(10.0, "how long a file or remote store may fail before the run stops")
    cache: str | None = key(
        None, "folder in which the ranks of a machine keep what they read of remote shards; null: none"
    )
    cache_gb: Annotated[float, Field(gt=0, le=1e7)] = key(
        100.0, "upper limit of that folder in GB; the oldest goes first"
    )
    allow_changed: bool = key(
        False,
        "resume although shards, weights or the version of the order changed; samples may repeat or be left out",
    )
