"""`silc shards show`: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.commands.main import run
from silc.commands.shards import common
from silc.data.survey import languages
from tests.browser import check_page, needs_browser
from tests.data.survey.sets import encoded, odd, pair, picture, whole, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def show(capsys):
    """show(words): exit status, lines on stdout, lines on stderr."""

    def call(*words: object) -> tuple[int, list[str], list[str]]:
        try:
            status = run(["shards", "show", *map(str, words)])
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return call


def test_figures_as_text_and_nothing_written_beside_the_shards(tmp_path, show):
    write(tmp_path / "set", [whole(3), [*whole(2, seed=7), *pair("big", encoded(picture(1, (400, 300))), "a cat")]])
    before = sorted((tmp_path / "set").iterdir())
    status, lines, errors = show(tmp_path / "set")
    assert (status, errors) == (0, [])
    text = "\n".join(lines)
    assert lines[0] == "6 samples in 2 shards, 0.00 GB; members: jpg 6, txt 6"
    assert lines[1] == "looked at: all samples, images by their headers; `silc shards check` decodes every one"
    for says in (
        "formats: JPEG 6 (100 %); colors: RGB 6 (100 %)",
        "width: least 40, 5 % 40, 25 % 40, median 40, 75 % 40, 95 % 40, most 400",
        "5 (83 %) of the images have a side shorter than the global crops (views.global_size=256)",
        "6 captions",
        "characters: least 5, ",
        "0 of the captions are longer than the 64 tokens that the model reads",
        "scripts: Latin 6 (100 %) (an estimate over 6 captions)",
        "languages: ",
    ):
        assert says in text
    assert sorted((tmp_path / "set").iterdir()) == before


def test_a_folder_with_a_sheet_a_page_and_a_table(tmp_path, show):
    write(tmp_path / "set", [whole(5)])
    status, lines, _ = show(tmp_path / "set", "--out", tmp_path / "look", "--images", 3)
    assert status == 0
    names = ("contact_sheet.png", "show.html", "show.json")
    assert lines[-1] == "written: " + ", ".join(str(tmp_path / "look" / name) for name in names)
    assert sorted(path.name for path in (tmp_path / "look").iterdir()) == sorted(names)
    with Image.open(tmp_path / "look" / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 3 * 200
    page = (tmp_path / "look" / "show.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "0 of the captions are longer than the 64 tokens" in page
    assert page.count("<td>width</td>") == page.count("<h3>megapixels</h3>") == 1
    table = json.loads((tmp_path / "look" / "show.json").read_text())
    assert (table["samples"], table["sampled"], table["captions"]) == (5, 5, 5)


def test_the_same_seed_shows_the_same_samples_and_another_one_others(tmp_path, show):
    write(tmp_path / "set", [whole(40, seed=100 * n) for n in range(3)])
    pages = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ["--out", tmp_path / folder, "--sample", 20, "--images", 4, "--seed", seed]
        _, lines, _ = show(tmp_path / "set", *words)
        assert lines[1].startswith(f"looked at: 20 random samples (seed {seed}), ")
        pages.append([(tmp_path / folder / name).read_bytes() for name in ("contact_sheet.png", "show.html")])
    assert pages[0] == pages[1]
    assert pages[0][0] != pages[2][0]


def test_only_the_sample_is_read_where_there_is_an_index(tmp_path, show, monkeypatch):
    from silc.data.shards.reader import SampleReader

    write(tmp_path / "set", [whole(50, seed=100 * n) for n in range(4)])
    assert run(["shards", "index", str(tmp_path / "set")]) == 0
    used: list[int] = []
    original = SampleReader.__init__
    monkeypatch.setattr(
        SampleReader, "__init__", lambda self, manifest, store: original(self, manifest, store, used.append)
    )
    assert show(tmp_path / "set", "--sample", 10)[0] == 0
    sizes = [path.stat().st_size for path in (tmp_path / "set").glob("*.tar")]
    assert 0 < sum(used) < sum(sizes) / 10
    assert not list((tmp_path / "cache").rglob("*.idx"))


def test_all_samples_and_a_field_of_a_json(tmp_path, show):
    entries = [
        entry
        for i in range(5)
        for entry in (
            (f"{i}.jpg", encoded(picture(i))),
            (f"{i}.json", json.dumps({"meta": {"alt": ["one", "two"]}, "id": i}).encode()),
        )
    ]
    write(tmp_path / "set", [entries])
    _, lines, _ = show(tmp_path / "set")
    assert "not usable: no caption 5 (100 %)" in lines
    assert "5 samples with json; fields of text: meta.alt (data.caption_key=json:FIELD)" in lines
    _, lines, _ = show(tmp_path / "set", "--sample", "all", "data.caption_key=json:meta.alt")
    assert "10 captions; 5 samples with several" in lines


def test_shards_that_are_none_and_samples_that_are_damaged(tmp_path, show):
    bad = [*pair("bad", b"x", "y"), *pair("bare", None, "z")]
    write(tmp_path / "set", [[*whole(2), *bad], b"\x1f\x8b" + bytes(9000)])
    status, lines, _ = show(tmp_path / "set", "--out", tmp_path / "look")
    assert status == 0
    assert lines[0].startswith("4 samples in 1 shard, ") or lines[0].startswith("4 samples in 2 shards, ")
    assert lines[1].startswith("1 shard cannot be read: 00001.tar: ")
    assert "not usable: no image 1 (25 %), undecodable image 1 (25 %)" in lines
    page = (tmp_path / "look" / "show.html").read_text()
    assert "undecodable image" in page
    assert page.count("<img") == 2


def test_a_set_without_samples(tmp_path, show):
    write(tmp_path / "set", [[]])
    status, lines, errors = show(tmp_path / "set", "--out", tmp_path / "look")
    assert (status, errors) == (0, [])
    assert lines[0].startswith("0 samples in 1 shard, 0.00 GB")
    assert (tmp_path / "look" / "contact_sheet.png").exists()


def test_without_py3langid_there_are_scripts(tmp_path, show, monkeypatch):
    monkeypatch.setattr(languages, "identifier", lambda: None)
    write(tmp_path / "set", [whole(2)])
    _, lines, _ = show(tmp_path / "set")
    assert "languages: install py3langid for them (pip install 'silc[pack]')" in lines
    assert any(line.startswith("scripts: Latin 2 (100 %)") for line in lines)


_PAGE = {"html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "h3", "p", "ul", "li"}
KNOWN = _PAGE | {"bdi", "div", "img", "i", "table", "thead", "tbody", "tr", "th", "td"}


class Tags(HTMLParser):
    """What a page is made of, as Python's own parser sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name == "src"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "{{ 7 * 7 }} {% include '/etc/passwd' %}",
    "\u202eevil\u202d \u2066isolate",
    "a\0b\x1b[31mred\x07",
    "x" * 1_000_000,
    "word " * 60_000,
    '"><style>*{display:none}</style>',
    "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d \U0001f600",
    "A" + "\u0301" * 5000,
]


