"""Where LaTeX answers are put: ``\\boxed{...}``, as the published code finds it."""


def last_boxed(text: str) -> str | None:
    """The last ``\\boxed{...}`` (else ``\\fbox{...}``) with balanced braces, or ``\\boxed `` up to the next ``$``; None
    if there is none or it does not close."""
    if "\\boxed " in text:
        return "\\boxed " + text.split("\\boxed ")[-1].split("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return None
    end = closing_brace(text, start)
    return None if end is None else text[start : end + 1]


def closing_brace(text: str, start: int) -> int | None:
    """The index where the braces opened from ``start`` on are closed again; None when they are not."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] == "{":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    return None


def without_box(boxed: str) -> str | None:
    """The content of what ``last_boxed`` found; None for ``\\fbox`` and for ``\\boxed`` followed by anything else."""
    if boxed.startswith("\\boxed "):
        return boxed[len("\\boxed ") :]
    if "\\boxed " in boxed or not boxed.startswith("\\boxed{") or not boxed.endswith("}"):
        return None
    return boxed[len("\\boxed{") : -1]
