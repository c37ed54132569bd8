"""Any model as a folder of another library, with a card that says where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from silc.files import write_text
from silc.interchange.source import Source
from silc.interchange.write.export import CARD, Exported, export
from silc.interchange.write.folder import check_target, write_sums
from silc.interchange.write.formats import Format, writer
from silc.train.card import History, card
from silc.train.weights import Name, needs_tokenizer, read_weights


class Written(NamedTuple):
    """What was read, and what :func:`silc.interchange.write.export.export` says of what was written."""

    source: Source
    exported: Exported

    def described(self) -> Source:
        """The source without the values of its weights, for :func:`renew_card`."""
        return replace(self.source, weights={name: value.to("meta") for name, value in self.source.weights.items()})


def write_export(
    path: str | Path,
    out: Path,
    *,
    to: Format = "open_clip",
    model: Name = "student",
    tokenizer: str | None = None,
    verify: bool = True,
    keep_others: bool = False,
) -> Written:
    """Read a model and write it as an export folder, whole or not at all.

    Args:
        path: a run folder, a checkpoint, an export, or a file or folder of another library.
        out, to, verify, keep_others: as for :func:`silc.interchange.write.export.export`.
        model: student, or the teacher's image tower with the student's text tower.
        tokenizer: as data.tokenizer; for files that do not say which one they were trained with.

    Raises as :func:`silc.train.weights.read_weights` and :func:`silc.interchange.write.export.export`.
    """
    writer(to)  # what can be known is said before weights are read
    if not keep_others:
        check_target(out, to, Path(path))
    source = read_weights(path, model)
    if tokenizer is not None:
        source = replace(source, tokenizer=tokenizer)
    if source.tokenizer is None and to != "timm":
        raise ValueError(needs_tokenizer(source, "--tokenizer"))
    history = History.of(source.path, model)
    found = export(
        source,
        out,
        to,
        card=lambda compared: card(source, to, model, history, compared),
        verify=verify,
        keep_others=keep_others,
    )
    return Written(source, found)


def renew_card(source: Source, out: Path) -> None:
    """Write the card of a run's own export for open_clip anew, with the metrics that were measured since.

    source: :meth:`Written.described` of that export, which is not read again; out: its folder, which may be gone.

    Raises OSError.
    """
    if out.is_dir():
        write_text(out / CARD, card(source, "open_clip", "student", History.of(source.path, "student"), None))
        write_sums(out)
