"""How many names a brace pattern stands for, counted before any is made."""

from __future__ import annotations

import re

MAX_PATTERN = 100_000  # characters
MAX_DEPTH = 16  # of braces within braces
_NUMBERS = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?(\d{1,18}))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d{1,18}))?")


def count_names(pattern: str) -> int:
    """The names that braceexpand makes of a pattern, or more.

    Raises ValueError: braces that do not pair, that are nested too deep, or ranges of numbers beyond 18 digits.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"it has more than {MAX_PATTERN:,} characters")
    # One entry a brace that is open: names of its finished alternatives, of the present one, and where it begins.
    levels: list[list[int]] = [[0, 1, 0]]
    at = 0
    while at < len(pattern):
        sign, level = pattern[at], levels[-1]
        if sign == "\\":
            at += 1
        elif sign == "{":
            if len(levels) > MAX_DEPTH:
                raise ValueError(f"its braces are nested more than {MAX_DEPTH} deep")
            levels.append([0, 1, at + 1])
        elif sign == "," and len(levels) > 1:
            level[0], level[1] = level[0] + level[1], 1
        elif sign == "}":
            if len(levels) == 1:
                raise ValueError("its braces do not pair")
            alternatives, last, begin = levels.pop()
            levels[-1][1] *= max(_range(pattern[begin:at]), alternatives + last)
        at += 1
    if len(levels) > 1:
        raise ValueError("its braces do not pair")
    return levels[0][1]


def _range(text: str) -> int:
    """Names of a range like 00..99 or a..z..2; 0 for other text."""
    if found := _NUMBERS.fullmatch(text):
        first, last = int(found[1]), int(found[2])
    elif found := _LETTERS.fullmatch(text):
        return 52
    elif re.fullmatch(r"-?\d+\.\.-?\d+(\.\.-?\d+)?", text):
        raise ValueError("its range has a number of more than 18 digits")
    else:
        return 0
    return abs(last - first) // (int(found[3] or 1) or 1) + 1