@needs_browser
def test_the_page_in_a_browser(tmp_path, show):
    hostile_set(tmp_path)
    assert show(tmp_path / "set", "--out", tmp_path / "look")[0] == 0
    check_page(tmp_path / "look" / "show.html", tmp_path)


def hostile_set(folder: Path) -> None:
    entries = [entry for i, text in enumerate(HOSTILE) for entry in pair(f"{i}<b>", encoded(picture(i)), text)]
    entries += [("j<i>.jpg", encoded(picture(50))), ("j<i>.txt", b"j"), ("j<i>.json", b'{"<u>": "<s>&"}')]
    for name, data in odd().items():
        entries += pair(f"odd-{name.partition('.')[0]}", data, "odd", name.partition(".")[2])
    write(folder / "set", [entries])


def test_hostile_captions_are_text_in_every_output(tmp_path, show):
    hostile_set(tmp_path)
    status, lines, _ = show(tmp_path / "set", "--out", tmp_path / "look")
    assert status == 0
    assert all(line.isprintable() and len(line) < 4000 for line in lines)
    page = (tmp_path / "look" / "show.html").read_text()
    found = Tags()
    found.feed(page)
    assert found.open == []
    assert found.names <= KNOWN
    assert found.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "alt", "src", "style"}
    assert all(source.startswith("data:image/jpeg;base64,") for source in found.sources)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "\0" not in page
    assert len(page) < 600_000
    with Image.open(tmp_path / "look" / "contact_sheet.png") as sheet:
        assert np.asarray(sheet).std() > 10


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no shards given"),
        (["set", "--sample", "0"], "'0': give a number of samples, at least 1, or all"),
        (["set", "--images", "9999"], "'9999': give a number of images, 0 to 1,000"),
        (["set", "--seed", "-1"], "'-1': give a whole number, 0 or more"),
        (["set", "--out", "set/00000.tar"], "set/00000.tar cannot be written to (File exists); give another"),
        (["set", "--out", "look", "--font", "set/00000.tar"], "set/00000.tar is no font that can be read"),
        (["set", "data.tokenizer=nowhere/at/all"], "data.tokenizer='nowhere/at/all' cannot be used"),
    ],
)
def test_a_mistake_is_a_line(tmp_path, show, monkeypatch, words, says):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "set", [whole(1)])
    monkeypatch.chdir(tmp_path)
    status, lines, errors = show(*words)
    assert (status, lines) == (2, [])
    assert says in errors[-1]
    assert errors[-1].startswith("silc shards show: ")


def test_a_reader_that_leaves_is_no_full_disk(tmp_path):
    write(tmp_path / "set", [whole(1)])
    command = [sys.executable, "-m", "silc", "shards", "show", str(tmp_path / "set")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/kernels"}
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=written, stderr=subprocess.PIPE, check=False)
    os.close(written)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_interruption_promises_nothing(tmp_path, show, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    write(tmp_path / "set", [whole(1)])
    monkeypatch.setattr(common.Bar, "show", stop)
    assert show(tmp_path / "set") == (130, [], ["silc shards show: interrupted"])


def test_a_font_of_ones_own(tmp_path, show):
    import PIL.ImageFont

    builtin = PIL.ImageFont.load_default(12)
    (tmp_path / "own.ttf").write_bytes(io.BytesIO(builtin.font_bytes).getvalue())
    write(tmp_path / "set", [whole(1)])
    assert show(tmp_path / "set", "--out", tmp_path / "look", "--font", tmp_path / "own.ttf")[0] == 0
