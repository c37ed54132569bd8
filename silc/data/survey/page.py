"""The survey as a page that holds everything itself: nothing is fetched, no script runs, whatever a caption holds."""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from silc.data.survey import numbers
from silc.data.survey.facts import number, share
from silc.data.survey.overview import Overview
from silc.data.survey.pictures import Picture
from silc.data.survey.profiles import is_srgb
from silc.data.survey.tally import ranked
from silc.files import write_text
from silc.text import plural

TEMPLATES = Path(__file__).parent / "templates"
LONGEST = 600  # characters shown of a caption
CAPTIONS = 5  # shown of a sample
ROWS = 12  # of a list of counts
QUALITY = 85  # of JPEG
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True)
class Row:
    """Of a list of counts: a name, a count, and the bar's width in percent of the widest."""

    name: str
    count: int
    width: float


@dataclass(frozen=True)
class Block:
    """A list of counts under a heading, and of what its shares are."""

    title: str
    rows: list[Row]
    total: int


def write(path: Path, title: str, facts: Sequence[str], found: Overview, pictures: Sequence[Picture]) -> None:
    """Write the page.

    Args:
        path: of the file; its folder must exist.
        title: which shards.
        facts: sentences about them.
        found: what was seen.
        pictures: shown.

    Raises OSError.
    """
    template = _environment().get_template("show.html.j2")
    text = template.render(
        title=title,
        facts=facts,
        found=found,
        quantiles=[(name, values) for name, values in found.sizes.items() if values],
        shares=numbers.NAMES,
        blocks=_blocks(found),
        pictures=pictures,
        most=CAPTIONS,
    )
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))  # halves of surrogate pairs


def _blocks(found: Overview) -> list[Block]:
    tally, images = found.tally, found.tally.images
    kinds = {
        "animated (first frame used)": tally.animated,
        "turned by EXIF": tally.oriented,
        "with transparency": tally.alpha,
        "of more than 8 bits": tally.deep,
    }
    profiles = {name if is_srgb(name) else f"{name} (not sRGB)": count for name, count in tally.profiles.items()}
    blocks = [
        Block("megapixels", _rows(dict(found.megapixels), ordered=True), images),
        Block("width to height", _rows(dict(found.ratios), ordered=True), images),
        Block("formats", _rows(tally.formats), images),
        Block("colors", _rows(tally.colors), images),
        Block("odd images", _rows({name: count for name, count in kinds.items() if count}), images),
        Block("color profiles (ignored by training)", _rows(profiles), images),
        Block("scripts of captions (estimate)", _rows(found.scripts), found.identified),
        Block("languages of captions (estimate)", _rows(found.languages or {}), found.identified),
        Block("members", _rows(found.members), found.samples),
        Block("damage", _rows(found.faults), found.sampled),
    ]
    return [block for block in blocks if block.rows]


def _rows(counts: dict[str, int], *, ordered: bool = False) -> list[Row]:
    items = list((counts if ordered else ranked(counts)).items())
    shown = items if ordered else items[:ROWS]
    if rest := sum(count for _, count in items[len(shown) :]):
        shown.append((plural(len(items) - ROWS, "other"), rest))
    most = max((count for _, count in shown), default=0)
    return [Row(name, count, 100 * count / most if most else 0.0) for name, count in shown]


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"short": short, "number": number, "share": share, "data_uri": data_uri, "plural": plural}
    return environment


def short(text: str, longest: int = LONGEST) -> str:
    """On one line, cut where it is longer than `longest` characters."""
    line = _CONTROLS.sub(" ", text[: longest + 1])
    return line if len(text) <= longest else line[: longest - 1] + "…"


def data_uri(pixels: np.ndarray) -> str:
    """An address that holds the image, uint8 [h, w, 3]."""
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
