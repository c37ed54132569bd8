"""Monitors warn early and with numbers, once for each trouble, and not of what is healthy."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc import config_io
from silc.config import Config
from silc.train.watch import FEWEST, LONGEST, Watch, recent

CURVE = Path(__file__).with_name(
    "curve_sample.csv"
)  # of `silc train train.log_every=2`, the sample preset on two cores


def config(*words: str) -> Config:
    return config_io.override(Config(), ["train.log_every=1", "watch.grace_steps=0", *words])


def look(watch: Watch, values: Iterable[float], name: str = "loss_contrastive", first: int = 1) -> dict[int, list[str]]:
    """Lines by step, of the steps that have any."""
    lines = {}
    for step, value in enumerate(values, start=first):
        lines[step] = watch.look(step, {"loss": 1.0, name: value})
    return {step: said for step, said in lines.items() if said}


def series(length: int, seed: int, level: float, noise: float) -> np.ndarray:
    return level + noise * np.random.default_rng(seed).standard_normal(length)


LEVELS = st.floats(0.01, 20)
SEEDS = st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(SEEDS, LEVELS, st.floats(0, 0.3), st.integers(FEWEST, 200))
def test_a_level_with_noise_is_healthy(seed, level, noise, length):
    assert look(Watch(config()), series(length, seed, level, noise)) == {}


@settings(max_examples=60, deadline=None)
@given(SEEDS, LEVELS, st.floats(0.5, 200), st.floats(0, 0.02), st.booleans())
def test_a_loss_that_falls_or_rises_slowly_is_healthy(seed, level, pace, noise, rises):
    """Exponentially towards a level, or along a line: a warm-up, a schedule, a teacher that sharpens."""
    steps = np.arange(150)
    curve = level * (1 + steps / 100) if rises else level * (0.1 + np.exp(-steps / pace))
    assert look(Watch(config()), curve + series(150, seed, 0, noise * level)) == {}


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0.05, 20), st.floats(0, 0.03), st.integers(FEWEST, 120), st.floats(1.6, 100))
def test_a_spike_is_named_at_its_step_with_its_numbers(seed, level, noise, at, times):
    values = series(at + 20, seed, level, noise * level)
    values[at] = times * level + 0.2
    watch = Watch(config())
    lines = look(watch, values)
    assert list(lines) == [at + 1]
    (line,) = lines[at + 1]
    before = values[max(0, at - 50) : at]
    median = np.median(before)
    numbers = f"{values[at]:.4g} at step {at + 1}, the median of the last {len(before)} intervals is {median:.4g}"
    assert line.startswith(f"warning: loss_contrastive {numbers} (")
    away = abs(before - median)
    normal = NormalDist()
    by_half = np.median(away) / normal.inv_cdf(0.75)
    by_most = np.quantile(away, 0.9, method="inverted_cdf") / normal.inv_cdf(0.95)
    above = (values[at] - median) / max(by_half, by_most, 0.02 * median, 0.01)
    shown = re.search(r"\((\S+) deviations\): if it lasts, lower optim\.lr", line)
    assert float(shown[1]) == pytest.approx(above, rel=2e-3, abs=0.06)


def test_too_few_intervals_are_no_measure():
    assert look(Watch(config()), [1.0] * (FEWEST - 1) + [50.0]) == {}
    assert list(look(Watch(config()), [1.0] * FEWEST + [50.0])) == [FEWEST + 1]


def test_a_trouble_is_said_once_and_again_after_it_was_good_for_a_while():
    spike, good = [9.0] * 4, [1.0, 1.1] * 10
    assert list(look(Watch(config()), good + spike + good + spike)) == [21, 45]
    flapping = [9.0, 1.0, 9.0, 1.0, 1.1, 9.0]
    assert list(look(Watch(config()), good + flapping)) == [21]


def test_the_flag_holds_as_long_as_the_trouble():
    watch, active = Watch(config()), []
    for step, value in enumerate([1.0] * 20 + [9.0] * 3 + [1.0] * 2):
        watch.look(step, {"loss": 1.0, "loss_contrastive": value})
        active.append(watch.active)
    assert active == [0] * 20 + [1] * 3 + [0] * 2


def test_a_spike_that_lasts_is_told_once_with_the_step_before_it():
    watch, told = Watch(config("watch.lasting=3"), 0), {}
    for step, value in enumerate([1.0] * 20 + [9.0] * 2 + [1.0] + [8.0] * 5, start=1):
        watch.look(step, {"loss": 1.0, "loss_distill": value})
        if watch.lasting is not None:
            told[step] = (watch.lasting, watch.good_until)
    ((step, (what, good)),) = told.items()
    assert (step, good) == (26, 23)
    assert what.startswith("loss_distill 8 at step 26, the median of the last 21 intervals is 1 (")


def test_a_new_level_becomes_the_measure():
    """Distillation with another temperature, say: no run is in trouble for ever."""
    watch = Watch(config())
    assert list(look(watch, [1.0] * 60 + [9.0] * 60)) == [61]
    assert watch.active == 0


def test_a_loss_that_begins_late_has_a_measure_of_its_own():
    watch = Watch(config())
    for step in range(30):
        assert watch.look(step, {"loss": 1.0, "loss_contrastive": 1.0}) == []
    for step in range(30, 60):
        assert watch.look(step, {"loss": 9.0, "loss_contrastive": 1.0, "loss_distill": 8.0}) == []


@pytest.mark.parametrize(("value", "said"), [(9.9, False), (30.0, True)])
def test_a_gradient_norm_must_be_many_times_the_median(value, said):
    quiet = [1.0, 1.1, 0.9, 1.0] * 10
    lines = look(Watch(config("optim.clip=2")), [*quiet, value], "grad_norm")
    assert (41 in lines) == said
    if said:
        numbers = "gradient norm 30 at step 41, the median of the last 40 intervals is 1 (30 times that)"
        assert lines[41][0].startswith(f"warning: {numbers}: optim.clip=2 limits it")


def test_a_gradient_norm_that_varies_much_needs_more():
    wide = list(np.exp(1.5 * np.random.default_rng(0).standard_normal(200)))
    assert look(Watch(config()), wide, "grad_norm") == {}


@pytest.mark.parametrize(
    ("entropy", "words"),
    [
        (
            0.01,
            "0.01 at step 3, near 0: it answers with one prototype: raise objective.teacher_temp",
        ),
        (11.0, "11 at step 3, near log K = 11.09: it answers everything alike: lower"),
        (0.3, None),
        (10.8, None),
        (5.0, None),
    ],
)
def test_a_teacher_that_collapses_either_way(entropy, words):
    """K = 65536; from the third interval in a row on."""
    lines = look(Watch(config()), [entropy] * 10, "teacher_entropy")
    assert list(lines) == ([3] if words else [])
    if words:
        assert lines[3][0].startswith(f"warning: teacher entropy {words}")


def test_the_entropy_has_a_grace_after_distillation_starts():
    plain = "train.steps=1000", "objective.distill_start=0.1", "optim.warmup_steps=200", "optim.cooldown_steps=0"
    assert list(look(Watch(config(*plain, "watch.grace_steps=50")), [0.0] * 400, "teacher_entropy")) == [152]
    assert list(look(Watch(config(*plain, "watch.grace_steps=null")), [0.0] * 400, "teacher_entropy")) == [202]
    long = config(*plain, "watch.grace_steps=null", "optim.warmup_steps=800")
    assert list(look(Watch(long), [0.0] * 400, "teacher_entropy")) == [302]


def test_a_scale_at_its_limit_for_long():
    lines = look(Watch(config("watch.window=20")), [99.5] + [99.99] * 30, "logit_scale")
    assert list(lines) == [21]
    assert lines[21][0].startswith("warning: logit scale 99.99 at step 21, for 20 intervals at its limit")
    assert look(Watch(config("watch.window=20")), ([99.99] * 15 + [90.0]) * 9, "logit_scale") == {}


def test_slowness_that_lasts_and_what_it_waits_for():
    def lines(waiting: float) -> dict[int, str]:
        watch = Watch(config())
        found = {}
        for step, rate in enumerate([100.0] * 20 + [30.0] + [100.0] * 5 + [30.0] * 5):
            values = {"loss": 1.0, "samples_per_second": rate, "waiting_for_data": waiting}
            for line in watch.look(step, values):
                found[step] = line
        return found

    assert list(lines(0.9)) == [28]
    assert lines(0.9)[28].startswith(
        "warning: 30 samples a second at step 28, the median of the last 28 intervals is 100"
    )
    assert "data wait 90%: more data.workers" in lines(0.9)[28]
    assert "other jobs" in lines(0.1)[28]


def test_it_can_be_switched_off_and_other_rows_are_passed_over():
    off = Watch(config("watch.enabled=false"))
    assert look(off, [1.0] * 20 + [99.0] * 9) == {}
    assert (off.active, off.lasting) == (0, None)
    on = Watch(config())
    look(on, [1.0] * 20)
    for values in (
        {"eval/top1": 0.5},
        {"loss": None, "loss_contrastive": None},
        {"loss": 1.0, "loss_contrastive": math.nan},
    ):
        assert on.look(21, values) == []


def curve() -> list[dict[str, float]]:
    with CURVE.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("every", [1, 2, 5, 10])
def test_the_projects_own_run_raises_no_alarm(every):
    """A whole run of the sample preset, as it would have been logged every 2, 4, 10 and 20 steps."""
    rows = curve()
    assert (len(rows), rows[-1]["step"]) == (250, 500)
    watch = Watch(config_io.load_config("sample", []))
    for at in range(0, len(rows), every):
        part = rows[at : at + every]
        losses = {name: sum(row[name] for row in part) / every for name in ("loss_contrastive", "loss_distill")}
        assert watch.look(int(part[-1]["step"]), part[-1] | losses | {"loss": sum(losses.values())}) == []
        assert watch.active == 0


def rows_of(values: Iterable[float]) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 1.0, "loss_contrastive": value} for step, value in enumerate(values, start=1)]


def test_a_run_that_goes_on_knows_the_intervals_before_and_what_was_said():
    whole, parts = Watch(config()), Watch(config(), 24)
    values = [*series(20, 0, 3, 0.1), 9.0, 9.1, 9.2, 9.0]
    look(whole, values)
    parts.remember(rows_of(values))
    rest = [9.0, 9.0, *series(20, 1, 3, 0.1), 9.0]
    assert look(parts, rest, first=25) == look(whole, rest, first=25)
    assert list(look(Watch(config()), rest, first=25)) == [47]  # which has no measure before


def test_losses_of_other_settings_and_the_speed_of_other_machines_are_no_measure():
    watch = Watch(config())
    rows = [row | {"samples_per_second": 1000.0} for row in rows_of([1.0] * 30)]
    rows[14]["resumed"] = {"objective.teacher_temp": [0.04, 0.1]}
    watch.remember(rows)
    line = look(watch, [9.0], first=31)[31][0]
    assert "the median of the last 16 intervals" in line
    values = {"loss": 1.0, "samples_per_second": 10.0}
    assert [watch.look(step, values) for step in range(32, 40)] == [[]] * 8


def test_only_the_end_of_a_log_is_read_and_damage_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert recent(path, 5) == []
    good = [json.dumps(row) for row in rows_of([1.0] * 9)]
    bad = ["[1]", '{"step": "3"}', "\xff", "[" * 100_000, '{"step": 4, "lo']
    path.write_bytes(b"x" * LONGEST + b"\n" + "\n".join([*good, *bad]).encode("latin-1"))
    assert recent(path, 5) == rows_of([1.0] * 9)[-5:]
    path.write_bytes(b"\n".join([*(line.encode() for line in good), b"x" * 2 * LONGEST]))
    assert recent(path, 5) == []
