"""What a user may say about a source."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options of reading; None: not given. Which of them a source knows depends on its kind.

    Attributes:
        captions: where a folder has its captions: the extension of the files beside the images, or `json:FIELD`.
        template: caption of an image in a class folder, {} for the name of the class.
        classes: file with a name a line for the class folders, in their alphabetical order.
        image_column, caption_column: of a table.
        quotes: whether quotation marks enclose fields of a CSV or TSV file.
        root: folder that paths count from.
        split: of a source that has several; `all`, or several with commas between.
    """

    captions: str | None = None
    template: str | None = None
    classes: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    quotes: bool | None = None
    root: str | None = None
    split: str | None = None

    def check(self, title: str, *known: str) -> None:
        """Raises ValueError for an option that is given and means nothing to a source of this kind."""
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in known:
                name = "no-quotes" if field.name == "quotes" else field.name.replace("_", "-")
                raise ValueError(f"--{name} means nothing here, as the source is {title}; leave it out")


def chosen_splits(found: list[str], split: str | None) -> list[str]:
    """The splits that are asked for.

    Args:
        found: those that a source has, in its order.
        split: the option; None: the only one.

    Raises ValueError: several and none is chosen, or one that is not there.
    """
    shown = ", ".join(found[:20])
    if split is None:
        if len(found) > 1:
            raise ValueError(f"it has the splits {shown}; name one with --split, or all of them with --split all")
        return found
    if split == "all":
        return found
    wanted = split.split(",")
    for name in wanted:
        if name not in found:
            raise ValueError(f"--split {split}: there is no split {name!r}, only {shown}")
    return [name for name in found if name in wanted]
