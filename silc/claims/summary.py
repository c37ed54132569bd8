"""Where SILC is ahead and where not, in words computed from the numbers, and how many verdicts chance alone gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from silc.claims.eval_sets import MAIN
from silc.claims.metrics import (
    AVERAGED,
    BASELINES,
    CLAIMS,
    WHERE,
    Measurement,
    columns,
    data_sets,
    known,
    on,
)
from silc.claims.statistics import DECIDE, Mean, beyond, by_chance, gain, sizes, steeper, verdict
from silc.text import plural

AGAINST = ("clip", "clip_views")


def summary(measured: Sequence[Measurement]) -> list[str]:
    """A sentence or two for each test set and each baseline of AGAINST, at the largest number of pairs at which there
    are seeds enough."""
    found = []
    for data in data_sets(measured):
        here = on(measured, data)
        where = "" if data == MAIN else f", test set {data}"
        found += [_against(here, baseline, where) for baseline in AGAINST if baseline in columns(here)]
    return found


def judged(measured: Sequence[Measurement]) -> list[Mean]:
    """The differences that the words judge."""
    found = []
    for here in (on(measured, data) for data in data_sets(measured)):
        for baseline in AGAINST:
            _, gains = _largest(here, baseline)
            found += [one for one in gains.values() if one.seeds >= DECIDE]
    return found


def _largest(measured: Sequence[Measurement], baseline: str) -> tuple[int, dict[str, Mean]]:
    """The number of pairs that is judged, and what SILC gains there, by name of the metric.

    The largest with DECIDE seeds of both in some metric, else the largest: its first runs must not hide what smaller
    sizes have decided.
    """
    claims = known(measured, CLAIMS | WHERE)
    by_size = []
    for pairs in reversed(sizes(measured)):
        gains = {name: gain(measured, baseline, claim, pairs) for claim, name in claims.items()}
        by_size.append((pairs, {name: one for name, one in gains.items() if one is not None}))
    enough = (one for one in by_size if any(each.seeds >= DECIDE for each in one[1].values()))
    return next(enough, by_size[0])


def _against(measured: Sequence[Measurement], baseline: str, where: str) -> str:
    pairs, gains = _largest(measured, baseline)
    head = f"After {pairs:,} pairs{where}, silc against {baseline}"
    some = {name: one for name, one in gains.items() if one.seeds >= DECIDE}
    if not some:
        most = max((one.seeds for one in gains.values()), default=0)
        return f"{head}: {plural(most, 'seed')} of both, which decides nothing."
    counts = sorted({one.seeds for one in some.values()})
    seeds = plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    words = {1: "more than two standard errors above", 0: "within two standard errors", -1: "more than two below"}
    parts = []
    for side, text in words.items():
        names = [f"{name} ({one.value:+.3f})" for name, one in some.items() if beyond(one) == side]
        parts.append(f"{text}: {'; '.join(names) or 'none'}")
    few = [name for name in gains if name not in some]
    if few:
        parts.append(f"not judged, with fewer than {DECIDE} seeds: {'; '.join(few)}")
    decided = [f"{name} ({verdict(one)})" for name, one in some.items() if verdict(one) in ("better", "worse")]
    interval = f"The 95 % t interval leaves out zero for: {'; '.join(decided) or 'none'}."
    return ". ".join([f"{head}, {seeds}: {parts[0]}", *map(_capital, parts[1:]), interval])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def tested(measured: Sequence[Measurement]) -> list[Mean]:
    """The differences that have a verdict in the tables of the page, those of slopes too."""
    found: list[Mean | None] = []
    for data in data_sets(measured):
        here = on(measured, data)
        claims, shown = known(here, CLAIMS | WHERE), sizes(here)
        for pairs in shown if data == MAIN else shown[-1:]:
            found += [gain(here, one, claim, pairs) for one in BASELINES for claim in claims]
            found += [gain(here, AVERAGED[1], claim, pairs, ours=AVERAGED[0]) for claim in claims]
        if data == MAIN:
            found += [steeper(here, one, claim) for one in AGAINST for claim in claims]
    return [one for one in found if one is not None and one.seeds >= DECIDE]


def false_positives(differences: Iterable[Mean]) -> float:
    """How many of them would lie beyond two standard errors by chance, were there no difference at all."""
    return sum(by_chance(one.seeds - 1) for one in differences)
