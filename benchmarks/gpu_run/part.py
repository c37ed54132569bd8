"""A plugin of pytest: every n-th test alone, and a line of a CSV for each that has ended.

python -m pytest -p benchmarks.gpu_run.part --part 3/16 --record FILE      from the repository's root
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="0/1", metavar="I/N", help="the tests at I, I + N, ... alone, I from 0 on")
    parser.addoption("--record", type=Path, metavar="FILE", help="outcomes; a test that has passed is left out")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place, parts = (int(number) for number in config.getoption("part").split("/"))
    record = config.getoption("record")
    before = outcomes(record) if record else {}
    mine = [item for item in items[place::parts] if before.get(item.nodeid) != PASSED]
    config.hook.pytest_deselected(items=[item for item in items if item not in mine])
    items[:] = mine


class Recorder:
    def __init__(self, record: Path) -> None:
        self.record = record

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != PASSED:
            why = str(report.longrepr[2]) if report.outcome == SKIPPED else ""
            line = [report.nodeid, report.outcome, f"{report.duration:.1f}", why]
            with self.record.open("a", newline="", encoding="utf-8") as file:  # one short write: no lines are mixed
                csv.writer(file, lineterminator="\n").writerow(line)


def pytest_configure(config: pytest.Config) -> None:
    record = config.getoption("record")
    if record:
        config.pluginmanager.register(Recorder(record))


def outcomes(record: Path) -> dict[str, str]:
    """Each test's last outcome, but a failure of its end counts."""
    if not record.exists():
        return {}
    with record.open(encoding="utf-8", newline="") as file:
        return {line[0]: line[1] for line in csv.reader(file)}
