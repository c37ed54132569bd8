"""Whether an expression of a stranger's tokenizer can be matched in bounded time.

Oniguruma, which the tokenizers library matches with, goes back and tries each way to match a text. Counted here are the
ways of an expression: each repeat and each alternative multiplies them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LONGEST = 2048  # characters
MOST_REPEATS = 1000  # of `{n}`
LONG = 4096  # times that a repeat without an end is counted as
MOST_WAYS = float(LONG) ** 3  # the expressions of byte-level tokenizers have two such repeats in a row

# In the order in which they are tried. What would be read in another way by Oniguruma than here is left out: comments,
# the extended mode, calls, back references and control characters, whose second character may be a bracket.
_PARTS = re.compile(
    r"(?P<escape>\\[pPux]\{\^?\w{1,40}\}|\\[^cCMgkQ1-9])"
    r"|(?P<open>\((?!\*)(?:\?(?::|=|!|<=|<!|>|<[A-Za-z_]\w*>|[im]{0,2}(?:-[im]{1,2})?[:)])|(?!\?)))"
    r"|(?P<close>\))"
    r"|(?P<bar>\|)"
    r"|(?P<times>(?:[*+?][?+]?|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\}\??))"
    r"|(?P<plain>[^\\()\[|*+?])",
    re.DOTALL,
)
_IN_CLASS = re.compile(r"\\[pPux]\{\^?\w{1,40}\}|\\[^cCMgkQ]|\[:\^?[a-z]{1,12}:\]|[^\\]", re.DOTALL)


def check_regex(path: Path, pattern: Any) -> None:
    """Refuse an expression that may have too many ways to match. path: of its file; pattern: None for none.

    Raises ValueError: a repeated group or repeat, too many or too high repeats, or syntax that no tokenizer needs.
    """
    if pattern is None:
        return
    if not isinstance(pattern, str) or len(pattern) > LONGEST:
        raise ValueError(f"{path}: an expression of more than {LONGEST} characters")
    try:
        ways = _ways(pattern)
    except ValueError as error:
        raise ValueError(f"{path}: the expression {pattern!r:.80} {error}") from None
    if not ways <= MOST_WAYS:
        raise ValueError(f"{path}: the expression {pattern!r:.80} repeats too often; its time has no bound")


def _ways(pattern: str) -> float:
    """Upper bound of the ways to match. Raises ValueError with the end of a message."""
    groups = [(0.0, 1.0)]  # of each open group: ways of its alternatives, and of the one being read
    at, before = 0, ""
    while at < len(pattern):
        if pattern[at] == "[":
            at, before = _after_class(pattern, at), "class"
            continue
        found = _PARTS.match(pattern, at)
        if found is None:
            raise ValueError(f"has {pattern[at : at + 3]!r}, which is not read here")
        at, kind = found.end(), found.lastgroup
        done, now = groups[-1]
        opened = found["open"] or ""
        if opened.endswith(")") and found.start():
            raise ValueError(f"sets {opened} after its start, which is not read here")
        if opened and not opened.endswith(")"):
            groups.append((0.0, 1.0))
        elif found["bar"]:
            groups[-1] = (done + now, 1.0)
        elif found["close"]:
            groups.pop()
            if not groups:
                raise ValueError("closes a group that is not open")
            groups[-1] = (groups[-1][0], groups[-1][1] * (done + now))
        elif found["times"]:
            if before == "times" or (before == "close" and found["times"] not in ("?", "??")):
                raise ValueError("repeats a group, or a repeat; its time has no bound")
            groups[-1] = (done, now * _times(found))
        before = "times" if found["times"] else kind or ""
    return sum(groups[0])


def _times(found: re.Match[str]) -> float:
    """Ways of a repeat. Raises ValueError for one that is too high."""
    sign = found["times"]
    if sign[0] != "{":
        return 2 if sign[0] == "?" else LONG
    least, most = found["least"], found["most"]
    if not least and not most:
        return 1  # braces that are characters
    if max(len(least), len(most)) > 9 or max(int(least or 0), int(most or 0)) > MOST_REPEATS:
        raise ValueError("repeats too often; its time has no bound")
    if not found["comma"]:
        return 2 if sign.endswith("?") else 1
    return LONG if not most else abs(int(most) - int(least or 0)) + 1


def _after_class(pattern: str, at: int) -> int:
    """Where a class of characters ends, with those inside it. Raises ValueError for one without an end."""
    depth = 0
    while at < len(pattern):
        found = _IN_CLASS.match(pattern, at)
        if found is None:
            break
        if found[0] == "[":
            depth += 1
            if re.compile(r"\[\^?\]").match(pattern, at):
                break  # a bracket that is a character, or an empty class
        elif found[0] == "]":
            depth -= 1
        at = found.end()
        if not depth:
            return at
    raise ValueError("has a class of characters without an end, or an empty one")
