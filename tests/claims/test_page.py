"""The pages: every metric where it belongs, nothing that a browser would have to fetch."""

from __future__ import annotations

import csv
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from silc.claims import page, plan
from silc.claims.metrics import CLAIMS, Measurement

from ..browser import check_page, needs_browser

COLUMNS = ["variant", "pairs", "seed", "task", "metric", "value", "chance", "steps", "seen", "flops"]


@pytest.fixture
def measured() -> list[Measurement]:
    """Three seeds, two sizes; SILC gains 0.1 and 0.11 over each baseline, and 0.02 more a doubling."""
    found = []
    for claim, seed, variant in itertools.product(CLAIMS, (0, 1, 2), plan.VARIANTS):
        for pairs, shift in ((640, 0.0), (1280, 0.02)):
            value = 0.2 + (0.1 + shift + seed / 100 if variant == plan.SILC else 0.0)
            found.append(Measurement(variant, pairs, seed, *claim, value, 0.008, pairs // 64, pairs, 2e12))
    return found


def row(text: str, section: str, start: str) -> list[str]:
    line = next(line for line in text.partition(section)[2].splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_hold_values_gains_slopes_and_costs(measured):
    text = page.markdown(measured, "Title", ["Made so."], "x")
    name = CLAIMS["retrieval", "image_to_text_r5"]
    assert row(text, "## After 640", name)[1:] == ["0.200 ± 0.000"] * 3 + ["0.310 ± 0.006", "0.0080"]
    assert row(text, "## After 640 pairs\n", "SILC minus") == ["SILC minus", "clip", "clip_views", "clip_compute"]
    gains = text.partition("## After 640")[2].partition("SILC minus")[2]
    assert f"| {name} | +0.110 ± 0.006 (better) |" in gains
    assert row(text, "## Scaling", name)[-1] == "+0.020 ± 0.000 (better)"
    assert row(text, "## What each run cost", "1,280 | silc") == ["1,280", "silc", "20", "1,280", "2.0"]
    assert "Made so." in text


def test_what_is_missing_is_a_dash(measured):
    some = [one for one in measured if one.variant != "clip" or one.task != "fewshot"]
    text = page.markdown(some, "Title", [], "x")
    assert row(text, "## After 1,280", CLAIMS["fewshot", "ridge_5shot"])[1] == "-"
    assert "- (not measured)" in text


def test_a_task_that_the_data_cannot_serve_has_no_row(measured):
    text = page.markdown([one for one in measured if one.task != "fewshot"], "Title", [], "x")
    assert CLAIMS["fewshot", "ridge_5shot"] not in text
    assert CLAIMS["retrieval", "image_to_text_r5"] in text


def test_one_size_has_no_scaling(measured):
    assert "## Scaling" not in page.markdown([one for one in measured if one.pairs == 640], "Title", [], "x")


HOSTILE = '<script>alert(1)</script> **bold** `code` [x](javascript:y) "q" | \u202eend \n# heading'


class Parsed(HTMLParser):
    """Tags, the text, and whatever could be fetched or followed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def parsed(text: str) -> Parsed:
    page = Parsed()
    page.feed(text)
    return page


def test_the_files(measured, tmp_path):
    page.write(measured, "A title", ["Made on a CPU."], tmp_path, command="x y")
    with (tmp_path / "claims.csv").open() as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == COLUMNS
    assert [float(line["value"]) for line in read] == [one.value for one in measured]
    found = parsed((tmp_path / "claims.html").read_text())
    assert found.addresses == []
    assert found.tags.count("svg") == len(CLAIMS)
    assert found.tags.count("polyline") == len(CLAIMS) * len(plan.VARIANTS)
    assert found.tags.count("table") == 6
    assert "**" not in found.text
    assert "<code>x y</code>" in (tmp_path / "claims.html").read_text()
    assert (tmp_path / "claims.md").read_text() == page.markdown(measured, "A title", ["Made on a CPU."], "x y")


def test_the_committed_results_have_the_columns_of_today():
    path = Path(__file__).resolve().parents[2] / "benchmarks/results/claims_sample_cpu/claims.csv"
    with path.open() as file:
        assert csv.DictReader(file).fieldnames == COLUMNS


def test_one_number_of_pairs_has_values_and_no_curve(measured):
    some = [one for one in measured if one.pairs == 640]
    found = parsed(page.page(some, "Title", [], "x"))
    assert "svg" not in found.tags
    assert found.text.count("0.31 at 640 pairs") == len(CLAIMS)


def test_what_comes_from_outside_is_text_in_every_place(measured):
    """Title, sentences and the command, in the page and in the Markdown as any reader of it would show it."""
    plain = parsed(page.page(measured, "t", ["a"], "c"))
    found = parsed(page.page(measured, HOSTILE, [HOSTILE], HOSTILE))
    assert found.tags == plain.tags
    assert found.addresses == []
    shown = " ".join(HOSTILE.split())
    assert re.sub(r"\s+", " ", found.text).count(shown) == 4  # title of the window and of the page, sentence, command
    text = page.markdown(measured, HOSTILE, [HOSTILE], HOSTILE)
    lenient = parsed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert {"script", "a"}.isdisjoint(lenient.tags)
    assert lenient.tags.count("h1") == 1


@needs_browser
def test_in_a_browser(measured, tmp_path):
    page.write(measured, HOSTILE, [HOSTILE], tmp_path, command="x" * 500)
    check_page(tmp_path / "claims.html", tmp_path)
