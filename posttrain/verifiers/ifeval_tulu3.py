"""The 25 functions behind the Tülu 3 RLVR labels, ``{"func_name": ..., ...}``: as published, and without their quirks.

``PUBLISHED`` behaves as the release did (spec/verifiers.md §7; open-instruct ``if_functions.py`` at 9c2d44b), down to
``validate_choice`` asking whether the text is in an option. Three departures: langdetect is seeded and its failure is
"not followed" instead of a crash, so is a paragraph index out of range, and ``validate_placeholders`` answers its truth
(the release returned a non-empty tuple there, which its caller took as true whatever the response).

``STRICT`` asks what the instruction asks, and is what a reward should use.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.verifiers import ifeval_checkers, language
from posttrain.verifiers.ifeval_arguments import checked

ARGUMENTS: dict[str, dict[str, str]] = {
    "verify_keywords": {"keyword_list": "texts"},
    "verify_keyword_frequency": {"word": "text", "N": "count"},
    "validate_forbidden_words": {"forbidden_words": "texts"},
    "verify_letter_frequency": {"letter": "character", "N": "count"},
    "validate_response_language": {"language": "text"},
    "verify_paragraph_count": {"N": "count"},
    "validate_word_constraint": {"N": "count", "quantifier": "quantifier"},
    "verify_sentence_constraint": {"N": "count", "quantifier": "quantifier"},
    "validate_paragraphs": {"N": "count", "first_word": "text", "i": "position"},
    "verify_postscript": {"postscript_marker": "text"},
    "validate_placeholders": {"N": "count"},
    "verify_bullet_points": {"N": "count"},
    "validate_title": {},
    "validate_choice": {"options": "options"},
    "validate_highlighted_sections": {"N": "count"},
    "validate_sections": {"N": "count", "section_splitter": "text"},
    "validate_json_format": {},
    "validate_repeat_prompt": {"original_prompt": "text"},
    "validate_two_responses": {},
    "validate_uppercase": {},
    "validate_lowercase": {},
    "validate_frequency_capital_words": {"N": "count", "quantifier": "quantifier"},
    "validate_end": {"end_phrase": "text"},
    "validate_quotation": {},
    "validate_no_commas": {},
}


@dataclass(frozen=True)
class Constraint:
    """A function's name and its checked arguments."""

    name: str
    arguments: Mapping[str, Any]

    def holds_as_published(self, text: str) -> bool:
        """The released function's answer."""
        return PUBLISHED[self.name](text, **self.arguments)

    def holds_strictly(self, text: str) -> bool:
        """Whether the text does what the instruction asks; a blank text never does."""
        return bool(text.strip()) and STRICT[self.name](text, **self.arguments)


def constraint(label: Mapping[str, Any]) -> Constraint:
    """The constraint of a label; the label itself is left as it is (the published code popped its ``func_name``).

    Raises PosttrainError for an unknown function, or a missing, unknown or impossible argument.
    """
    name = label["func_name"]
    if name not in ARGUMENTS:
        near = get_close_matches(str(name), ARGUMENTS, n=1, cutoff=0)[0]
        raise PosttrainError(f"unknown func_name {name!r:.80}; the nearest known is {near!r}")
    given = {key: value for key, value in label.items() if key != "func_name"}
    return Constraint(name, checked(name, ARGUMENTS[name], given))


def _about(count: int, n: int, quantifier: str, tolerance: int) -> bool:
    if quantifier == "at least":
        return count >= n
    if quantifier == "at most":
        return count <= n
    return abs(count - n) <= tolerance


def _tenth(n: int) -> int:
    return max(round(n * 0.1), 1)


# --- as published ---------------------------------------------------------------------------------------------------


def _paragraph_count(text: str, N: int) -> bool:
    pieces = "\n".join(line.strip() for line in text.splitlines()).strip().split("* * *")
    return len(pieces) == N and all(piece.strip() for piece in pieces)


