"""Types of the values of keys, with their ranges, and how a field is declared."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, arbitrary_types_allowed=False)

# Upper limits are far beyond any run. They are there for a configuration that others wrote, whose sizes would otherwise
# overflow, or take days to lay out, before the weights show that they are wrong.
Positive = Annotated[int, Field(gt=0, le=10**13)]  # steps, samples, elements
NonNegative = Annotated[int, Field(ge=0, le=10**13)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(gt=0, le=65_536)]  # pixels a side, tokens, width
Pixels = Annotated[int, Field(gt=0, le=178_956_970)]  # of an image; Pillow decodes no more
Depth = Annotated[int, Field(gt=0, le=1024)]  # blocks, heads, layers
Rows = Annotated[int, Field(gt=0, le=10**8)]  # of a table
Batch = Annotated[int, Field(gt=0, le=10**9)]
Crops = Annotated[int, Field(ge=0, le=1024)]
Ratio = Annotated[float, Field(gt=0, le=64)]
Decay = Annotated[float, Field(gt=0, le=1)]
Scale = Annotated[float, Field(gt=0, le=1e6)]
Minutes = Annotated[float, Field(gt=0, le=1e7)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dropped = Annotated[float, Field(ge=0, lt=1)]
Area = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
Rgb = tuple[float, float, float]
Backend = Annotated[str, Field(pattern=r"^[a-z_]+$")]
Gelu = Literal["exact", "tanh"]


def as_set(values: list[str]) -> list[str]:
    """A list whose order and repetitions mean nothing, the same for each way to write it."""
    return sorted(set(values))


def key(default: Any, doc: str) -> Any:
    """A field with its one-line description; mutable defaults are copied for each instance."""
    if isinstance(default, list | dict):
        return Field(default_factory=lambda: type(default)(default), description=doc)
    return Field(default=default, description=doc)
