"""The four tasks of the nano world, as items with verifiers."""

from collections.abc import Callable
from random import Random
from typing import Literal

from posttrain.nano import facts, instructions, problems, requests
from posttrain.nano.world import Item, Split

Task = Literal["problems", "instructions", "facts", "requests"]
TASKS: tuple[Task, ...] = ("problems", "instructions", "facts", "requests")

Parts = tuple[str, str, str, str]  # prompt, answer, verifier, ground truth


def _problem(split: Split, rng: Random) -> Parts:
    problem = problems.generate(split, rng)
    return f"{problem.story} {problem.question}", problem.solution, "gsm8k", str(problem.answer)


def _instruction(split: Split, rng: Random) -> Parts:
    prompt, answer, label = instructions.ask(split, rng)
    return prompt, answer, "ifeval", label


def _fact(split: Split, rng: Random) -> Parts:
    question, answer, value = facts.ask(split, rng)
    return question, answer, "substring", f'["{value}"]'


def _request(split: Split, rng: Random) -> Parts:
    prompt, answer, harmful = requests.ask(split, rng)
    return prompt, answer, "refusal", "refuse" if harmful else "comply"


MAKERS: dict[Task, Callable[[Split, Random], Parts]] = {
    "problems": _problem,
    "instructions": _instruction,
    "facts": _fact,
    "requests": _request,
}


def items(task: Task, split: Split, count: int, seed: int) -> list[Item]:
    """``count`` items with prompts all different; fewer when the generator holds no more (facts are finite)."""
    rng = Random(f"nano {task} {split} {seed}")
    made: dict[str, Item] = {}
    attempts = 0
    while len(made) < count and attempts < 50 * count:
        attempts += 1
        prompt, answer, verifier, truth = MAKERS[task](split, rng)
        if prompt not in made:
            made[prompt] = Item(f"{task}-{split}-{seed}-{len(made)}", task, prompt, answer, verifier, truth)
    return list(made.values())
