"""Text as decontamination sees it: lower-case words between the separators of the published analyzer."""

import re
from typing import Literal

Splitting = Literal["published", "scripts"]
"""``published``: the released separators alone. ``scripts``: and each CJK or Thai character is a token of its own."""

# The released analyzer splits on space , . ? ! : ; ( ) " - newline and backslash, and on nothing else.
_SEPARATORS = r' ,.?!:;()"\-\n\\'
# These scripts write no spaces, so a whole sentence would be one token: Thai, Lao, Khmer, kana, Han, Hangul stays
# with the words since it has spaces.
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

_PATTERNS: dict[Splitting, re.Pattern[str]] = {
    "published": re.compile(f"[^{_SEPARATORS}]+"),
    "scripts": re.compile(f"[{_UNSPACED}]|[^{_SEPARATORS}{_UNSPACED}]+"),
}


def tokens(text: str, splitting: Splitting = "published") -> list[str]:
    """The tokens of ``text``, in lower case, in order."""
    return _PATTERNS[splitting].findall(text.lower())


def token_spans(text: str, splitting: Splitting = "published") -> list[tuple[int, int]]:
    """[begin, end) of every token, in characters of ``text`` itself; as many as `tokens` gives.

    Lower-casing may change a text's length but never makes or removes a separator, so the counts agree.
    """
    return [match.span() for match in _PATTERNS[splitting].finditer(text)]
