"""The tables of the page: values, what SILC gains, noise, slopes and costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from silc.claims.eval_sets import MAIN
from silc.claims.metrics import (
    AVERAGED,
    BASELINES,
    CLAIMS,
    WHERE,
    Claim,
    Measurement,
    columns,
    data_sets,
    known,
    on,
    select,
)
from silc.claims.plan import SILC, VARIANTS
from silc.claims.statistics import Mean, Noise, column_mean, gain, mean, noise, sizes, slope, steeper, verdict
from silc.claims.summary import AGAINST, false_positives, judged, summary, tested

BLOCKS = {"The seven claims": CLAIMS, "Where, not what: among the classes present in the image": WHERE}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row names it. title: plain text, or empty."""

    title: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A heading, sentences in plain text, and tables."""

    title: str
    sentences: list[str]
    tables: list[Table]


def sections(measured: Sequence[Measurement]) -> Iterator[Section]:
    """All sections of the page; the noise comes before any comparison."""
    names = data_sets(measured)
    yield _noise_section(measured)
    yield Section("In words", [*summary(measured), _number_of_comparisons(measured)], [])
    for data in names:
        here = on(measured, data)
        for pairs in _shown(here, data):
            where = "" if data == MAIN else f"Test set {data}, "
            title = f"after {pairs:,} pairs"
            yield Section(where + title if where else title.capitalize(), [], list(_comparison(here, pairs)))
    own = on(measured, MAIN)
    if len(sizes(own)) > 1:
        points = ", ".join(f"{pairs:,}" for pairs in sizes(own))
        said = f"Slopes by least squares over {points} pairs, of the seeds that have every one of these sizes."
        yield Section("Scaling: what a doubling of the pairs adds", [said], list(_scaling(own)))
    yield Section("What each run cost", [], [_costs(measured)])


def _shown(measured: Sequence[Measurement], data: str) -> list[int]:
    """The sizes that a test set is shown at, the largest first; of a further one the largest alone."""
    found = sizes(measured)[::-1]
    return found if data == MAIN else found[:1]


def _number_of_comparisons(measured: Sequence[Measurement]) -> str:
    in_words, in_tables = judged(measured), tested(measured)
    if not in_tables:
        return "No difference below is tested yet: that takes three seeds of SILC and of a baseline."
    return (
        f"Each difference is judged for itself. Were there none at all, of the {len(in_words)} in the words above "
        f"about {false_positives(in_words):.1f} would lie beyond two standard errors by chance, which with three seeds "
        f"18 % do, and of the {len(in_tables)} in the tables below, those of slopes too, about "
        f"{0.05 * len(in_tables):.1f} would have an interval that leaves out zero."
    )


def _noise_section(measured: Sequence[Measurement]) -> Section:
    tables = []
    for data in data_sets(measured):
        here = on(measured, data)
        for pairs in _shown(here, data):
            title = f"After {pairs:,} pairs" if data == MAIN else f"Test set {data}, after {pairs:,} pairs"
            tables.append(Table(title, _NOISE_HEAD, list(_noise_rows(here, pairs))))
    sentences = [
        "sd between seeds: standard deviation of one run's figure, pooled over the columns; of SILC minus clip: of the "
        "difference of two runs with the same seed.",
        "Bootstrap error: of one run's figure, over the test images. Share: its square over the variance between "
        "seeds, which have the same test images: the most that these can explain.",
    ]
    return Section("Noise", sentences, tables)


_NOISE_HEAD = ["measure", "sd between seeds", "sd of SILC minus clip", "bootstrap error", "share"]


def _noise_rows(measured: Sequence[Measurement], pairs: int) -> Iterator[list[str]]:
    for claim, name in known(measured, CLAIMS | WHERE).items():
        found: Noise = noise(measured, claim, pairs)
        numbers = (found.seeds, found.difference, found.images)
        share = "-" if found.share is None else f"{found.share:.0%}"
        yield [name, *("-" if value is None else f"{value:.4f}" for value in numbers), share]


def _comparison(measured: Sequence[Measurement], pairs: int) -> Iterator[Table]:
    """Values and gains of each block of metrics."""
    for title, block in BLOCKS.items():
        claims = known(measured, block)
        if claims:
            yield _values(measured, pairs, claims, title)
            yield _gains(measured, pairs, claims)


def _values(measured: Sequence[Measurement], pairs: int, claims: dict[Claim, str], title: str) -> Table:
    names = columns(measured)
    rows = []
    for claim, name in claims.items():
        found = [one for column in names for one in select(measured, column, claim, pairs).values()]
        chances = [one.chance for one in found if one.chance is not None]
        cells = [_cell(column_mean(measured, column, claim, pairs)) for column in names]
        rows.append([name, *cells, f"{chances[0]:.4f}" if chances else ""])
    return Table(title, ["metric", *names, "chance"], rows)


def _gains(measured: Sequence[Measurement], pairs: int, claims: dict[Claim, str]) -> Table:
    have = columns(measured)
    baselines = [column for column in BASELINES if column in have]
    averaged = all(column in have for column in AVERAGED)
    rows = []
    for claim, name in claims.items():
        found = [gain(measured, baseline, claim, pairs) for baseline in baselines]
        found += [gain(measured, AVERAGED[1], claim, pairs, ours=AVERAGED[0])] if averaged else []
        rows.append([name, *map(_judged, found)])
    more = [f"{AVERAGED[0]} minus {AVERAGED[1]}"] if averaged else []
    return Table("", [f"{SILC} minus", *baselines, *more], rows)


def _scaling(measured: Sequence[Measurement]) -> Iterator[Table]:
    have = columns(measured)
    shown = [column for column in (*BASELINES, SILC) if column in have]
    against = [column for column in AGAINST if column in have]
    for title, block in BLOCKS.items():
        rows = []
        for claim, name in known(measured, block).items():
            slopes = [list(slope(measured, column, claim).values()) for column in shown]
            cells = [_cell(mean(each) if each else None, sign=True) for each in slopes]
            rows.append([name, *cells, *(_judged(steeper(measured, baseline, claim)) for baseline in against)])
        if rows:
            yield Table(title, ["metric", *shown, *(f"{SILC} minus {column}" for column in against)], rows)


def _costs(measured: Sequence[Measurement]) -> Table:
    order = list(VARIANTS)
    runs = {(one.pairs, order.index(one.variant)): one for one in measured}
    rows = [
        [f"{one.pairs:,}", one.variant, f"{one.steps:,}", f"{one.seen:,}", f"{one.flops / 1e12:,.1f}"]
        for _, one in sorted(runs.items(), key=lambda item: item[0])
    ]
    return Table("", ["after pairs", "run", "steps", "pairs seen", "TFLOP"], rows)


def _judged(difference: Mean | None) -> str:
    return f"{_cell(difference, sign=True)} ({verdict(difference)})"


def _cell(value: Mean | None, *, sign: bool = False) -> str:
    """A mean with half of its 95 % t interval and its number of seeds."""
    if value is None:
        return "-"
    error = "" if value.half is None else f" ± {value.half:.3f}"
    return f"{value.value:{'+' if sign else ''}.3f}{error}, n={value.seeds}"
