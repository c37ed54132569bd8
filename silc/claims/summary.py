"""Where SILC is ahead and where not, in words computed from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from silc.claims.eval_sets import MAIN
from silc.claims.metrics import BASELINES, CLAIMS, WHERE, Measurement, columns, data_sets, known, on
from silc.claims.statistics import DECIDE, beyond, gain, verdict
from silc.text import plural

AGAINST = ("clip", "clip_views")


def summary(measured: Sequence[Measurement]) -> list[str]:
    """A sentence or two for each test set and each baseline of AGAINST, at the largest number of pairs."""
    found = []
    for data in data_sets(measured):
        here = on(measured, data)
        pairs = max(one.pairs for one in here)
        where = f"After {pairs:,} pairs" + ("" if data == MAIN else f", test set {data}")
        found += [_against(here, baseline, pairs, where) for baseline in AGAINST if baseline in columns(here)]
    return found


def _against(measured: Sequence[Measurement], baseline: str, pairs: int, where: str) -> str:
    gains = {name: gain(measured, baseline, claim, pairs) for claim, name in known(measured, CLAIMS | WHERE).items()}
    some = {name: one for name, one in gains.items() if one is not None}
    seeds = min((one.seeds for one in some.values()), default=0)
    if seeds < DECIDE:
        return f"{where}, silc against {baseline}: {plural(seeds, 'seed')} of both, which decides nothing."
    words = {1: "more than two standard errors above", 0: "within two standard errors", -1: "more than two below"}
    parts = []
    for side, text in words.items():
        names = [f"{name} ({one.value:+.3f})" for name, one in some.items() if beyond(one) == side]
        parts.append(f"{text}: {'; '.join(names) or 'none'}")
    decided = [f"{name} ({verdict(one)})" for name, one in some.items() if verdict(one) in ("better", "worse")]
    interval = f"The 95 % t interval leaves out zero for: {'; '.join(decided) or 'none'}."
    head = f"{where}, silc against {baseline}, {plural(seeds, 'seed')}"
    return ". ".join([f"{head}: {parts[0]}", *map(_capital, parts[1:]), interval])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def comparisons(measured: Sequence[Measurement]) -> int:
    """How many differences of SILC and a baseline are tested on the page, those of slopes left aside."""
    count = 0
    for data in data_sets(measured):
        here = on(measured, data)
        sizes = sorted({one.pairs for one in here}, reverse=True)
        for pairs in sizes if data == MAIN else sizes[:1]:
            found = [gain(here, one, claim, pairs) for one in BASELINES for claim in known(here, CLAIMS | WHERE)]
            count += sum(one is not None and one.seeds >= DECIDE for one in found)
    return count
