"""The pages of docs/ops: each runs, says the same things in the same order, and quotes figures that were measured."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from silc_kernels import report
from tests.kernels.dropins.pages import PAGES, run

RESULTS = PAGES.parents[1] / "benchmarks" / "results"
EACH = pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
SECTIONS = "What * and give*|Precision|Between ranks|What it costs|Limits|Which backend runs|What differs from *"
UNITS = {"ms": ("ms", 1), "s": ("ms", 1000), "MiB": ("peak_mib", 1)}


@EACH
def test_the_code_runs(page):
    assert "silc_kernels" in page.read_text(encoding="utf-8")
    assert any(getattr(value, "__module__", None) == page.stem for value in run(page.stem).values())


@EACH
def test_the_sections_are_those_of_the_others(page):
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    expected = [section.replace("*", ".*") for section in SECTIONS.split("|")]
    assert len(headings) == len(expected)
    assert all(re.fullmatch(one, heading) for one, heading in zip(expected, headings, strict=True))


def test_every_op_has_a_page():
    text = " ".join(path.read_text(encoding="utf-8").splitlines()[0] for path in PAGES.glob("*.md"))
    assert all(row.op in text for row in report("cpu"))


def costs(page: Path) -> str:
    (section,) = re.findall(r"^## What it costs\n(.*?)^## ", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return section


def read(name: str) -> list[dict[str, str]]:
    with (RESULTS / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measured(names: list[str], column: str) -> list[float]:
    return [float(row[column]) for name in names for row in read(name) if row.get(column)]


def quoted(section: str) -> Iterator[tuple[str, str, int]]:
    """(figure, column of the CSVs, how many of that column's unit it counts) of the section's tables."""
    for line in section.splitlines():
        for cell in line.split("|")[2:-1] if line.startswith("|") else ():
            if found := re.fullmatch(r"([\d.,]+) ?(ms|s|MiB)?", cell.strip()):
                yield found[1].replace(",", ""), *UNITS[found[2] or "ms"]


@EACH
def test_the_figures_are_dated_as_in_the_committed_files(page):
    """Measured anew, they are of another commit, and the page must say so."""
    section = costs(page)
    rows = [row for name in re.findall(r"\w+\.csv", section) for row in read(name)]
    assert set(re.findall(r"\b[0-9a-f]{7}\b", section)) == {row["commit"] for row in rows}
    assert set(re.findall(r"\b20\d\d-\d\d-\d\d\b", section)) == {row["date"] for row in rows}


@EACH
def test_the_figures_are_those_of_the_committed_files(page):
    section = costs(page)
    files = re.findall(r"\w+\.csv", section)
    figures = list(quoted(section))
    assert figures
    for figure, column, times in figures:
        digits = len(figure.partition(".")[2])
        known = {f"{value / times:.{digits}f}" for value in measured(files, column)}
        assert figure in known, f"{page.name}: {figure} is in none of {files}"
