"""Any model as a folder of another library, with a card that says where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from silc.interchange.fit import IMAGES
from silc.interchange.source import Source
from silc.interchange.write.export import Exported, export, note
from silc.interchange.write.folder import CARD, check_target, kind_of, renew_sum, write_card
from silc.interchange.write.formats import Format, writer
from silc.interchange.write.replace import Say, recover
from silc.interchange.write.tokenizer import HERE, hub_name
from silc.train.card import History, card
from silc.train.weights import Name, needs_tokenizer, read_weights
from silc_kernels import resize_positions


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
    say: Say = note,
) -> Written:
    """Read a model and write it as an export folder, whole or not at all.

    Args:
        path: a run folder, a checkpoint, an export, or a file or folder of another library.
        out, to, verify, keep_others, say: as for :func:`silc.interchange.write.export.export`.
        model: student, or the teacher's image tower with the student's text tower.
        tokenizer: as data.tokenizer; for files that do not say which one they were trained with, or name a folder that
            is no longer there.

    A run's model is written for images of views.global_size, which it was evaluated with; `say` takes a line where that
    is not the size of its position table.

    Raises as :func:`silc.train.weights.read_weights` and :func:`silc.interchange.write.export.export`, and ValueError
    for a tokenizer other than the one that the files name.
    """
    writer(to)  # what can be known is said before weights are read
    recover(out, say)
    if not keep_others:
        check_target(out, to, Path(path))
    source = read_weights(path, model)
    if tokenizer is not None:
        source = _with_tokenizer(source, tokenizer)
    if source.tokenizer is None and to != "timm":
        raise ValueError(needs_tokenizer(source, "--tokenizer"))
    history = History.of(source.path, model)
    if history is not None:
        source = _as_evaluated(source, history.config.views.global_size, say)
    found = export(
        source,
        out,
        to,
        card=lambda compared: card(source, to, model, history, compared),
        verify=verify,
        keep_others=keep_others,
        say=say,
    )
    return Written(source, found)


def _with_tokenizer(source: Source, name: str) -> Source:
    """The source with the tokenizer that the user names. Raises ValueError where the files name another one."""
    named = source.tokenizer
    if named is None:
        return replace(source, tokenizer=name)
    there, given = Path(named), Path(name)
    if name == named or (there.exists() and given.exists() and there.samefile(given)):
        return source
    if hub_name(named) == HERE and not there.exists():  # a folder that was moved
        return replace(source, tokenizer=name)
    raise ValueError(f"{source.path} was trained with the tokenizer {named}; leave out --tokenizer={name}")


def _as_evaluated(source: Source, size: int, say: Say) -> Source:
    """The model for images of `size` pixels a side, its position table resized as a forward pass at that size does."""
    vision = source.model.vision
    if size == vision.image_size:
        return source
    old, new = vision.image_size // vision.patch_size, size // vision.patch_size
    table = resize_positions(source.weights[IMAGES].float(), (old, old), (new, new))[None]
    say(
        f"the export is for images of {size} px (views.global_size), with which the run was evaluated; the position "
        f"table, of {vision.image_size} px, is resized"
    )
    sizes = replace(source.model, vision=replace(vision, image_size=size))
    return replace(source, model=sizes, weights={**source.weights, IMAGES: table})


def renew_card(source: Source, out: Path) -> None:
    """Write the card of a run's own export for open_clip anew, with the metrics that were measured since.

    source: :meth:`Written.described` of that export, which is not read again; out: its folder, which may be gone.

    Raises OSError.
    """
    if kind_of(out) == "open_clip":
        write_card(out, card(source, "open_clip", "student", History.of(source.path, "student"), None))
        renew_sum(out, CARD)  # of that file alone: those of the rest say what was written
