"""Word problems of one to three arithmetic steps (unseen: two to four, told in other words), with worked solutions."""

from dataclasses import dataclass
from random import Random

from posttrain.nano.world import NAMES, THINGS, Split, all_words

LIMIT = 99  # no intermediate result above it


@dataclass(frozen=True)
class Problem:
    story: str
    question: str
    steps: tuple[str, ...]  # "12 + 7 = 19"
    answer: int

    @property
    def solution(self) -> str:
        return " ".join(f"{step}." for step in self.steps) + f" The answer is {self.answer}."


TRAIN_PHRASES = {
    "start": ["{n} has {a} {t}.", "There are {a} {t} with {n}.", "{n} owns {a} {t}."],
    "groups": ["{n} has {a} bags with {b} {t} in each.", "{n} has {a} bags of {b} {t} each."],
    "add": ["{n} buys {b} more.", "{m} gives {n} {b} more.", "{n} finds {b} more {t}.", "Then {n} gets {b} {t}."],
    "subtract": ["{n} gives {b} to {m}.", "{n} loses {b} {t}.", "{n} sells {b} of them.", "{m} takes {b} {t} away."],
    "times": ["Then {n} gets {b} times as many.", "After that {n} has {b} times as many {t}."],
    "question": ["How many {t} does {n} have now?", "How many {t} does {n} have?", "How many {t} are left with {n}?"],
}
UNSEEN_PHRASES = {
    "start": ["{n} starts the day with {a} {t}.", "On the table of {n} lie {a} {t}."],
    "groups": ["{n} fills {a} crates with {b} {t} per crate.", "{a} shelves of {n} hold {b} {t} each."],
    "add": ["A friend brings {n} another {b}.", "Later {n} picks up {b} further {t}."],
    "subtract": ["Of these {b} get broken.", "{n} throws away {b} of the {t}."],
    "times": ["A week later the number of {t} is {b} times as large."],
    "question": ["What is the number of {t} that {n} holds at the end?", "Count the {t} of {n}."],
}


def generate(split: Split, rng: Random, *, mixed_words: bool = False) -> Problem:
    """One problem. ``mixed_words`` draws names and things of all splits (for pretraining text)."""
    phrases = UNSEEN_PHRASES if split == "unseen" else TRAIN_PHRASES
    names = all_words(NAMES) if mixed_words else NAMES[split]
    things = all_words(THINGS) if mixed_words else THINGS[split]
    name, other = rng.sample(names, 2)
    words = {"n": name, "m": other, "t": rng.choice(things)}
    wanted = rng.choice((2, 3, 4)) if split == "unseen" else rng.choice((1, 2, 2, 3, 3))

    story, steps = [], []
    if rng.random() < 0.3:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        story.append(rng.choice(phrases["groups"]).format(a=a, b=b, **words))
        total = a * b
        steps.append(f"{a} * {b} = {total}")
    else:
        total = rng.randint(5, 60)
        story.append(rng.choice(phrases["start"]).format(a=total, **words))
    while len(steps) < wanted:
        kinds = [k for k, room in (("add", total <= LIMIT - 2), ("subtract", total >= 4)) if room]
        if 2 <= total <= 30 and rng.random() < 0.25:
            kinds = ["times"]
        kind = rng.choice(kinds)
        if kind == "add":
            b = rng.randint(2, min(60, LIMIT - total))
            new, sign = total + b, "+"
        elif kind == "subtract":
            b = rng.randint(2, total - 1)
            new, sign = total - b, "-"
        else:
            b = rng.randint(2, LIMIT // total if LIMIT // total < 5 else 5)
            new, sign = total * b, "*"
        story.append(rng.choice(phrases[kind]).format(b=b, **words))
        steps.append(f"{total} {sign} {b} = {new}")
        total = new
    question = rng.choice(phrases["question"]).format(**words)
    return Problem(" ".join(story), question, tuple(steps), total)
