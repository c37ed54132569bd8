"""The report: what stands in it, and in a browser that it fetches nothing and fits a phone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from silc.data.splits import IGNORE, DataSet
from silc.evaluate import runner as suite
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import charts as plots
from silc.evaluate.report import examples as exhibits
from silc.evaluate.report import output
from silc.evaluate.report import page as report

from .conftest import NAMES, Memory, random_images

LONG = "averyveryverylongwordwithoutablankthatnobreakcanbefoundin" * 3 + " <script>alert(1)</script>"
PHONE = 360
BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)


@pytest.fixture
def page(config, model, towers, world, segmented, tmp_path) -> Path:
    """A report with every section, of a model with a long name for a class."""
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    names = (*NAMES[:-1], LONG)
    split = Memory(random_images(20), [n % 7 for n in range(20)], [[f"{names[n % 7]} {n}"] for n in range(20)])
    known = DataSet(LONG, names, split)
    data = EvalData(known, known, segmented)
    tasks = ["zeroshot_classification", "retrieval", "zeroshot_segmentation"]
    twin = type(towers)("teacher", towers._model, towers._tokenizer, towers.size, towers.device)
    results = suite.evaluate(config, [towers, twin], data, tasks, world, strict=True)
    rows = [
        f'{{"step": {step}, "loss": {9 / step}, "lr": 0.1, "eval/retrieval/student/image_to_text_r1": 0.{step}}}\n'
        for step in range(1, 9)
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text("".join(rows) + '{"step": 9, "lo')
    return output.report(config, [towers, twin], data, results, f"SILC: {LONG}", run=tmp_path / "run", folder=tmp_path)


class Elements(HTMLParser):
    """Counts elements; keeps everything an attribute could fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]


def test_every_section_is_there_and_nothing_lies_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    parts = Elements()
    parts.feed(text)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert len(headings) == 9
    assert sum("student" in heading for heading in headings) == 4  # whose guesses the cards show
    assert parts.tags["polyline"] >= 3  # loss, learning rate, a figure
    assert text.count('<div class="scroll"><table>') == parts.tags["table"] == 4
    assert parts.tags["img"] == 8 + 8 + 4 * 5 + 8 * 4 + 8 * 3
    assert all(address.startswith("data:image/") for address in parts.addresses)
    assert "script" not in parts.tags
    assert "&lt;script&gt;" in text
    for word in ("student", "teacher", "0.1429", "windows of 16 px"):
        assert word in text


def test_a_model_without_a_log_has_no_curves(tmp_path):
    assert report.read_log(tmp_path) == []
    nothing = exhibits.Exhibits("student")
    report.write_report(tmp_path / "deep/x.html", "nothing", [], [], nothing)
    assert "<h2>" not in (tmp_path / "deep/x.html").read_text()


class Untouchable:
    """A data set that no one may look at."""

    def __getattr__(self, name: str):
        raise AssertionError(f"{name} was read")


def test_only_tasks_that_were_measured_are_shown(config, towers, world):
    split = Memory(random_images(4), captions=[[f"picture {n}"] for n in range(4)])
    known = DataSet("x", NAMES, split)
    results = suite.evaluate(config, [towers], EvalData(None, known, None), ["retrieval"], world, strict=True)
    shown = exhibits.collect(config, [towers], EvalData(Untouchable(), known, Untouchable()), results)
    assert len(shown.captioned) == len(shown.features) == 4
    assert shown.classified == shown.segmented == shown.left_out == []


def test_what_cannot_be_shown_is_left_out_with_a_reason(config, towers, segmented, tmp_path):
    """The figures stand, the page is written, and it says what is missing."""
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    cut = Memory(segmented.test._images, masks=[mask[:20] for mask in segmented.test._masks])
    lost = Memory([None, None], labels=[0, 1])
    data = EvalData(DataSet("lost", NAMES, lost), None, DataSet("cut", segmented.classes, cut))
    results = [
        suite.Result(task, "student", "x", (suite.Metric("figure", 0.625),), (), 0.0, ())
        for task in ("zeroshot_classification", "zeroshot_segmentation")
    ]
    shown = exhibits.collect(config, [towers], data, results)
    assert [line.split(":")[0] for line in shown.left_out] == ["classified pictures", "segmented pictures"]
    assert "the mask of memory/0 is 32 x 20 pixels, its image 32 x 32" in shown.left_out[1]
    assert len(shown.features) == 8
    shown = exhibits.collect(config, [towers], EvalData(data.classification, None, None), results[:1])
    assert shown.left_out[1] == "patch features: in memory: none of the pictures to show can be read"
    text = output.report(config, [towers], data, results, "title", run=tmp_path, folder=tmp_path).read_text()
    assert "0.625" in text
    assert "<h2>Left out</h2>" in text


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={folder}", "--disable-component-update", "--disable-default-apps"]
    command = [BROWSER, *flags, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


needs_browser = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("SILC_BROWSER_REQUIRED"), reason="no chromium or google-chrome on PATH"
)


