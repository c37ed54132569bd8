"""One export: the files of a format, compared by the other library with the source, their hashes, and a model card."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from silc.interchange.source import Source
from silc.interchange.write.common import towers
from silc.interchange.write.compare import Compared, compare
from silc.interchange.write.folder import check_target, write_card, write_sums
from silc.interchange.write.formats import LIBRARY, Format, writer
from silc.interchange.write.replace import Say, recover, replacing_folder
from silc.interchange.write.tokenizer import check_tokenizer

Card = Callable[[Compared | None], str]


@dataclass(frozen=True)
class Exported:
    """An export that was written.

    Attributes:
        call: the Python that loads it.
        compared: what the comparison found; None where it was left out.
    """

    call: str
    compared: Compared | None


def note(line: str) -> None:
    """Print a line to standard error."""
    print(f"note: {line}", file=sys.stderr, flush=True)


def export(
    source: Source,
    out: Path,
    to: Format,
    *,
    card: Card,
    verify: bool = True,
    keep_others: bool = False,
    say: Say = note,
) -> Exported:
    """Write an export folder, whole or not at all.

    Args:
        source: what is exported, without its distillation head.
        out: the folder; made if missing. An earlier export of the same format is replaced.
        to: the format.
        card: makes the text of README.md from what the comparison found.
        verify: whether the other library loads the export and is compared with the source. Takes as much memory as the
            model once more.
        keep_others: whether `out` may hold files of others, which stay. Otherwise such a folder is refused.
        say: takes a line about what an interrupted export left and what became of it, and about files in the way.

    Raises:
        ValueError: a library that is not installed, a folder that is not to be replaced, weights that do not fit the
            source's sizes, or a tokenizer that cannot be loaded or has more tokens than the text tower.
        Mismatch: a ValueError, where the other library does not load the export or computes something else.
        OSError: a file that cannot be written.
    """
    module = writer(to)
    recover(out, say)
    if not keep_others:
        check_target(out, to, source.path)
    towers(source)  # refuses weights that do not fit
    if to != "timm":
        check_tokenizer(source)
    with replacing_folder(out, say, keep_others=keep_others) as draft:
        module.write(source, draft)
        compared = _compared(source, to, draft) if verify else None
        write_card(draft, card(compared))
        write_sums(draft)
    return Exported(module.loading_call(source, out.resolve()), compared)


def _compared(source: Source, to: Format, folder: Path) -> Compared:
    with _quiet():
        return compare(source, LIBRARY[to], lambda: writer(to).reload(folder))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the other libraries' notes and progress bars; standard error is shown when they fail."""
    logger = logging.getLogger("transformers")
    level, said = logger.level, io.StringIO()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    except Exception:
        sys.stderr.write(said.getvalue())
        raise
    finally:
        logger.setLevel(level)
