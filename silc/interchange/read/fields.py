"""Descriptions in JSON compared with what can be computed here: every difference in words."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from silc.text import shown

Size = Annotated[int, Field(ge=1, le=1_000_000)]
Number = Annotated[float, Field(gt=0, le=1e6)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Three = Annotated[list[Finite], Field(min_length=3, max_length=3)]
ThreePositive = Annotated[list[Number], Field(min_length=3, max_length=3)]
MOST = 12  # differences that a message lists


class Described(BaseModel):
    """Fields of a description; those that are not declared are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Open(BaseModel):
    """As `Described`, but fields that are not declared have no influence."""

    model_config = ConfigDict(extra="ignore", strict=True)


D = TypeVar("D", bound=BaseModel)


def otherwise(value: Any) -> Any:
    """A field's value where it is absent, compared as one that is given."""
    return Field(default=value, validate_default=True)


def differences(kind: type[D], tree: object, wrong: list[str], above: str = "") -> D | None:
    """The fields of a description; or None, and all that is wrong with them added to `wrong`."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            field = ".".join([above, *map(str, fault["loc"])] if above else map(str, fault["loc"]))
            wrong.append(_said(shown(field) or "the description", fault["type"], fault["input"], fault))
        return None


def _said(field: str, kind: str, given: object, fault: Any) -> str:
    if kind == "missing":
        return f"{field} is missing"
    value = f"{field} is {reprlib.repr(given)}"
    if kind == "literal_error":
        return f"{value}, here {fault['ctx']['expected']}"
    if kind == "value_error":
        return f"{value}, {fault['ctx']['error']}"
    if kind == "extra_forbidden":
        return f"{value}, which is not known here"
    return f"{value} ({fault['msg'][0].lower()}{fault['msg'][1:]})"


def listed(wrong: list[str]) -> str:
    """Differences as one line."""
    more = f"; and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
    return "; ".join(wrong[:MOST]) + more
