"""The report: what it shows, where it comes from, and what comes from outside as text in every place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from silc.data.splits import DataSet
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import about, examples, output, page
from silc.evaluate.report.examples import Examples
from silc.evaluate.report.rendering import LONGEST, short

from ..browser import browse, check_page, console, needs_browser
from .conftest import NAMES, Memory, random_images

LONG = "averyveryverylongwordwithoutablankthatnobreakcanbefoundin" * 3 + " <script>alert(1)</script>"
# Markup, both quotes, an entity, an override of the direction, letters from right to left, control characters.
HOSTILE = "<script>alert(1)</script>\" onload='x' &amp; \u202eevil \u05d0\u05d1\u05d2 \x00\x1b\n{{ 7*7 }} </style>"
ARGV = ["launch/evaluate.py", "--local_rank=0", "runs/a b", "eval.limit=4", HOSTILE]


def evaluated(config, towers, world, segmented, name: str) -> tuple[list, EvalData, list]:
    """Two models, data with a class, captions and a name of `name`, and results of three tasks."""
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    names = (*NAMES[:-1], name)
    split = Memory(random_images(18), [n % 7 for n in range(18)], [[f"{names[n % 7]} {n}"] for n in range(18)])
    known = DataSet(name, names, split)
    masks = DataSet(name, (name, *segmented.classes[1:]), segmented.test)
    data = EvalData(known, known, masks)
    twin = type(towers)("teacher", towers._model, towers._tokenizer, towers.size, towers.device)
    tasks = ["zeroshot_classification", "retrieval", "zeroshot_segmentation"]
    return [towers, twin], data, runner.evaluate(config, [towers, twin], data, tasks, world, strict=True)


@pytest.fixture
def write(config, towers, world, segmented, tmp_path):
    """Write a report with every section, in which everything from outside is `name`."""

    def make(name: str) -> Path:
        models, data, results = evaluated(config, towers, world, segmented, name)
        config.data.shards = [name]
        results.append(runner.Result("fewshot", "student", name, (), (name,), 0.0, ((name, name),), name))
        rows = [
            f'{{"step": {step}, "loss": {9 / step}, "lr": 0.1, "eval/retrieval/student/image_to_text_r1": 0.{step}}}\n'
            for step in range(1, 9)
        ]
        rows += ['{"step": 8, "logit_scale": 12.5, "eval/fewshot/student/knn_5shot": 0.375}\n', '{"step": 9, "lo']
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        (run / "metrics.jsonl").write_text("".join(rows))
        (run / "config.yaml").touch()
        where = {"run": run, "folder": tmp_path, "argv": [*ARGV, name]}
        return output.report(config, models, data, results, f"SILC: {name}", **where)

    return make


class Parsed(HTMLParser):
    """Elements, the text in each kind of element, and everything an attribute could fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str | None] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data) -> None:
        self.text.append(data)


def test_every_section_is_there_and_nothing_lies_elsewhere(write):
    text = write(LONG).read_text(encoding="utf-8")
    found = Parsed(text)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert len(headings) == 9
    assert sum("student" in heading for heading in headings) == 4  # whose guesses are shown
    assert found.tags.count("polyline") == 3  # loss, learning rate, a metric
    assert len(re.findall(r'<div class="scroll"><table>', text)) == found.tags.count("table") == 5
    assert found.tags.count("img") == 8 + 8 + 4 * 5 + 8 * 4 + 8 * 3
    assert all(address.startswith("data:image/") for address in found.addresses)
    for words in ("student", "teacher", "0.1429", "windows of 16 px", "1 unreadable image left out"):
        assert words in text


def test_the_top_says_where_the_page_comes_from(write, config):
    config.train.seed = 4711
    text = write("own data").read_text(encoding="utf-8")
    top = text.partition("<section>")[0]
    assert "<code>launch/evaluate.py &#39;runs/a b&#39; eval.limit=4" in top
    assert "local_rank" not in top
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", top)
    assert "own data, 18 images: zero-shot classification, retrieval" in " ".join(Parsed(top).text)
    assert f"torch {torch.__version__.partition('+')[0]}" in top
    assert re.search(r"CPU.*1 rank", top)
    assert re.search(r"<details>\s*<summary>.*seed: 4711.*</details>", top, re.DOTALL)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["launch/train.py", "--local_rank=3", "train.steps=4"], "launch/train.py train.steps=4"),
        (["/any/silc/commands/train.py", "--local-rank=0", "a.b=[1, 2]"], "silc train 'a.b=[1, 2]'"),
        ([str(Path.cwd() / "launch/evaluate.py"), "runs/x"], "launch/evaluate.py runs/x"),
        (["/usr/bin/silc", "evaluate"], "/usr/bin/silc evaluate"),
    ],
)
def test_the_command_is_what_one_could_type(argv, expected):
    assert about.command_line(argv) == expected


