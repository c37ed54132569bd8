"""Folders whose figures are not on the pages, or not those of every test set, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from silc.claims.plan import Run
from silc.text import plural

NAMED = 3  # folders of a clause by name
OTHER_KEYS = "another "  # begins the reason of a folder that holds a run with other keys


class Gaps:
    """Filled run by run."""

    def __init__(self) -> None:
        self._left_out: dict[str, list[str]] = {}  # reason -> folders
        self._without: dict[str, list[str]] = {}  # test set -> folders

    def leave_out(self, run: Run, why: str) -> None:
        """Note a folder of which nothing is on the pages."""
        self._left_out.setdefault(why, []).append(run.folder.name)

    def lacks(self, run: Run, test_set: str, why: str = "") -> None:
        """Note a run that is on the pages without its figures on one test set."""
        name = f"{run.folder.name} ({why})" if why else run.folder.name
        self._without.setdefault(test_set, []).append(name)

    @property
    def left_out(self) -> list[str]:
        """A clause for each reason."""
        return [
            f"{names[0]} ({why})" if len(names) == 1 else f"{plural(len(names), 'folder')} ({why}): {_first(names)}"
            for why, names in self._left_out.items()
        ]

    @property
    def without(self) -> list[str]:
        """A clause for each test set that some runs on the pages lack."""
        return [f"without figures on {test_set}: {_first(names)}" for test_set, names in self._without.items()]

    def lines(self, out: Path) -> Iterable[str]:
        """For the terminal. out: the folder of the run folders."""
        if self._left_out:
            yield f"left out of {out}: {'; '.join(self.left_out)}"
        if any(why.startswith(OTHER_KEYS) for why in self._left_out):
            yield "to have runs with other keys on the pages, give the words that they were made with again"
        yield from self.without


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
