"""Safety sets as published, read into prompts that say whether a refusal is wanted.

CoCoNot (arXiv 2407.12043), WildGuardMix (2406.18495), WildJailbreak (2406.18510), by their published columns. Benign
prompts that look harmful are half of the matter: whoever refuses them over-refuses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.artifacts.hashing import digest_json
from posttrain.data.rejects import BadRow, brief


@dataclass(frozen=True)
class SafetyPrompt:
    """``harmful``: a refusal is wanted. ``response``: the published one, where there is one."""

    id: str
    prompt: str
    harmful: bool
    category: str
    source: str
    response: str | None = None


Columns = Mapping[str, Any]


def _coconot(row: Columns) -> SafetyPrompt:
    # The contrast set (and the preference set made from it) holds what must not be refused.
    contrast = row.get("chosen") is not None or "contrast" in str(row.get("split", ""))
    response = row.get("response") or row.get("chosen")
    return _made(row, "prompt", not contrast, row.get("category"), "coconot", response)


def _wildguardmix(row: Columns) -> SafetyPrompt:
    label = row.get("prompt_harm_label")
    if label not in ("harmful", "unharmful"):
        raise BadRow("prompt_harm_label is not harmful or unharmful", found=brief(label))
    # A response that complies with a harmful prompt, or refuses a benign one, is no example.
    fits = (row.get("response_refusal_label") == "refusal") == (label == "harmful")
    response = row.get("response") if fits and row.get("response_harm_label") != "harmful" else None
    return _made(row, "prompt", label == "harmful", row.get("subcategory"), "wildguardmix", response)


def _wildjailbreak(row: Columns) -> SafetyPrompt:
    kind = row.get("data_type")
    if kind not in ("vanilla_harmful", "vanilla_benign", "adversarial_harmful", "adversarial_benign"):
        raise BadRow("data_type is not vanilla_ or adversarial_, harmful or benign", found=brief(kind))
    column = "vanilla" if kind.startswith("vanilla") else "adversarial"
    return _made(row, column, kind.endswith("harmful"), kind, "wildjailbreak", row.get("completion"))


ADAPTERS: dict[str, Callable[[Columns], SafetyPrompt]] = {
    "coconot": _coconot,
    "wildguardmix": _wildguardmix,
    "wildjailbreak": _wildjailbreak,
}


def safety_prompt(layout: str, row: Columns) -> SafetyPrompt:
    """One row of a published set. Raises BadRow for a row without prompt or label."""
    return ADAPTERS[layout](row)


def _made(row: Columns, column: str, harmful: bool, category: Any, source: str, response: Any) -> SafetyPrompt:
    prompt = row.get(column)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadRow(f'column "{column}" holds no text')
    id = str(row.get("id") or digest_json([source, prompt])[:16])
    response = response if isinstance(response, str) and response.strip() else None
    return SafetyPrompt(f"{source}/{id}", prompt, harmful, str(category or ""), source, response)
