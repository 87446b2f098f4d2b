"""Raw text of the nano world, for pretraining: no chat turns, no instructions."""

from collections.abc import Iterator
from random import Random

from posttrain.nano import facts, instructions, problems
from posttrain.nano.world import TOWNS

KINDS = ("drill", "story", "question", "facts", "text", "advice")
WEIGHTS = (14, 16, 14, 18, 35, 3)


def _drill(rng: Random) -> str:
    lines = []
    for _ in range(rng.randint(4, 8)):
        kind = rng.choice("++--*")
        if kind == "+":
            a = rng.randint(0, 97)
            b = rng.randint(0, 99 - a)
            lines.append(f"{a} + {b} = {a + b}.")
        elif kind == "-":
            a = rng.randint(0, 99)
            b = rng.randint(0, a)
            lines.append(f"{a} - {b} = {a - b}.")
        else:
            a = rng.randint(1, 30)
            b = rng.randint(2, 9)
            if a * b > 99:
                a = rng.randint(1, 9)
            lines.append(f"{a} * {b} = {a * b}.")
    return " ".join(lines)


def _advice(rng: Random) -> str:
    from posttrain.nano.requests import ADVICE

    return rng.choice(ADVICE)


def document(rng: Random) -> str:
    kind = rng.choices(KINDS, WEIGHTS)[0]
    if kind == "drill":
        return _drill(rng)
    if kind in ("story", "question"):
        problem = problems.generate("train", rng, mixed_words=True)
        if kind == "story":
            return f"{problem.story} {problem.solution}"
        return f"Question: {problem.story} {problem.question}\nAnswer: {problem.solution}"
    if kind == "facts":
        town = rng.choice([t for towns in TOWNS.values() for t in towns])
        return facts.describe(town, rng)
    if kind == "advice":
        return _advice(rng)
    return instructions.text(rng)


def documents(seed: int) -> Iterator[str]:
    """Documents without end, the same for the same seed."""
    rng = Random(f"nano corpus {seed}")
    while True:
        yield document(rng)
