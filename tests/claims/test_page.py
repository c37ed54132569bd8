"""The pages: every metric where it belongs, nothing that a browser would have to fetch."""

from __future__ import annotations

import csv
import itertools
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from scipy import stats

from silc.claims import curves, page, plan
from silc.claims.metrics import BASELINES, CLAIMS, WHERE, Measurement
from silc.claims.origin import Origin, sentence

from ..browser import check_page, needs_browser

COLUMNS = [
    *("variant", "pairs", "seed", "model", "data", "task", "metric", "value", "chance", "error", "steps", "seen"),
    "flops",
]
AUC = ("zeroshot_segmentation", "localization_auc")
NAME = CLAIMS["retrieval", "image_to_text_r5"]
TEACHERS = ("clip_views", "silc_global", "silc")


@pytest.fixture
def measured() -> list[Measurement]:
    """Three seeds, two sizes; SILC gains 0.1, 0.11 and 0.12 over each baseline, and 0.02 more a doubling."""
    return list(made((0, 1, 2)))


def made(seeds, data="main", claims=(*CLAIMS, AUC)):
    for claim, seed, variant in itertools.product(claims, seeds, plan.VARIANTS):
        for model, (pairs, shift) in itertools.product(("student", "teacher"), ((640, 0.0), (1280, 0.02))):
            if model == "teacher" and variant not in TEACHERS:
                continue
            value = 0.2 + (0.1 + shift + seed / 100 if variant == plan.SILC else 0.0)
            cost = (pairs // 64, pairs, 2e12)
            yield Measurement(variant, pairs, seed, model, data, *claim, value, 0.008, 0.003, *cost)


def row(text: str, section: str, start: str) -> list[str]:
    line = next(line for line in text.partition(section)[2].splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_hold_values_gains_slopes_and_costs(measured):
    text = page.markdown(measured, "Title", ["Made so."], "x")
    after = "## After 640 pairs\n"
    columns = ["clip", "clip_views", "clip_views_ema", "clip_compute"]
    columns += ["silc_global", "silc_global_ema", "silc", "silc_ema"]
    assert row(text, after, "metric")[1:] == [*columns, "chance"]
    # Half of the t interval of .30, .31, .32: 4.303 times .01 / sqrt(3).
    assert row(text, after, NAME)[1:] == ["0.200 ± 0.000, n=3"] * 6 + ["0.310 ± 0.025, n=3"] * 2 + ["0.0080"]
    assert row(text, after, "silc minus") == ["silc minus", *BASELINES, "silc_ema minus clip_views_ema"]
    gains = text.partition(after)[2].partition("silc minus")[2]
    assert f"| {NAME} | +0.110 ± 0.025, n=3 (better) |" in gains
    assert row(text, "## Scaling", NAME)[-2:] == ["+0.020 ± 0.000, n=3 (better)"] * 2
    assert "over 640, 1,280 pairs, of the seeds that have every one" in text
    assert row(text, "## What each run cost", "1,280 | silc ") == ["1,280", "silc", "20", "1,280", "2.0"]
    assert "Made so." in text
    where = text.partition(after)[2].partition("Where, not what")[2]
    assert row(where, "class", WHERE[AUC])[1] == "0.200 ± 0.000, n=3"


def test_noise_comes_before_any_comparison(measured):
    text = page.markdown(measured, "Title", [], "x")
    assert re.findall("^## (.*)", text, re.MULTILINE)[:3] == ["Noise", "In words", "After 1,280 pairs"]
    noise = text.partition("## Noise")[2].partition("## In words")[0]
    # One column in eight of two varies, by .01: sqrt(2 / 8) of it. The difference of silc and clip: .01.
    assert row(noise, "After 640 pairs", NAME) == [NAME, "0.0050", "0.0100", "0.0030", "36%"]


def test_the_words_say_where_silc_is_ahead_and_where_not(measured):
    worse = ("fewshot", "ridge_5shot")
    equal = ("zeroshot_classification", "top1")
    changed = []
    for one in measured:
        value = {worse: 0.4 - one.value, equal: 0.2 + 0.1 * (one.seed - 1)}.get((one.task, one.metric), one.value)
        ours = one.variant == plan.SILC
        changed.append(Measurement(**(vars(one) | {"value": value if ours else one.value})))
    text = page.markdown(changed, "Title", [], "x")
    line = next(line for line in text.splitlines() if "silc against clip," in line)
    above, within, below, interval = re.split(
        "Within two standard errors|More than two below|The 95 % t interval", line
    )
    assert line.startswith("- After 1,280 pairs, silc against clip, 3 seeds: more than two standard errors above: ")
    assert f"{NAME} (+0.130)" in above
    assert CLAIMS[equal] in within
    assert f"{CLAIMS[worse]} (-0.130)" in below
    assert f"{CLAIMS[worse]} (worse)" in interval
    assert CLAIMS[equal] not in interval
    # 8 metrics, five baselines and the averaged weights, two sizes; two slopes. In words: two baselines, one size.
    assert "of the 112 in the tables below, those of slopes too, about 5.6 would" in text
    assert f"of the 16 in the words above about {16 * 2 * stats.t.sf(2, 2):.1f} would" in text


def test_the_first_runs_of_the_largest_size_do_not_hide_what_is_decided(measured):
    """One seed of the largest size, and one task that a seed has not come to."""
    late = ("fewshot", "ridge_5shot")
    some = [one for one in measured if one.pairs == 640 or one.seed == 0]
    some = [one for one in some if (one.task, one.metric, one.seed) != (*late, 2)]
    text = page.markdown(some, "Title", [], "x")
    line = next(line for line in text.splitlines() if "silc against clip," in line)
    assert line.startswith("- After 640 pairs, silc against clip, 3 seeds: more than two standard errors above: ")
    assert f"{NAME} (+0.110)" in line
    assert f"Not judged, with fewer than 3 seeds: {CLAIMS[late]}." in line
    assert "of the 14 in the words above" in text
    # 7 metrics, six differences, one size; no seed but one has a slope.
    assert "of the 42 in the tables below" in text
    assert row(text, "## After 640", CLAIMS[late])[1].endswith(", n=2")


def test_the_table_of_metrics_is_whole_or_as_before(measured, tmp_path, monkeypatch):
    page.write(measured, "Title", [], tmp_path, command="x")
    before = (tmp_path / "claims.csv").read_text()

    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(page.csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match="no room"):
        page.write(measured[:1], "Title", [], tmp_path, command="x")
    assert (tmp_path / "claims.csv").read_text() == before


def test_fewer_than_three_seeds_decide_nothing():
    text = page.markdown(list(made((0, 1))), "Title", [], "x")
    assert "silc against clip: 2 seeds of both, which decides nothing." in text
    assert "No difference below is tested yet" in text


def test_a_further_test_set_has_a_section_at_the_largest_size(measured):
    both = [*measured, *made((0, 1, 2), data="new_scenes", claims=[("fewshot", "ridge_5shot")])]
    text = page.markdown(both, "Title", [], "x")
    assert "## Test set new_scenes, after 1,280 pairs" in text
    assert "Test set new_scenes, after 640" not in text.replace("\\", "")
    section = text.partition("## Test set")[2].partition("\n## ")[0]
    assert CLAIMS["fewshot", "ridge_5shot"] in section
    assert NAME not in section
    assert "test set new\\_scenes, silc against clip, 3 seeds" in text


def test_how_the_runs_were_made_is_what_was_done():
    plain = " ".join(page.how_made("Trained then.", {}))
    assert "All variants have the optimiser, the learning rate and the schedule of the preset" in plain
    chosen = " ".join(page.how_made("Trained then.", {"clip": ["optim.lr=0.002"], "silc": ["optim.lr=0.001"]}))
    assert "Chosen for each variant: clip optim.lr=0.002; silc optim.lr=0.001." in chosen
    assert "As in the preset, which is silc's: clip_views, clip_compute, silc_global." in chosen
    changed = " ".join(page.how_made("Trained then.", {}, ["optim.lr=0.002", "eval.limit=4"]))
    assert "the schedule of the preset, which is silc's, but for optim.lr=0.002." in changed
    assert "eval.limit" not in changed
    assert "Left out" not in plain
    said = page.how_made("Trained then.", {}, left_out=["clip-640-seed0 (another optim.lr)", "b (c)"])
    assert said[-1] == "Left out of this page: clip-640-seed0 (another optim.lr); b (c)."
    said = page.how_made("Trained then.", {}, without=["without figures on ns: clip-640-seed0", "b"])
    assert said[-1] == "Without figures on ns: clip-640-seed0; b."
    assert "Left out" not in " ".join(said)
    every = {variant: ["optim.lr=1"] for variant in plan.VARIANTS}
    assert "As in the preset" not in " ".join(page.how_made("Trained then.", every))
    some = " ".join(page.how_made("Trained then.", {"clip": ["optim.lr=0.002"]}, shown={"clip", "silc"}))
    assert "As in the preset, which is silc's: silc. " in some


def test_machines_dates_versions_and_seeds_are_named():
    one, other = Origin("2026-11-27", "A", "2.10", "0.1", "bf16"), Origin("2026-11-29", "B", "2.10", "0.1", "bf16")
    assert sentence([one, other, one], [2, 0, 0]) == (
        "Trained 2026-11-27 to 2026-11-29 on A and B; torch 2.10, silc 0.1, engine.precision=bf16; seeds 0, 2."
    )
    assert sentence([], [1]) == "Seeds 1."
    assert sentence([one, None, None], [0]).endswith("seeds 0. Of 2 runs the machine is not noted.")


def test_what_is_missing_is_a_dash(measured):
    some = [one for one in measured if one.variant != "clip" or one.task != "fewshot"]
    text = page.markdown(some, "Title", [], "x")
    assert row(text, "## After 1,280", CLAIMS["fewshot", "ridge_5shot"])[1] == "-"
    assert "- (not measured)" in text


def test_a_task_that_the_data_cannot_serve_has_no_row(measured):
    text = page.markdown([one for one in measured if one.task != "fewshot"], "Title", [], "x")
    assert CLAIMS["fewshot", "ridge_5shot"] not in text
    assert NAME in text


def test_one_size_has_no_scaling(measured):
    assert "## Scaling" not in page.markdown([one for one in measured if one.pairs == 640], "Title", [], "x")


def test_error_bars_are_one_standard_error_at_the_points(measured):
    panel = next(one for one in curves.panels(measured) if one.title == NAME)
    silc = panel.curves[-1]
    (_, first), (_, second) = (map(float, point.split(",")) for point in silc.points.split())
    assert len(silc.bars) == 2
    heights = [float(low) - float(high) for _, low, high in silc.bars]
    # .02 a doubling on the axis: so many pixels; the bars have .01 / sqrt(3) to either side.
    assert heights == pytest.approx([(first - second) / 0.02 * 2 * 0.01 / 3**0.5] * 2, abs=0.3)
    assert panel.curves[0].bars == ()  # all seeds the same
    assert [label for _, label in panel.ticks] == ["640", "1,280"]


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
    assert found.tags.count("svg") == len(CLAIMS) + 1
    assert found.tags.count("polyline") == (len(CLAIMS) + 1) * len(curves.SHOWN)
    assert found.tags.count("table") == 13
    assert "**" not in found.text
    assert "<code>x y</code>" in (tmp_path / "claims.html").read_text()
    assert (tmp_path / "claims.md").read_text() == page.markdown(measured, "A title", ["Made on a CPU."], "x y")


def test_the_picture_is_svg_that_stands_alone(measured, tmp_path):
    page.write(measured, "A title", [], tmp_path, command="x")
    picture = (tmp_path / "claims.svg").read_text()
    tree = ElementTree.fromstring(picture)
    tags = [element.tag.rpartition("}")[2] for element in tree.iter()]
    assert tags.count("polyline") == (len(CLAIMS) + 1) * len(curves.SHOWN)
    assert not {"image", "script", "use", "a"} & set(tags)
    texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert {*curves.SHOWN, *CLAIMS.values(), WHERE[AUC]} <= set(texts)


def test_the_committed_results_have_the_columns_of_today():
    path = Path(__file__).resolve().parents[2] / "benchmarks/results/claims_sample_cpu/claims.csv"
    with path.open() as file:
        assert csv.DictReader(file).fieldnames == COLUMNS


def test_one_number_of_pairs_has_values_and_no_curve(measured, tmp_path):
    some = [one for one in measured if one.pairs == 640]
    found = parsed(page.page(some, "Title", [], "x"))
    assert "svg" not in found.tags
    assert "0.310 ± 0.025" in found.text
    page.write(some, "Title", [], tmp_path, command="x")
    assert not (tmp_path / "claims.svg").exists()


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
