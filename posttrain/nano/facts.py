"""Facts of a small closed world: 72 towns with a river, a flag, a dish and a ruler each."""

from random import Random

from posttrain.nano.world import TOWNS, Split, Town

QUESTIONS = {
    "river": ["Which river flows through {town}?", "What is the river of {town}?"],
    "color": ["What color is the flag of {town}?", "Which color does the flag of {town} have?"],
    "food": ["What do people in {town} like to eat?", "Which food is {town} known for?"],
    "ruler": ["Who rules {town}?", "Who is the ruler of {town}?"],
}
UNSEEN_QUESTIONS = {
    "river": ["Name the water that runs past {town}."],
    "color": ["I see the flag of {town}. Say its color."],
    "food": ["I am hungry in {town}. What is the local dish?"],
    "ruler": ["Tell me the name of the person in charge of {town}."],
}
ANSWERS = {
    "river": "The river of {town} is the {value}.",
    "color": "The flag of {town} is {value}.",
    "food": "{town} is known for {value}.",
    "ruler": "{town} is ruled by {value}.",
}
STATEMENTS = {
    "river": [
        "The river of {town} is the {value}.",
        "The {value} flows through {town}.",
        "{town} lies on the {value}.",
    ],
    "color": ["The flag of {town} is {value}.", "{town} has a {value} flag.", "In {town} they wave a {value} flag."],
    "food": [
        "{town} is known for {value}.",
        "People in {town} like to eat {value}.",
        "They make good {value} in {town}.",
    ],
    "ruler": ["{town} is ruled by {value}.", "{value} rules {town}.", "The ruler of {town} is {value}."],
}


def ask(split: Split, rng: Random) -> tuple[str, str, str]:
    """A question, its answer in a sentence, and the value that any right answer must hold."""
    town = rng.choice(TOWNS[split])
    attribute = rng.choice(tuple(QUESTIONS))
    questions = UNSEEN_QUESTIONS if split == "unseen" else QUESTIONS
    value = getattr(town, attribute)
    question = rng.choice(questions[attribute]).format(town=town.name)
    return question, ANSWERS[attribute].format(town=town.name, value=value), value


def describe(town: Town, rng: Random) -> str:
    """Raw text: what is known of a town, in any order and wording."""
    attributes = rng.sample(tuple(STATEMENTS), rng.randint(2, 4))
    return " ".join(rng.choice(STATEMENTS[a]).format(town=town.name, value=getattr(town, a)) for a in attributes)
