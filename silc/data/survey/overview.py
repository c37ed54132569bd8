"""What a random sample of a set of shards looks like: sizes, formats, captions, languages, fields."""

from __future__ import annotations

import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from silc.config import Config
from silc.data.captions import CaptionReader
from silc.data.shards import Unreadable
from silc.data.shards.reader import Place, Unusable
from silc.data.shards.samples import Sample
from silc.data.survey import languages, numbers, sampling, tokens
from silc.data.survey.fields import Fields
from silc.data.survey.look import Look, look
from silc.data.survey.numbers import Bin
from silc.data.survey.tally import Tally, ranked

MOST_CAPTIONS = 200_000  # different ones that are counted at once
LONGEST = 300  # characters of a caption that are kept
FREQUENT = 10  # captions shown
IDENTIFIED = 2000  # captions whose language is estimated
SIZES = (
    "width",
    "height",
    "shorter side",
    "megapixels",
    "image bytes",
    "sample bytes",
    "captions",
    "characters",
    "tokens",
)
"""Of images as they are shown, in pixels; captions: of a sample; characters and tokens: of a caption."""
Told = Callable[[int, int, int, int], None]
"""Samples looked at, samples in all, samples again, and their bytes."""


@dataclass
class Overview:
    """What was seen.

    Attributes:
        shards, samples, size: of the whole set; size in bytes.
        lost: samples of the set that cannot be used because of how they were packed, by reason.
        members: of the set, by extension.
        unreadable: (shard, why) of shards that have no index because they cannot be read.
        sampled: samples that were looked at.
        seed: by which they were drawn.
        faults: of these, by reason; images by their headers only.
        tally: of their images.
        sizes: quantiles by name, see numbers.SHARES.
        megapixels, ratios: histograms, of images as they are shown.
        small: images with a side shorter than the global crops, and the size of these.
        captions: of the sampled samples; several: samples with more than one.
        context: tokens that the model reads, and how many captions have more.
        frequent: (times, caption) of those that come more than once.
        scripts, languages: of `identified` captions; languages: None without py3langid.
        fields: of the JSON members, see :class:`silc.data.survey.fields.Fields`.
        with_json: samples that have one.
    """

    shards: int = 0
    samples: int = 0
    size: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    sampled: int = 0
    seed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    sizes: dict[str, list[float]] = field(default_factory=dict)
    megapixels: list[Bin] = field(default_factory=list)
    ratios: list[Bin] = field(default_factory=list)
    small: tuple[int, int] = (0, 0)
    captions: int = 0
    several: int = 0
    context: tuple[int, int] = (0, 0)
    frequent: list[tuple[int, str]] = field(default_factory=list)
    identified: int = 0
    scripts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] | None = None
    fields: list[dict[str, Any]] = field(default_factory=list)
    with_json: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file of JSON."""
        quantiles = {
            name: dict(zip(numbers.NAMES, values, strict=True)) for name, values in self.sizes.items() if values
        }
        return {
            "shards": self.shards,
            "samples": self.samples,
            "bytes": self.size,
            "lost": ranked(self.lost),
            "members": ranked(self.members),
            "unreadable_shards": [{"shard": shard, "why": why} for shard, why in self.unreadable],
            "sampled": self.sampled,
            "seed": self.seed,
            "faults": ranked(self.faults),
            "images": self.tally.to_dict() | {"not_srgb_by_name": self.tally.not_srgb},
            "quantiles": quantiles,
            "megapixels": dict(self.megapixels),
            "width_to_height": dict(self.ratios),
            "smaller_than_global_crops": {"images": self.small[0], "side": self.small[1]},
            "captions": self.captions,
            "samples_with_several_captions": self.several,
            "longer_than_context": {"captions": self.context[1], "tokens": self.context[0]},
            "frequent_captions": [{"times": times, "caption": caption} for times, caption in self.frequent],
            "captions_identified": self.identified,
            "scripts": ranked(self.scripts),
            "languages": None if self.languages is None else ranked(self.languages),
            "samples_with_json": self.with_json,
            "json_fields": self.fields,
        }


class Survey:
    """Looks at samples one after the other, each read once and forgotten.

    Args:
        config: what training reads, and how many tokens the model has.
        identified: every how many samples the language of a caption is estimated.
    """

    def __init__(self, config: Config, identified: int) -> None:
        self._data, self._step = config.data, max(1, identified)
        self._images = [image.lower() for image in config.data.image_keys]
        self._captions = CaptionReader(config.data.caption_key, lines=config.data.caption_lines)
        self._context = config.model.text.context_length
        self._tokens = tokens.counter(config.data.tokenizer, self._context, config.data.tokenizer_clean)
        self._crop = config.views.global_size
        self._result, self._fields = Overview(), Fields()
        self._texts: Counter[tuple[str, bytes]] = Counter()
        self._identified: list[str] = []
        names = ("width", "height", "image bytes", "sample bytes", "characters", "tokens", "captions")
        self._values = {name: array("d") for name in names}

    def add(self, sample: Sample | Unusable) -> None:
        """Look at a sample."""
        result = self._result
        result.sampled += 1
        if isinstance(sample, Unusable):
            result.faults[sample.reason] += 1
            return
        self._values["sample bytes"].append(sum(map(len, sample.members.values())))
        if (member := sample.members.get("json")) is not None:
            result.with_json += 1
            self._fields.add(bytes(member))
        self._image(sample.column(self._images))
        try:
            self._caption(self._captions.read(sample.column([self._captions.extension])))
        except Unreadable as error:
            result.faults[str(error)] += 1

    def _image(self, data: bytes | None) -> None:
        try:
            seen = look(data, self._data.max_image_pixels)
        except Unreadable as error:
            self._result.faults[str(error)] += 1
            return
        self._result.tally.add(seen)
        width, height = shown_size(seen, upright=self._data.upright)
        self._values["width"].append(width)
        self._values["height"].append(height)
        self._values["image bytes"].append(len(data or b""))

    def _caption(self, texts: Sequence[str]) -> None:
        if self._result.sampled % self._step == 0:
            self._identified.append(texts[0][: languages.LONGEST])
        self._values["captions"].append(len(texts))
        for text in texts:
            self._values["characters"].append(len(text))
            self._values["tokens"].append(self._tokens(text))
            self._texts[_kept(text)] += 1
        if len(self._texts) > 2 * MOST_CAPTIONS:
            self._texts = Counter(dict(self._texts.most_common(MOST_CAPTIONS)))

    def result(self) -> Overview:
        """All together."""
        result, values = self._result, {name: np.asarray(each) for name, each in self._values.items()}
        width, height = values["width"], values["height"]
        values["shorter side"] = np.minimum(width, height)
        values["megapixels"] = width * height / 1e6
        result.sizes = {name: numbers.quantiles(values[name]) for name in SIZES}
        result.megapixels, result.ratios = numbers.megapixels(width, height), numbers.ratios(width, height)
        result.small = int(np.count_nonzero(values["shorter side"] < self._crop)), self._crop
        result.captions = len(values["tokens"])
        result.several = int(np.count_nonzero(values["captions"] > 1))
        result.context = self._context, int(np.count_nonzero(values["tokens"] > self._context))
        frequent = sorted(((times, text) for (text, _), times in self._texts.items() if times > 1), key=_most_first)
        result.frequent = frequent[:FREQUENT]
        identify = languages.identifier()
        result.identified = len(self._identified)
        result.scripts, found = languages.count(self._identified, identify)
        result.languages = None if identify is None else found
        result.fields = self._fields.to_list()
        return result


def _kept(text: str) -> tuple[str, bytes]:
    """A caption in bounded memory: its beginning, and of a long one a hash of it all."""
    if len(text) <= LONGEST:
        return text, b""
    return text[: LONGEST - 1] + "…", blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shown_size(seen: Look, *, upright: bool) -> tuple[int, int]:
    """Width and height of an image as training sees it."""
    turned = upright and seen.orientation >= 5
    return (seen.height, seen.width) if turned else (seen.width, seen.height)


def survey(
    opened: sampling.Opened, config: Config, wanted: Sequence[Place], seed: int, told: Told | None = None
) -> Overview:
    """Look at samples of a set.

    Args:
        opened: the shards.
        config: of the run that they are for.
        wanted: the samples.
        seed: by which they were drawn, for the report.
        told: how far it is.

    Raises:
        ValueError: a tokenizer that cannot be loaded.
        StoreFailed: samples cannot be read.
    """
    manifest = opened.manifest
    look_at = Survey(config, len(wanted) // IDENTIFIED)
    done = size = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of image readers, about what is counted here
        for _, sample in sampling.read(manifest, wanted):
            look_at.add(sample)
            done += 1
            size += 0 if isinstance(sample, Unusable) else sum(map(len, sample.members.values()))
            if told is not None:
                told(done, len(wanted), done, size)
    result = look_at.result()
    result.shards, result.samples = len(manifest), int(manifest.samples.sum())
    result.size, result.seed = int(manifest.sizes.sum()), seed
    result.members, result.lost = dict(manifest.extensions), dict(manifest.lost)
    result.unreadable = list(opened.unreadable)
    return result


def _most_first(item: tuple[int, str]) -> tuple[int, str]:
    return -item[0], item[1]
