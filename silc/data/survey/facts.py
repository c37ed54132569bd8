"""A survey in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from silc.data.shards.errors import few, shorten
from silc.data.survey import numbers
from silc.data.survey.overview import Overview
from silc.data.survey.tally import ranked
from silc.text import plural

SHOWN = 60  # characters of a caption


def facts(found: Overview, *, tables: bool = False) -> Iterator[str]:
    """What was seen, in lines of bounded number and length.

    tables: quantiles, histograms and lists of counts stand in tables beside, and are left out.
    """
    members = few([f"{name} {count:,}" for name, count in ranked(found.members).items()])
    yield (
        f"{plural(found.samples, 'sample')} in {plural(found.shards, 'shard')}, {found.size / 1e9:.2f} GB"
        + ("" if tables else f"; members: {members}")
    )
    if found.lost:
        yield f"cannot be used because of how they were packed: {_shares(found.lost, 0)}"
    if found.unreadable:
        shown = few([f"{shard}: {why}" for shard, why in found.unreadable])
        yield f"{plural(len(found.unreadable), 'shard')} cannot be read: {shown}"
    if not found.sampled:
        return
    every = found.sampled == found.samples
    drawn = "all samples" if every else f"{plural(found.sampled, 'random sample')} (seed {found.seed})"
    yield f"looked at: {drawn}, images by their headers; `silc shards check` decodes every one"
    if found.faults:
        yield f"not usable: {_shares(found.faults, found.sampled)}"
    yield from _images(found, tables)
    yield from _captions(found, tables)
    if found.fields and not tables:
        names = [str(each["field"]) for each in found.fields if each["texts"]]
        yield (
            f"{plural(found.with_json, 'sample')} with json; fields of text: {few(names) or 'none'} "
            "(data.caption_key=json:FIELD)"
        )


def _images(found: Overview, tables: bool) -> Iterator[str]:
    tally = found.tally
    if not tally.images:
        return
    if not tables:
        yield f"formats: {_shares(tally.formats, tally.images)}; colors: {_shares(tally.colors, tally.images)}"
        for name in ("width", "height", "megapixels", "image bytes"):
            yield _quantiles(found, name)
        yield f"megapixels: {_bins(dict(found.megapixels), tally.images)}"
        yield f"width to height: {_bins(dict(found.ratios), tally.images)}"
    small, side = found.small
    if small:
        crops = f"the global crops (views.global_size={side})"
        yield f"{_share(small, tally.images)} of the images have a side shorter than {crops}"
    for count, words in (
        (tally.animated, "are animated or have several pages: the first is used"),
        (tally.oriented, "are turned by EXIF: as data.upright says"),
        (tally.alpha, "may be transparent: shown on white"),
        (tally.deep, "have more than 8 bits a channel: they become 8"),
        (tally.not_srgb, "have a color profile that is not sRGB by its name: training ignores profiles"),
    ):
        if count:
            yield f"{_share(count, tally.images)} of the images {words}"


def _captions(found: Overview, tables: bool) -> Iterator[str]:
    if not found.captions:
        return
    several = f"; {plural(found.several, 'sample')} with several" if found.several else ""
    yield f"{plural(found.captions, 'caption')}{several}"
    if not tables:
        for name in ("characters", "tokens", *(("captions",) if found.several else ())):
            yield _quantiles(found, name)
    context, longer = found.context
    yield f"{_share(longer, found.captions)} of the captions are longer than the {context} tokens that the model reads"
    if tables:
        return
    if found.frequent:
        most = [f"{times:,} x {shorten(text[:SHOWN])}" for times, text in found.frequent[:5]]
        yield f"most frequent captions: {'; '.join(most)}"
    estimate = f"(an estimate over {plural(found.identified, 'caption')})"
    yield f"scripts: {_shares(found.scripts, found.identified)} {estimate}"
    if found.languages is None:
        yield "languages: install py3langid for them (pip install 'silc[pack]')"
    else:
        yield f"languages: {_shares(found.languages, found.identified)} {estimate}"


def _quantiles(found: Overview, name: str) -> str:
    pairs = zip(numbers.NAMES, found.sizes.get(name, []), strict=False)
    return f"{name}: " + ", ".join(f"{share} {number(value)}" for share, value in pairs)


def number(value: float) -> str:
    """All digits of a whole or large number, else three."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def share(count: int, total: int) -> str:
    """In percent; empty where there is no total."""
    if not total:
        return ""
    if not count:
        return "0 %"
    percent = 100 * count / total
    if percent < 0.05:
        return "< 0.1 %"
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def _share(count: int, total: int) -> str:
    return f"{count:,} ({share(count, total)})" if count else "0"


def _shares(counts: Mapping[str, int], total: int) -> str:
    return _bins(ranked(counts), total)


def _bins(counts: Mapping[str, int], total: int) -> str:
    """In the order given; few() would cut a histogram."""
    items = [f"{shorten(name)} {_share(count, total) if total else f'{count:,}'}" for name, count in counts.items()]
    return ", ".join(items[:12]) + (f" and {len(items) - 12} more" if len(items) > 12 else "")
