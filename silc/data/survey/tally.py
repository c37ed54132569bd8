"""Counts of what was seen in samples: they add up over shards, and go to JSON and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from silc.data.survey.look import Look
from silc.data.survey.profiles import is_srgb

KINDS = 64  # values told apart of what strangers name: profiles; the rest are counted under REST
REST = "others"
_COLORS = {"L": "grey", "LA": "grey", "I": "grey", "F": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK"}


@dataclass
class Tally:
    """Of samples whose image could be looked at.

    Attributes:
        images: how many.
        formats: JPEG, PNG, ...
        colors: RGB, grey, CMYK, palette, ...
        alpha: images of which some may be transparent; they are shown on white.
        deep: of more than 8 bits a channel; they become 8.
        animated: with more frames than the first, which is used.
        orientations: by EXIF, those that are not 1.
        profiles: names of ICC profiles.
    """

    images: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    colors: Counter[str] = field(default_factory=Counter)
    alpha: int = 0
    deep: int = 0
    animated: int = 0
    orientations: Counter[str] = field(default_factory=Counter)
    profiles: Counter[str] = field(default_factory=Counter)

    def add(self, seen: Look) -> None:
        """Count an image."""
        self.images += 1
        self.formats[seen.format] += 1
        self.colors[_COLORS.get(seen.mode.partition(";")[0], "RGB" if seen.mode.startswith("RGB") else seen.mode)] += 1
        self.alpha += seen.alpha
        self.deep += seen.bits > 8
        self.animated += seen.animated
        if seen.orientation != 1:
            self.orientations[str(seen.orientation)] += 1
        if seen.profile is not None:
            self.profiles[seen.profile] += 1
            if len(self.profiles) > 4 * KINDS:
                self.profiles = capped(self.profiles)

    def update(self, other: Tally) -> None:
        """Add the counts of other samples."""
        self.images += other.images
        self.alpha += other.alpha
        self.deep += other.deep
        self.animated += other.animated
        for mine, theirs in (
            (self.formats, other.formats),
            (self.colors, other.colors),
            (self.orientations, other.orientations),
            (self.profiles, other.profiles),
        ):
            mine.update(theirs)
        if len(self.profiles) > 4 * KINDS:
            self.profiles = capped(self.profiles)

    @property
    def oriented(self) -> int:
        """Images with an EXIF orientation that turns them."""
        return self.orientations.total()

    @property
    def not_srgb(self) -> int:
        """Images with a profile that is not sRGB by its name."""
        return sum(count for name, count in self.profiles.items() if not is_srgb(name))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the most frequent first."""
        return {
            "images": self.images,
            "formats": ranked(self.formats),
            "colors": ranked(self.colors),
            "with_transparency": self.alpha,
            "more_than_8_bits": self.deep,
            "animated": self.animated,
            "exif_orientations": ranked(self.orientations),
            "icc_profiles": ranked(capped(self.profiles)),
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Tally:
        """Of plain values. Raises KeyError, TypeError or ValueError for what is none."""
        return cls(
            int(values["images"]),
            _counter(values["formats"]),
            _counter(values["colors"]),
            int(values["with_transparency"]),
            int(values["more_than_8_bits"]),
            int(values["animated"]),
            _counter(values["exif_orientations"]),
            _counter(values["icc_profiles"]),
        )


def ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first; those equally frequent by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def capped(counts: Mapping[str, int], kinds: int = KINDS) -> Counter[str]:
    """The most frequent of names that strangers gave; the others together under REST."""
    named = {name: count for name, count in ranked(counts).items() if name != REST}
    kept = Counter(dict(list(named.items())[:kinds]))
    if rest := sum(counts.values()) - kept.total():
        kept[REST] = rest
    return kept


def _counter(values: Mapping[str, Any]) -> Counter[str]:
    return Counter({str(name): int(count) for name, count in values.items()})
