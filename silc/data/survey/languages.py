"""In which scripts and languages captions are: an estimate."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

LONGEST = 2000  # characters of a caption that are looked at
NO_LETTERS, TOO_SHORT, UNKNOWN = "no letters", "too short to tell", "unknown"
SHORTEST = 16  # bytes of a caption whose language is guessed: of a word or two the guess is as good as random
# First word of a letter's name in Unicode -> how its script is called.
_SCRIPTS = {
    "CJK": "Han",
    "HIRAGANA": "Japanese kana",
    "KATAKANA": "Japanese kana",
    "FULLWIDTH": "Latin",
    "HALFWIDTH": "Japanese kana",
    "MATHEMATICAL": "Latin",
}
Identify = Callable[[str], str]
"""A caption -> its language, a code as ISO 639 has it."""


def script_of(text: str) -> str:
    """The script that most letters of a text are of: Latin, Han, Cyrillic, ...; NO_LETTERS where it has none."""
    scripts = Counter(_script(sign) for sign in text[:LONGEST] if sign.isalpha())
    return min(scripts, key=lambda name: (-scripts[name], name)) if scripts else NO_LETTERS


@functools.lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, UNKNOWN).split()[0]
    return _SCRIPTS.get(first, first.capitalize())


def identifier() -> Identify | None:
    """py3langid's, where it is installed; None otherwise."""
    try:
        import py3langid
    except ImportError:
        return None
    return lambda text: str(py3langid.classify(text[:LONGEST])[0])


def count(texts: Iterable[str], identify: Identify | None) -> tuple[Counter[str], Counter[str]]:
    """Scripts and languages of texts; no languages without `identify`, and none of short texts."""
    scripts, languages = Counter[str](), Counter[str]()
    for text in texts:
        script = script_of(text)
        scripts[script] += 1
        if identify is not None:
            short = script == NO_LETTERS or len(text.encode("utf-8", "replace")) < SHORTEST
            languages[TOO_SHORT if short else identify(text)] += 1
    return scripts, languages
