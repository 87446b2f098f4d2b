"""English sentences and words as NLTK cuts them, from data that is never downloaded while scoring."""

import os
from functools import cache
from typing import Any

from posttrain.errors import PosttrainError


def count_sentences(text: str) -> int:
    """The number of sentences that Punkt (English, punkt_tab) finds. Raises PosttrainError without its data."""
    return len(punkt().tokenize(text))


def words(text: str) -> list[str]:
    """Treebank tokens of each Punkt sentence: NLTK's ``word_tokenize``. Raises PosttrainError without Punkt's data."""
    return [word for sentence in punkt().tokenize(text) for word in _treebank().tokenize(sentence)]


@cache
def _treebank() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


def punkt() -> Any:
    """NLTK's English Punkt tokenizer, read once for each value of NLTK_DATA. NLTK takes 0.5 s to import: only when
    needed."""
    return _punkt(os.environ.get("NLTK_DATA", ""))


@cache
def _punkt(folders: str) -> Any:
    import nltk
    from nltk.tokenize.punkt import PunktTokenizer

    # NLTK reads NLTK_DATA once, at import, which may have been before it was set.
    for folder in reversed([f for f in folders.split(os.pathsep) if f and f not in nltk.data.path]):
        nltk.data.path.insert(0, folder)
    try:
        return PunktTokenizer("english")
    except LookupError as error:
        raise PosttrainError(
            f"counting sentences and capital words needs NLTK's punkt_tab, which is in none of {nltk.data.path}. "
            "Fetch it once with `python -m nltk.downloader punkt_tab`, or set NLTK_DATA to a folder that holds it."
        ) from error