def test_a_value_logged_once_is_a_number_and_no_curve(write):
    text = write("x").read_text(encoding="utf-8")
    once = text.partition("Values logged once")[2].partition("</table>")[0]
    rows = [" ".join(" ".join(Parsed(row).text).split()) for row in re.findall(r"<tr>(.*?)</tr>", once)]
    assert rows[0] == "group step values"
    assert rows[1:] == ["logit scale 8 logit_scale 12.5", "few-shot: knn_5shot 8 student 0.375"]
    assert 'aria-label="logit scale"' not in text


def test_shares_are_drawn_from_zero_and_losses_are_not(tmp_path):
    """The axis of a loss shows its fall: from zero it would be a flat line."""
    made = about.About("c", "d", (), "", (), "CPU")
    log = [
        {"step": step, "eval/validation_loss/student/loss": 3.2 - step / 100, "eval/retrieval/student/r1": 0.5}
        for step in (10, 20)
    ]
    page.write_report(tmp_path / "r.html", "t", log, [], Examples("student"), made)
    text = (tmp_path / "r.html").read_text()
    for title, lowest in (("validation loss: loss", "3"), ("retrieval: r1", "0")):
        chart = text.partition(f'aria-label="{title}"')[2].partition("</svg>")[0]
        assert lowest in re.findall(r"<text[^>]*>([^<]*)</text>", chart), title


def test_what_the_tables_show_is_not_repeated_as_logged_once(tmp_path):
    result = runner.Result("retrieval", "student", "x", (runner.Metric("r1", 0.123456789),), (), 0.0, ())
    log = [{"step": 4, "eval/retrieval/student/r1": 0.123456789, "eval/retrieval/student/r5": 0.5}]
    made = about.About("c", "d", (), "", (), "CPU")
    page.write_report(tmp_path / "x.html", "t", log, [result], Examples("student"), made)
    once = (tmp_path / "x.html").read_text().partition("Values logged once")[2]
    assert "retrieval: r5" in once
    assert "retrieval: r1" not in once


def test_errors_stand_beside_the_values_and_apart_from_draws(tmp_path):
    metrics = (runner.Metric("knn", 0.25, 0.5, 0.0625), runner.Metric("knn_std", 0.125), runner.Metric("old", 0.5))
    made = about.About("c", "d", (), "", (), "CPU")
    result = runner.Result("fewshot", "student", "x", metrics, (), 0.0, ())
    page.write_report(tmp_path / "x.html", "t", [], [result], Examples("student"), made)
    text = (tmp_path / "x.html").read_text()
    assert "<td>knn</td><td>0.250 ± 0.062, draws ± 0.125</td><td>0.5000</td>" in text
    assert "<td>old</td><td>0.500</td><td></td>" in text
    assert "After ±: the standard error from the choice of test images" in text


def test_what_comes_from_outside_is_text_in_every_place(write):
    """No element but those of a harmless name, no handler, nothing to fetch, and the words themselves to be read."""
    plain, found = (Parsed(write(name).read_text(encoding="utf-8")) for name in ("plain", HOSTILE))
    assert set(found.tags) == set(plain.tags)
    assert found.handlers == []
    assert all(address.startswith("data:image/") for address in found.addresses)
    shown = short(HOSTILE)
    text = "\n".join(found.text)
    # Title twice; two data sets and the training data; headings of tables; classes, captions, errors, notes, legends.
    assert text.count(shown) >= 2 + 3 + 4 + 8
    assert "{{ 7*7 }}" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)


def test_names_run_in_their_own_direction(write):
    """Names from right to left stand in elements of their own, so that numbers beside them keep their place."""
    text = write("\u05e9\u05dc\u05d5\u05dd").read_text(encoding="utf-8")
    outside = re.sub(r"<(title|pre|code|bdi)>.*?</\1>|<[^>]*>", "", text, flags=re.DOTALL)
    assert not re.search("[\u0590-\u05ff]", outside)


