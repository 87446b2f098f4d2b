"""Writing tasks with constraints that code can check: IFEval's types, and demonstrations built to satisfy them.

Twelve types are trained; six more appear in the unseen split alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from posttrain.nano.world import ADJECTIVES, KEYWORDS, NAMES, NEEDS, PLACES, TOPICS, VERBS, Split


@dataclass
class Draft:
    """A text under construction: sentences first, then the form they take."""

    topic: str
    rng: Random
    banned: frozenset[str] = frozenset()  # words no sentence may hold
    commas: bool = True
    sentences: list[str] = field(default_factory=list)
    finish: list[Callable[[str], str]] = field(default_factory=list)

    def pick(self, words: list[str]) -> str:
        return self.rng.choice([w for w in words if not self.banned & set(w.split())])

    def sentence(self) -> str:
        """One sentence about the topic."""
        t, a, b = self.topic, self.pick(ADJECTIVES), self.pick(ADJECTIVES)
        shapes = [
            f"The {t} is {a}.",
            f"The {a} {t} {self.pick(VERBS)} {self.pick(PLACES)}.",
            f"Every {t} needs {self.pick(NEEDS)}.",
            f"I like the {t} {self.pick(PLACES)}.",
        ]
        if self.commas:
            shapes += [
                f"The {t} is {a}, {b} and {self.pick(ADJECTIVES)}.",
                f"{self.pick(PLACES).capitalize()}, the {t} {self.pick(VERBS)}.",
                f"A {a} {t} is good, and a {b} {t} is better.",
            ]
        return self.rng.choice(shapes)

    def text(self) -> str:
        text = " ".join(self.sentences)
        for step in self.finish:
            text = step(text)
        return text


@dataclass(frozen=True)
class Constraint:
    """One drawn constraint: its IFEval id and arguments, how the prompt says it, and how a draft comes to satisfy it."""

    id: str
    arguments: dict
    phrase: str
    before: Callable[[Draft], None] = lambda draft: None  # ahead of the first sentence
    sentences: Callable[[Draft], None] = lambda draft: None  # adds or changes sentences
    shape: Callable[[Draft], None] = lambda draft: None  # adds finishing steps
    rank: int = 0  # finishing order, inner first


def _keywords(rng: Random, topic: str) -> Constraint:
    words = rng.sample(KEYWORDS, rng.choice((1, 2)))

    def add(draft: Draft) -> None:
        for word in words:
            draft.sentences.append(rng.choice((f"There is {word} near the {topic}.", f"It likes {word}.")))

    listed = " and ".join(words)
    phrase = rng.choice((f"Use the word {listed}.", f"Mention {listed}.", f"Include {listed}."))
    return Constraint("keywords:existence", {"keywords": words}, phrase, sentences=add)


def _forbidden(rng: Random, topic: str) -> Constraint:
    words = rng.sample(ADJECTIVES, 2)

    def ban(draft: Draft) -> None:
        draft.banned |= frozenset(words)

    phrase = rng.choice(("Do not say {} or {}.", "Avoid the words {} and {}.", "Never use {} or {}.")).format(*words)
    return Constraint("keywords:forbidden_words", {"forbidden_words": words}, phrase, before=ban)


def _frequency(rng: Random, topic: str) -> Constraint:
    word, count = rng.choice(KEYWORDS), rng.choice((2, 3))

    def add(draft: Draft) -> None:
        draft.sentences += [rng.choice((f"I see {word}.", f"It has {word}.", f"There is {word}.")) for _ in range(count)]

    phrase = rng.choice((f"Use {word} at least {count} times.", f"Say {word} at least {count} times."))
    return Constraint(
        "keywords:frequency", {"keyword": word, "frequency": count, "relation": "at least"}, phrase, sentences=add
    )


def _no_comma(rng: Random, topic: str) -> Constraint:
    def plain(draft: Draft) -> None:
        draft.commas = False

    phrase = rng.choice(("Use no commas.", "Do not use commas.", "Write without commas."))
    return Constraint("punctuation:no_comma", {}, phrase, before=plain)


def _quotation(rng: Random, topic: str) -> Constraint:
    def wrap(draft: Draft) -> None:
        # A bullet counts only at the start of a line, so a list begins on the line after the quotation mark.
        draft.finish.append(lambda text: f'"\n{text}"' if text.startswith("- ") else f'"{text}"')

    phrase = rng.choice(("Put it all in double quotes.", "Wrap the text in double quotes."))
    return Constraint("startend:quotation", {}, phrase, shape=wrap, rank=9)


def _end(rng: Random, topic: str) -> Constraint:
    phrase_at_end = rng.choice(("That is all.", "The end.", "Good night.", "See you soon.", "I am done."))

    def add(draft: Draft) -> None:
        draft.finish.append(lambda text: f"{text} {phrase_at_end}")

    phrase = rng.choice((f"End with: {phrase_at_end}", f"The last words are: {phrase_at_end}"))
    return Constraint("startend:end_checker", {"end_phrase": phrase_at_end}, phrase, shape=add, rank=6)


def _title(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        draft.finish.append(lambda text: f"<<The {topic.capitalize()}>>\n{text}")

    phrase = rng.choice(("Give it a title in << >>.", "Add a title in << >>."))
    return Constraint("detectable_format:title", {}, phrase, shape=add, rank=7)


def _bullets(rng: Random, topic: str) -> Constraint:
    count = rng.choice((2, 3, 4))

    def split(draft: Draft) -> None:
        while len(draft.sentences) < count:
            draft.sentences.append(draft.sentence())
        head, tail = draft.sentences[: count - 1], draft.sentences[count - 1 :]
        draft.sentences = ["\n".join(f"- {line}" for line in [*head, " ".join(tail)])]

    phrase = rng.choice((f"Use exactly {count} bullet points.", f"Write it as {count} bullet points."))
    return Constraint("detectable_format:number_bullet_lists", {"num_bullets": count}, phrase, sentences=split, rank=8)


def _postscript(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        last = draft.sentence()
        draft.finish.append(lambda text: f"{text}\nP.S. {last}")

    phrase = rng.choice(("Add a P.S. at the end.", "Close with a P.S. note."))
    return Constraint("detectable_content:postscript", {"postscript_marker": "P.S."}, phrase, shape=add, rank=5)


def _words(rng: Random, topic: str) -> Constraint:
    if rng.random() < 0.6:
        count, relation = rng.choice((15, 20, 25)), "at least"
    else:
        count, relation = rng.choice((8, 10, 12)), "less than"

    def fill(draft: Draft) -> None:
        if relation == "less than":
            draft.sentences = [f"The {topic} {draft.pick(VERBS)}."]
        while relation == "at least" and sum(len(s.split()) for s in draft.sentences) < count + 3:
            draft.sentences.append(draft.sentence())

    wording = ("Use at least {} words.", "Write at least {} words.")
    if relation == "less than":
        wording = ("Use less than {} words.", "Stay under {} words.")
    phrase = rng.choice(wording).format(count)
    return Constraint(
        "length_constraints:number_words", {"num_words": count, "relation": relation}, phrase, sentences=fill
    )


def _highlights(rng: Random, topic: str) -> Constraint:
    count = rng.choice((1, 2, 3))

    def mark(draft: Draft) -> None:
        while len(draft.sentences) < count:
            draft.sentences.append(draft.sentence())
        for i in range(count):  # the last word of a sentence: never at the start of a line, where it would be a bullet
            head, last = draft.sentences[i].rstrip(".").rsplit(" ", 1)
            draft.sentences[i] = f"{head} *{last}*."

    parts = "part" if count == 1 else "parts"
    phrase = rng.choice((f"Highlight {count} {parts} with stars.", f"Mark {count} {parts} like *this*."))
    return Constraint(
        "detectable_format:number_highlighted_sections", {"num_highlights": count}, phrase, sentences=mark, rank=4
    )


def _placeholders(rng: Random, topic: str) -> Constraint:
    count = rng.choice((1, 2, 3))
    names = rng.sample(("name", "place", "date", "time", "number"), count)

    def add(draft: Draft) -> None:
        for name in names:
            draft.sentences.append(f"Ask for the [{name}].")

    parts = "placeholder" if count == 1 else "placeholders"
    phrase = rng.choice((f"Use {count} {parts} like [name].", f"Add {count} {parts} in square brackets."))
    return Constraint("detectable_content:number_placeholders", {"num_placeholders": count}, phrase, sentences=add)


def _two_responses(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        second = f"{draft.sentence()} It is another one."
        draft.finish.append(lambda text: f"{text}\n******\n{second}")

    return Constraint("combination:two_responses", {}, "Give two texts with ****** between them.", shape=add, rank=7)


def _paragraphs(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        second = draft.sentence()
        draft.finish.append(lambda text: f"{text}\n***\n{second}")

    phrase = "Write 2 paragraphs with *** between them."
    return Constraint("length_constraints:number_paragraphs", {"num_paragraphs": 2}, phrase, shape=add, rank=7)


def _sections(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        second = draft.sentence()
        draft.finish.append(lambda text: f"Section 1\n{text}\nSection 2\n{second}")

    phrase = "Write 2 sections marked Section 1 and Section 2."
    arguments = {"section_spliter": "Section", "num_sections": 2}
    return Constraint("detectable_format:multiple_sections", arguments, phrase, shape=add, rank=7)


def _letters(rng: Random, topic: str) -> Constraint:
    letter = rng.choice("wgmb")

    def add(draft: Draft) -> None:
        draft.sentences.append({"w": "We wait.", "g": "A big egg.", "m": "My moon.", "b": "A big bob."}[letter] * 2)

    arguments = {"letter": letter, "let_frequency": 4, "let_relation": "at least"}
    return Constraint("keywords:letter_frequency", arguments, f"Use the letter {letter} at least 4 times.", sentences=add)


def _choice(rng: Random, topic: str) -> Constraint:
    def replace(draft: Draft) -> None:
        draft.sentences = ["My answer is yes."]

    phrase = "Say one of these: My answer is yes. My answer is no. My answer is maybe."
    return Constraint("detectable_format:constrained_response", {}, phrase, sentences=replace)


def _json(rng: Random, topic: str) -> Constraint:
    def replace(draft: Draft) -> None:
        draft.finish.append(lambda text: json.dumps({topic: text}))

    return Constraint("detectable_format:json_format", {}, "Write the whole text as JSON.", shape=replace, rank=9)


TRAINED = (
    _keywords, _forbidden, _frequency, _no_comma, _quotation, _end,
    _title, _bullets, _postscript, _words, _highlights, _placeholders,
)  # fmt: skip
UNSEEN = (_two_responses, _paragraphs, _sections, _letters, _choice, _json)
OPENINGS = ("Write about the {}.", "Tell me about the {}.", "Describe the {}.")
UNSEEN_OPENINGS = ("Compose a text on the {}.", "What can you say of the {}?")
SHORT = "less than"  # a text this short goes with forms that add no words


def _compatible(chosen: list[Constraint]) -> bool:
    ids = {c.id for c in chosen}
    short = any(c.arguments.get("relation") == SHORT for c in chosen)
    adds_words = {"keywords:frequency", "detectable_format:number_bullet_lists", "detectable_content:postscript",
                  "detectable_content:number_placeholders", "keywords:existence", "startend:end_checker",
                  "detectable_format:number_highlighted_sections", "detectable_format:title"}  # fmt: skip
    return len(ids) == len(chosen) and not (short and ids & adds_words)


def draw(split: Split, rng: Random) -> tuple[str, list[Constraint]]:
    """A topic and one to three constraints that can all hold at once (unseen: one, of a type never trained)."""
    topic = rng.choice(TOPICS[split])
    kinds = UNSEEN if split == "unseen" else TRAINED
    count = 1 if split == "unseen" else rng.choice((1, 2, 2, 3))
    while True:
        chosen = [make(rng, topic) for make in rng.sample(kinds, count)]
        if _compatible(chosen):
            return topic, chosen


def demonstrate(topic: str, constraints: list[Constraint], rng: Random) -> str:
    """A text about the topic that satisfies every constraint."""
    draft = Draft(topic, rng)
    for constraint in constraints:
        constraint.before(draft)
    draft.sentences = [draft.sentence() for _ in range(rng.choice((1, 2)))]
    for constraint in sorted(constraints, key=lambda c: c.rank):
        constraint.sentences(draft)
        if constraint.rank < 4 and rng.random() < 0.5:
            rng.shuffle(draft.sentences)
    for constraint in sorted(constraints, key=lambda c: c.rank):
        constraint.shape(draft)
    return draft.text()


def ask(split: Split, rng: Random) -> tuple[str, str, str]:
    """A prompt, a demonstration, and the label the ``ifeval`` verifier reads."""
    topic, constraints = draw(split, rng)
    opening = rng.choice(UNSEEN_OPENINGS if split == "unseen" else OPENINGS).format(topic)
    prompt = " ".join([opening, *(c.phrase for c in constraints)])
    label = json.dumps([{"instruction_id": [c.id for c in constraints], "kwargs": [c.arguments for c in constraints]}])
    return prompt, demonstrate(topic, constraints, rng), label


def text(rng: Random) -> str:
    """Raw text: a short piece about any topic, in some form, with nobody asking for it."""
    topic = rng.choice([t for split in TOPICS.values() for t in split])
    count = rng.choice((0, 1, 1, 2, 3))
    while True:
        chosen = [make(rng, topic) for make in rng.sample(TRAINED, count)]
        if _compatible(chosen):
            break
    piece = demonstrate(topic, chosen, rng)
    return piece if rng.random() < 0.8 else f"{piece} {rng.choice(NAMES['train'])} wrote this."
