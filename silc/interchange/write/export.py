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

import torch

from silc.files import write_text
from silc.interchange.source import Source
from silc.interchange.write.common import towers
from silc.interchange.write.compare import Compared, Mismatch, compare
from silc.interchange.write.folder import check_target, replacing_folder, write_sums
from silc.interchange.write.formats import LIBRARY, Format, writer

CARD = "README.md"
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


def export(
    source: Source, out: Path, to: Format, *, card: Card, verify: bool = True, keep_others: bool = False
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

    Raises:
        ValueError: a library that is not installed, a folder that is not to be replaced, weights that do not fit the
            source's sizes, or a tokenizer that cannot be loaded.
        Mismatch: a ValueError, where the other library does not load the export or computes something else.
        OSError: a file that cannot be written.
    """
    module = writer(to)
    if not keep_others:
        check_target(out, to, source.path)
    towers(source)  # refuses weights that do not fit
    with replacing_folder(out, keep_others=keep_others) as draft:
        module.write(source, draft)
        compared = _compared(source, to, draft) if verify else None
        write_text(draft / CARD, card(compared))
        write_sums(draft)
    return Exported(module.loading_call(source, out.resolve()), compared)


def _compared(source: Source, to: Format, folder: Path) -> Compared:
    with _quiet(), torch.no_grad():
        try:
            return compare(source, writer(to).reload(folder))
        except (Mismatch, OSError):
            raise
        except Exception as error:  # another library's: any
            said = str(error).strip().partition("\n")[0][:300] or type(error).__name__
            raise Mismatch(f"the export was not written: {LIBRARY[to]} does not load it ({said})") from error


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