def _paragraphs(text: str, N: int, first_word: str, i: int) -> bool:
    pieces = text.split("\n\n")
    return len(pieces) == N and i <= N and pieces[i - 1].strip().startswith(first_word)


def _sections(text: str, N: int, section_splitter: str) -> bool:
    pieces = text.split(section_splitter)
    return len(pieces) - (not pieces[0]) == N


def _json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _two_responses(text: str) -> bool:
    pieces = text.split("******")
    return text.count("******") == 1 and pieces[0].strip() != pieces[1].strip()


_SENTENCE_END = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=\.|\?)\s")

PUBLISHED: dict[str, Callable[..., bool]] = {
    "verify_keywords": lambda text, keyword_list: all(word.lower() in text.lower() for word in keyword_list),
    "verify_keyword_frequency": lambda text, word, N: re.findall(r"\b\w+\b", text.lower()).count(word.lower()) == N,
    "validate_forbidden_words": lambda text, forbidden_words: (
        not any(word.lower() in text.lower() for word in forbidden_words)
    ),
    "verify_letter_frequency": lambda text, letter, N: text.count(letter) == N,
    "validate_response_language": lambda text, language: _language(text) == language,
    "verify_paragraph_count": _paragraph_count,
    "validate_word_constraint": lambda text, N, quantifier: _about(len(text.split()), N, quantifier, _tenth(N)),
    "verify_sentence_constraint": lambda text, N, quantifier: _about(len(_SENTENCE_END.split(text)), N, quantifier, 1),
    "validate_paragraphs": _paragraphs,
    "verify_postscript": lambda text, postscript_marker: (
        postscript_marker in text and len(text[text.find(postscript_marker) :].strip()) > len(postscript_marker)
    ),
    "validate_placeholders": lambda text, N: len(re.findall(r"\[(.*?)\]", text)) >= N,
    "verify_bullet_points": lambda text, N: sum(line.strip().startswith(("*", "-")) for line in text.split("\n")) == N,
    "validate_title": lambda text: re.search(r"<<(.*?)>>", text) is not None,
    "validate_choice": lambda text, options: any(text in option for option in options),
    "validate_highlighted_sections": lambda text, N: len(re.findall(r"\*(.*?)\*", text)) >= N,
    "validate_sections": _sections,
    "validate_json_format": _json,
    "validate_repeat_prompt": lambda text, original_prompt: text.startswith(original_prompt),
    "validate_two_responses": _two_responses,
    "validate_uppercase": lambda text: text == text.upper(),
    "validate_lowercase": lambda text: text == text.lower(),
    "validate_frequency_capital_words": lambda text, N, quantifier: _about(
        len(re.findall(r"\b[A-Z]+\b", text)), N, quantifier, 0
    ),
    "validate_end": lambda text, end_phrase: text.endswith(end_phrase),
    "validate_quotation": lambda text: text.startswith('"') and text.endswith('"'),
    "validate_no_commas": lambda text: "," not in text,
}


def _language(text: str) -> str | None:
    return language.detect(text)


# --- without the quirks ---------------------------------------------------------------------------------------------


def _times(text: str, word: str) -> int:
    """Occurrences of a word or phrase as whole words, whatever the case."""
    return len(re.findall(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE))


def _strict_paragraph_count(text: str, N: int) -> bool:
    pieces = re.split(r"(?m)^[ \t]*(?:\*[ \t]*){3}$", text)
    inner = pieces[(not pieces[0].strip()) : len(pieces) - (not pieces[-1].strip())]
    return len(inner) == N and all(piece.strip() for piece in inner)


# A full stop after a title or a single initial ends no sentence.
_STRICT_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\b[A-Z])[.?!]+[\"'”’)\]]*(?=\s|$)"
)


def _strict_sentence_count(text: str) -> int:
    ends = [match.end() for match in _STRICT_SENTENCE_END.finditer(text)]
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return sum(1 for piece in pieces if re.search(r"\w", piece))