@needs_browser
def test_it_fits_a_phone_and_fetches_nothing(page, tmp_path):
    """A script in a copy of the page, which its policy would not let run, measures every element."""
    assert BROWSER is not None, "SILC_BROWSER_REQUIRED is set and there is no browser"
    text = page.read_text(encoding="utf-8")
    script = (
        "<script>addEventListener('load',()=>{const w=innerWidth;let out=[];"
        "for(const e of document.querySelectorAll('body *:not(.scroll *)')){const r=e.getBoundingClientRect();"
        "if(r.width&&(r.right>w+1||r.left<-1))out.push(e.tagName+' '+Math.round(r.right))}"
        "const broken=[...document.images].filter(i=>!i.naturalWidth).length;"
        "const fetched=performance.getEntriesByType('resource').filter(r=>!r.name.startsWith('data:')).length;"
        "document.title=`inner ${w} scroll ${document.documentElement.scrollWidth} out [${out.slice(0,5)}] "
        "broken ${broken} fetched ${fetched}`})</script>"
    )
    policy = re.search(r'<meta http-equiv="Content-Security-Policy".*?>', text)[0]
    assert "default-src 'none'" in policy
    probe = tmp_path / "probe.html"
    probe.write_text(text.replace(policy, "").replace("</body>", script + "</body>"), encoding="utf-8")
    frame = tmp_path / "phone.html"  # a window of a desktop browser has a least width; a frame has not
    frame.write_text(
        f'<iframe id="f" src="probe.html" width="{PHONE}" height="700"></iframe><script>addEventListener("load",'
        '()=>{document.body.append(document.getElementById("f").contentDocument.title)})</script>'
    )
    options = ["--allow-file-access-from-files", "--dump-dom", f"--window-size={PHONE + 100},800"]
    dom = browse(frame, tmp_path / "profile", *options).stdout
    found = re.search(r"inner (\d+) scroll (\d+) out \[(.*?)\] broken (\d+) fetched (\d+)", dom)
    assert found, dom[-500:]
    inner, scroll, out, broken, fetched = found.groups()
    assert PHONE - 20 <= int(inner) <= PHONE
    assert int(scroll) <= int(inner), out
    assert out == ""
    assert (broken, fetched) == ("0", "0")


@needs_browser
def test_it_opens_as_it_is(page, tmp_path):
    """With its policy in place: it is drawn, in more than one colour."""
    shot = tmp_path / "shot.png"
    browse(page, tmp_path / "profile", f"--screenshot={shot}", "--window-size=420,1200", "--hide-scrollbars")
    from PIL import Image

    with Image.open(shot) as image:
        assert len(image.convert("RGB").getcolors(10**7)) > 100


# Parts


def test_a_chart_draws_its_points():
    drawn = plots.chart("a & b", {"x": [(0, 1.0), (10, 3.0), (20, float("nan"))], "none": []})
    assert "a &amp; b" in drawn
    (points,) = re.findall(r'points="(.*?)"', drawn)
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in points.split())
    assert (x0, x1) == (plots.LEFT, plots.WIDTH - plots.RIGHT)
    assert (y0, y1) == (plots.HEIGHT - plots.BOTTOM, plots.TOP)
    assert ">none" not in drawn
    assert drawn.count("<polyline") == 1
    assert plots.chart("t", {"x": []}) == ""
    assert "<circle" in plots.chart("t", {"x": [(5, 0.0)]}, from_zero=True)


@pytest.mark.parametrize("value", [-1.23456e-05, 1234567.0, -123456.0])
def test_a_label_has_room_beside_the_axis(value):
    """In the page's 10 px type a character is at most 6.2 px wide, as digits of the common sans-serif faces are."""
    assert 6.2 * len(plots.number(value)) <= plots.LEFT - 4


def test_principal_colours_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(4, 5, 7, generator=generator) * torch.arange(7, 0, -1) for _ in range(3)]
    rows = torch.cat([m.flatten(0, 1) for m in maps]).double().numpy()
    _, directions = np.linalg.eigh(np.cov(rows.T))
    scores = (rows - rows.mean(0)) @ directions[:, ::-1][:, :3]
    found = np.concatenate([m.reshape(-1, 3) for m in exhibits.principal_colours(maps)]).astype(float)
    for axis in range(3):
        low, high = np.quantile(scores[:, axis], [0.02, 0.98])
        expected = ((scores[:, axis] - low) / (high - low)).clip(0, 1) * 255
        turned = 255 - expected
        assert min(np.abs(found[:, axis] - expected).max(), np.abs(found[:, axis] - turned).max()) <= 1.01


def test_an_overlay_leaves_pixels_without_a_class_pale():
    picture = torch.zeros(exhibits.SIDE, exhibits.SIDE, 3, dtype=torch.uint8)
    classes = torch.full((exhibits.SIDE, exhibits.SIDE), IGNORE)
    classes[:10] = 2
    drawn = exhibits.overlay(picture, classes)
    assert len(np.unique(drawn[10:].reshape(-1, 3), axis=0)) == 1
    assert not np.array_equal(drawn[0, 0], drawn[20, 0])


def test_the_worst_classes_are_the_ones_missed_most():
    details = {"truth": torch.tensor([0, 0, 1, 1, 2, 2]), "guess": torch.tensor([0, 0, 2, 2, 2, 0])}
    result = suite.Result("zeroshot_classification", "student", "x", (), (), 0.0, (), None, details)
    split = Memory([], labels=[])
    found = exhibits.worst([result], EvalData(DataSet("x", ("a", "b", "c"), split), None, None))
    assert [(c.name, c.accuracy, c.taken_for) for c in found] == [("b", 0.0, [("c", 2)]), ("c", 0.5, [("a", 1)])]


def test_the_sheet_is_written_with_captions_or_else_classes(config, towers, segmented, tmp_path):
    pictures = random_images(5)
    captioned = DataSet("x", NAMES, Memory(pictures, captions=[[f"thing {n}"] for n in range(5)]))
    labelled = DataSet("x", NAMES, Memory(pictures, labels=[0, 1, 2, 3, 4]))
    for data in (EvalData(None, captioned, None), EvalData(labelled, None, None)):
        path = tmp_path / "sheet.png"
        assert output.sheet(config, towers, data, "title", path)
        assert path.stat().st_size > 1000
        path.unlink()
    assert not output.sheet(config, towers, EvalData(None, None, segmented), "title", tmp_path / "none.png")
