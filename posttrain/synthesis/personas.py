"""Prompts written from personas, and what it takes for an answer to be accepted (Tülu 3 paper §3.1.2, our own words).

The published sets were never checked: no answer of Persona MATH was compared with another, no constraint of Persona IF
can be checked, for only the names of the constraints were kept. Here nothing is a row before code has said yes.
"""

import ast
import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.rows import Message
from posttrain.synthesis.constraints import Constraint
from posttrain.verifiers.code import extract_program
from posttrain.verifiers.gsm8k import last_number
from posttrain.verifiers.math import final_answer

PERSONA_COLUMNS = ("persona", "input persona", "input_persona", "description")


@dataclass(frozen=True)
class Task:
    """``ask`` has a place for the persona, ``solve`` (a system message) says how answers must end."""

    ask: str
    solve: str
    verifier: str


TASKS: dict[str, Task] = {
    "hard_math": Task(
        "Write one hard mathematics problem that this person might meet and that few others would: {persona}\n"
        "It needs advanced skills, has at most two parts and one final answer. Write the problem alone, no solution.",
        "Solve the problem step by step. End with the line: The answer is \\boxed{…}, the final answer in the braces.",
        "math",
    ),
    "grade_school_math": Task(
        "Write one word problem for a grade-school pupil out of the life of this person: {persona}\n"
        "A chain of elementary steps leads to one number. Write the problem alone, no solution.",
        "Solve the problem step by step. End with a line that holds #### and the final number.",
        "gsm8k",
    ),
    "algebra": Task(
        "Write one problem of intermediate algebra that this person might meet: {persona}\n"
        "It is about polynomial, linear or quadratic equations, inequalities, or rational or radical expressions, and "
        "has one final answer. Write the problem alone, no solution.",
        "Solve the problem step by step. End with the line: The answer is \\boxed{…}, the final answer in the braces.",
        "math",
    ),
    "python": Task(
        "You are this person: {persona}\nAsk for one Python function that you need, as on a forum. A programmer of one "
        "or two years can write it. Name the function, its arguments and what it returns. Begin with: write a python "
        "function to",
        "Answer with one Python code block that holds the function and what it imports, nothing else.",
        "code",
    ),
    "precise_if": Task(
        "Write one instruction that this person might give to an assistant: {persona}\n"
        "It asks for a short text. Say nothing of length, format or style. Write the instruction alone.",
        "Follow the instruction and every restriction in it to the letter.",
        "ifeval",
    ),
}

TESTS = (
    "Write 3 to 6 assert statements that any right answer to this request passes. Take the function's name from the "
    "request. One Python code block with one assert on each line, nothing else.\n\n{question}"
)
LEAST_TESTS = 3


def calls_of(task: str, votes: int) -> int:
    """Requests that one candidate takes at most: the prompt, its answers, for code its tests."""
    if task in ("python", "precise_if_pairs"):
        return 3
    return 1 + (votes if TASKS[task].verifier in ("math", "gsm8k") else 1)


def persona_of(row: Mapping[str, Any]) -> str | None:
    """The persona in a row of Persona Hub's layout or like it."""
    return next((row[name].strip() for name in PERSONA_COLUMNS if isinstance(row.get(name), str)), None)


def question_messages(task: str, persona: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": TASKS[task].ask.format(persona=persona)},)


def answer_messages(task: str, question: Sequence[Message]) -> tuple[Message, ...]:
    return ({"role": "system", "content": TASKS[task].solve}, *question)


def test_messages(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": TESTS.format(question=question)},)


def asserts(response: str) -> list[str]:
    """The assert statements of a response, one a line. One that calls no function but Python's own tests nothing."""
    lines = [line.strip() for line in extract_program(response).splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("assert") and _calls_something(line)))


def _calls_something(statement: str) -> bool:
    try:
        [node] = ast.parse(statement).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {one.func.id for one in ast.walk(node) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)}
    return isinstance(node, ast.Assert) and bool(called - set(dir(builtins)))


def final(task: str, answer: str) -> str | None:
    """The final answer of a solution, as the task's verifier reads it."""
    if TASKS[task].verifier == "gsm8k":
        number = last_number(answer)
        return None if number is None else str(number)
    return final_answer(answer)


def majority(agreements: Mapping[str, Sequence[bool]], votes: int) -> tuple[str, int] | None:
    """The final answer that more than half of ``votes`` solutions agree with, and the first such solution.

    ``agreements``: final answer → for each solution whether the verifier takes it as that answer.
    """
    best = max(agreements, key=lambda label: (sum(agreements[label]), label), default=None)
    if best is None or sum(agreements[best]) * 2 <= votes:
        return None
    return best, list(agreements[best]).index(True)


def relaxed(constraints: Sequence[Constraint], dropped: int) -> tuple[Constraint, ...]:
    """All but one: an answer to them is a rejected one for all (persona-IF preferences)."""
    return tuple(one for place, one in enumerate(constraints) if place != dropped)