def _strict_paragraphs(text: str, N: int, first_word: str, i: int) -> bool:
    pieces = re.split(r"\n\s*\n", text.strip())
    if len(pieces) != N or i > N:
        return False
    return re.match(rf"\W*{re.escape(first_word.strip())}(?!\w)", pieces[i - 1], re.IGNORECASE) is not None


def _strict_postscript(text: str, postscript_marker: str) -> bool:
    return re.search(rf"(?m)^[ \t*_]*{re.escape(postscript_marker.strip())}[\s*_:]*[^\s*_:]", text) is not None


def _strict_bullets(text: str, N: int) -> bool:
    return len(re.findall(r"(?m)^[ \t]*[*+-][ \t]+\S", text)) == N


def _strict_choice(text: str, options: str | tuple[str, ...]) -> bool:
    listed = re.split(r"\s*(?:,|/|;|\bor\b)\s*", options) if isinstance(options, str) else options
    wanted = [option for option in listed if option.strip()]
    # The longest first, so that "yes and no" is not also a "no": exactly one choice may be left standing.
    found = []
    for option in sorted(wanted, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(option.strip())}(?!\w)"
        if re.search(pattern, text, re.IGNORECASE):
            found.append(option)
            text = re.sub(pattern, " ", text, flags=re.IGNORECASE)
    return len(found) == 1


def _strict_highlights(text: str, N: int) -> bool:
    return len(re.findall(r"(?<![*\w])(\*{1,3})(?![\s*])[^*\n]*?(?<![\s*])\1(?![*\w])", text)) >= N


def _strict_sections(text: str, N: int, section_splitter: str) -> bool:
    heading = rf"(?mi)^[ \t#*_]*{re.escape(section_splitter.strip())}[ \t]*(?:\d+|[A-Z]\b)"
    return len(re.findall(heading, text)) == N


def _strict_json(text: str) -> bool:
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL | re.IGNORECASE)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return False
    return isinstance(value, dict | list)


def _strict_repeat(text: str, original_prompt: str) -> bool:
    start, prompt = text.strip(), original_prompt.strip()
    return start.startswith(prompt) and bool(start[len(prompt) :].strip())


def _strict_two_responses(text: str) -> bool:
    pieces = [piece.strip() for piece in re.split(r"(?<!\*)\*{6}(?!\*)", text)]
    return len(pieces) == 2 and all(pieces) and pieces[0] != pieces[1]


STRICT: dict[str, Callable[..., bool]] = {
    **PUBLISHED,
    "verify_keywords": lambda text, keyword_list: all(_times(text, word) for word in keyword_list),
    "verify_keyword_frequency": lambda text, word, N: _times(text, word) == N,
    "validate_forbidden_words": lambda text, forbidden_words: not any(_times(text, word) for word in forbidden_words),
    "verify_paragraph_count": _strict_paragraph_count,
    "verify_sentence_constraint": lambda text, N, quantifier: _about(_strict_sentence_count(text), N, quantifier, 1),
    "validate_paragraphs": _strict_paragraphs,
    "verify_postscript": _strict_postscript,
    "validate_placeholders": lambda text, N: len(re.findall(r"\[[^\[\]\n]*\w[^\[\]\n]*\](?!\()", text)) >= N,
    "verify_bullet_points": _strict_bullets,
    "validate_title": lambda text: re.search(r"<<[^<>\n]*\w[^<>\n]*>>", text) is not None,
    "validate_choice": _strict_choice,
    "validate_highlighted_sections": _strict_highlights,
    "validate_sections": _strict_sections,
    "validate_json_format": _strict_json,
    "validate_repeat_prompt": _strict_repeat,
    "validate_two_responses": _strict_two_responses,
    "validate_uppercase": ifeval_checkers.english_capital,
    "validate_lowercase": ifeval_checkers.english_lowercase,
    "validate_frequency_capital_words": lambda text, N, quantifier: _about(
        len(re.findall(r"\b[A-Z]+\b", text)), N, quantifier, _tenth(N)
    ),
    "validate_end": lambda text, end_phrase: text.strip().endswith(end_phrase.strip()),
    "validate_quotation": ifeval_checkers.quotation,
}
