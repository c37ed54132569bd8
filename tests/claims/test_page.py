"""The pages: every figure where it belongs, nothing that a browser would have to fetch."""

from __future__ import annotations

import csv
from html.parser import HTMLParser

import pytest

from silc.claims import page, plan
from silc.claims.figures import CLAIMS, Figure


@pytest.fixture
def figures() -> list[Figure]:
    """Three seeds, two sizes; SILC gains 0.1 and 0.11 over each baseline, and 0.02 more a doubling."""
    return [
        Figure(arm, pairs, seed, *claim, base + seed / 100 * (arm == plan.SILC), 0.008, pairs // 64, pairs, 2e12)
        for claim in CLAIMS
        for pairs, shift in ((640, 0.0), (1280, 0.02))
        for seed in (0, 1, 2)
        for arm in plan.ARMS
        for base in [0.2 + (0.1 + shift if arm == plan.SILC else 0.0)]
    ]


def row(text: str, section: str, start: str) -> list[str]:
    line = next(line for line in text.partition(section)[2].splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_hold_values_gains_slopes_and_costs(figures):
    text = page.markdown(figures, "Title", ["Made so."])
    name = CLAIMS["retrieval", "image_to_text_r5"]
    assert row(text, "## After 640", name)[1:] == ["0.200 ± 0.000"] * 3 + ["0.310 ± 0.006", "0.0080"]
    assert row(text, "## After 640 pairs\n", "SILC less") == ["SILC less", "clip", "clip_views", "clip_compute"]
    gains = text.partition("## After 640")[2].partition("SILC less")[2]
    assert f"| {name} | +0.110 ± 0.006 (better) |" in gains
    assert row(text, "## Scaling", name)[-1] == "+0.020 ± 0.000 (better)"
    assert row(text, "## What each run cost", "1,280 | silc") == ["1,280", "silc", "20", "1,280", "2.0"]
    assert "Made so." in text


def test_what_is_missing_is_a_dash(figures):
    some = [figure for figure in figures if figure.arm != "clip" or figure.task != "fewshot"]
    text = page.markdown(some, "Title", [])
    assert row(text, "## After 1,280", CLAIMS["fewshot", "ridge_5shot"])[1] == "-"
    assert "- (not measured)" in text


def test_a_task_that_the_data_cannot_serve_has_no_row(figures):
    text = page.markdown([figure for figure in figures if figure.task != "fewshot"], "Title", [])
    assert CLAIMS["fewshot", "ridge_5shot"] not in text
    assert CLAIMS["retrieval", "image_to_text_r5"] in text


def test_one_size_has_no_scaling(figures):
    assert "## Scaling" not in page.markdown([f for f in figures if f.pairs == 640], "Title", [])


def test_the_files(figures, tmp_path):
    page.write(figures, "A <title>", ["Made by `x`."], tmp_path)
    with (tmp_path / "claims.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(line["value"]) for line in read] == [figure.value for figure in figures]
    text = (tmp_path / "claims.html").read_text()

    tags: list[str] = []

    class Check(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            assert not {"src", "href"} & dict(attrs).keys()

    Check().feed(text)
    assert tags.count("svg") == len(CLAIMS)
    assert tags.count("table") == 6
    assert "A &lt;title&gt;" in text
    assert "**" not in text
    assert "<code>x</code>" in text
