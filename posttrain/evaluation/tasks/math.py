"""MATH: competition problems, four worked examples; the mean over its seven subjects.

The paper's metric is "flex": right when any of three ways to read the answer is. ``@minerva`` reads one sentence alone.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from posttrain.evaluation.protocol import Decoding, Instance, NotRun, Protocol, Task
from posttrain.evaluation.tasks.hub import in_turn, rows
from posttrain.evaluation.tasks.prompting import ask, plain_of
from posttrain.verifiers.boxed import last_boxed, without_box
from posttrain.verifiers.math_flex import minerva_answer, minerva_normalized

DATA = "EleutherAI/hendrycks_math"
RLVR = "allenai/RLVR-GSM-MATH-IF-Mixed-Constraints"
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

PAPER = Protocol(
    task="math",
    mode="paper",
    data=DATA,
    revision="main",
    split="test",
    format="chat",
    decoding=Decoding(max_tokens=4096),  # §2.4; the released command says 1,024
    verifier="math_flex",
    verifier_mode="tulu3",
    shots=4,
    shots_from=RLVR,  # Minerva's four, which the published RLVR prompts carry
    averaged="groups",
)
RELEASED = replace(PAPER, mode="released", decoding=Decoding(max_tokens=1024))
MINERVA = replace(RELEASED, mode="minerva", prompt=(("reader", "minerva"),), extractor=2)
CLEAN = replace(PAPER, mode="clean", verifier="math", verifier_mode="strict", shots=0, shots_from="")


def final_answer(solution: str) -> str:
    """The content of the last box of a published solution; the solution where it has none."""
    box = last_boxed(solution)
    return (box and without_box(box)) or solution


def minerva_sentence(response: str) -> str:
    """The answer of the one sentence that Minerva's metric reads, in its normal form, which leaves no other way to read
    it."""
    found = minerva_answer(response)
    return "" if found is None else minerva_normalized(found)


def closed(solution: str) -> str:
    """A solution with the sentence that Minerva's examples end in."""
    answer = " ".join(final_answer(solution).split("\n"))  # the sentence is read on one line
    return f"{solution}\nFinal Answer: The final answer is ${answer}$. I hope it is correct."


def published_shots(prompt: str) -> list[tuple[str, str]]:
    """Minerva's (problem, solution with its closing sentence) pairs of a published MATH RLVR prompt."""
    blocks = re.split(r"(?:^|\n\n)Question: ", prompt)[1:-1]
    pairs = [block.partition("\nAnswer:") for block in blocks]
    return [(problem.strip(), closed(solution.strip())) for problem, _, solution in pairs]


def _shots(protocol: Protocol, hub_mirror: Mapping[str, str]) -> list[tuple[str, str]]:
    if not protocol.shots:
        return []
    for row in rows(RLVR, "train", hub_mirror, ("messages", "dataset"), ask_hub=True):
        shots = published_shots(row["messages"][-1]["content"]) if row["dataset"] == "MATH" else []
        if len(shots) == protocol.shots:
            return [(_asked(problem), solution) for problem, solution in shots]
    raise NotRun(f"needs a MATH row with its four worked examples in {RLVR}")


def _asked(problem: str) -> str:
    return f"Problem:\n{problem}"


def _rows(hub_mirror: Mapping[str, str], ask_hub: bool) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """(index, row) by subject. The hub has a configuration per subject, other copies one file with a column."""
    columns = ("problem", "solution")
    if ask_hub and DATA not in hub_mirror:
        found = {subject: rows(DATA, "test", hub_mirror, columns, config=subject, ask_hub=True) for subject in SUBJECTS}
        return {subject: list(enumerate(of)) for subject, of in found.items()}
    by_subject: dict[str, list[tuple[int, dict[str, Any]]]] = {subject: [] for subject in SUBJECTS}
    for index, row in enumerate(rows(DATA, "test", hub_mirror, columns)):
        subject = str(row.get("type", row.get("subject", "algebra"))).lower().replace(" & ", " and ").replace(" ", "_")
        by_subject.setdefault(subject, []).append((index, row))
    return by_subject


def _load(protocol: Protocol, hub_mirror: Mapping[str, str], limit: int | None) -> list[Instance]:
    by_subject = _rows(hub_mirror, True)
    shots = _shots(protocol, hub_mirror)
    named = {subject: [(subject, index, row) for index, row in found] for subject, found in by_subject.items()}
    # In a chat the question's last line asks for the solution; in plain text the answer goes on from it.
    after, prefix = ("\n\nSolution:", "") if protocol.format == "chat" else ("", "\nSolution:")
    return [
        Instance(
            f"math-{subject}-{index}",
            ask(protocol, _asked(row["problem"]), shots, prefix=prefix, after=after),
            ((str(protocol.verifier), final_answer(row["solution"])),),
            closed(row["solution"]),
            group=subject,
            extract=minerva_sentence if protocol.text("reader") else str,
        )
        for subject, index, row in in_turn(named, limit)
    ]


def _fields(hub_mirror: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (f"math-{subject}-{index}", (row["problem"],))
        for subject, found in _rows(hub_mirror, False).items()
        for index, row in found
    ]


TASKS = tuple(Task(chat, plain_of(chat, "\nProblem:"), _load, _fields) for chat in (PAPER, RELEASED, MINERVA, CLEAN))