def test_a_text_of_any_length_is_cut(write):
    text = write("word " * 10**4).read_text(encoding="utf-8")
    assert len(re.sub(r'src="data:.*?"|<pre>.*?</pre>', "", text, flags=re.DOTALL)) < 100_000
    assert len(short("x" * 10**6)) == LONGEST
    assert short("a\nb\x00\u2028c") == "a b c"


@pytest.mark.parametrize(("count", "empty"), [(8, 0), (5, 3), (1, 3)])
def test_cells_fill_their_rows(tmp_path, count, empty):
    guess = examples.Guess(torch.zeros(70, 30, 3, dtype=torch.uint8).numpy(), ["a"], [("a", 0.5), ("b", 0.25)])
    made = about.About("c", "d", (), "", (), "CPU")
    page.write_report(tmp_path / "x.html", "t", [], [], Examples("student", classified=[guess] * count), made)
    text = (tmp_path / "x.html").read_text()
    assert text.count('<div class="cell">') == count
    assert text.count('<div class="cell empty">') == empty


def test_a_model_without_a_log_has_no_curves(tmp_path):
    assert page.read_log(tmp_path) == ([], 0)
    made = about.About("c", "d", (), "", (), "CPU")
    page.write_report(tmp_path / "deep/x.html", "nothing", [], [], Examples("student"), made)
    assert "<h2>" not in (tmp_path / "deep/x.html").read_text()


def test_lines_of_the_log_that_are_no_rows_are_left_out_and_counted(tmp_path):
    good = [
        b'{"step": 1, "loss": 1e308, "lr": "fast", "grad_norm": null, "eval/short": 1.0, "eval/a/b": 2.0}',
        b'{"step": 2, "loss": -1e308, "logit_scale": true, "x": "\xe2\x80\xa8", "lr": ' + b"9" * 400 + b"}",
        b'{"step": 3, "loss": 1.0, "eval/fewshot/student/top1": 0.5}',
    ]
    bad = [b"", b"\0\0\0", b"\xff\xfe", b'{"step": 1', b"[1]", b"{}", b'{"step": "1"}', b'{"step": true}', b"[" * 99999]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*good, *bad, b'{"step": 4, "lo']))
    log, unreadable = page.read_log(tmp_path)
    assert [row["step"] for row in log] == [1, 2, 3]
    assert unreadable == len(bad)
    made = about.About("c", "d", (), "", (), "CPU")
    page.write_report(tmp_path / "x.html", "t", log, [], Examples("student"), made, unreadable)
    text = (tmp_path / "x.html").read_text()
    assert "9 unreadable lines of metrics.jsonl were left out" in text
    assert "<polyline" in text
    assert not re.search(r"\b(nan|inf)\b", text.partition("<svg")[2])
    page.write_report(tmp_path / "y.html", "t", log, [], Examples("student"), made)
    assert "unreadable" not in (tmp_path / "y.html").read_text()


@needs_browser
@pytest.mark.parametrize("name", [LONG, HOSTILE])
def test_in_a_browser_it_fits_a_phone_and_fetches_nothing(write, name, tmp_path):
    check_page(write(name), tmp_path)


@needs_browser
def test_what_a_browser_would_block_or_report_is_found(tmp_path):
    """The check itself: a page that fetches and throws has messages in the console."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<meta http-equiv='Content-Security-Policy' content=\"img-src data:\"><img src='http://127.0.0.1:9/x'>"
        "<script>throw 1</script>"
    )
    assert len(console(bad, tmp_path)) == 2


@needs_browser
def test_it_is_drawn_in_light_in_dark_and_on_paper(write, tmp_path):
    """With its policy in place; dark on light, light on dark."""
    from PIL import Image

    path = write("x")
    corners = []
    for scheme in (1, 0):  # light, dark
        shot = tmp_path / f"shot{scheme}.png"
        options = [f"--screenshot={shot}", "--window-size=420,1200", "--hide-scrollbars"]
        browse(path, tmp_path / "profile", *options, f"--blink-settings=preferredColorScheme={scheme}")
        with Image.open(shot) as image:
            assert len(image.convert("RGB").getcolors(10**7)) > 100
            corners.append(sum(image.convert("RGB").getpixel((2, 2))))
    assert corners[0] > 700
    assert corners[1] < 150
    browse(path, tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
