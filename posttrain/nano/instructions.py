"""Writing tasks with constraints that code can check: IFEval's types, and demonstrations built to satisfy them.

Twelve types are trained; six more appear in the unseen split alone.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from posttrain.nano.world import ADJECTIVES, KEYWORDS, NEEDS, PLACES, TOPICS, VERBS, Split


def _sentences(topic: str) -> tuple[tuple[str, str], ...]:
    """What is said of a topic, always in this order: pairs of a sentence with commas and the same without."""
    rng = Random(f"sentences about {topic}")
    a, b, c, d = rng.sample(ADJECTIVES, 4)
    verb, other = rng.sample(VERBS, 2)
    near, far, last = rng.sample(PLACES, 3)
    need, wish = rng.sample(NEEDS, 2)
    plain = [f"The {topic} is {a}.", f"The {topic} {verb} {near}.", f"Every {topic} needs {need}."]
    rng.shuffle(plain)
    return (
        (plain[0], plain[0]),
        (f"{far.capitalize()}, the {topic} {other}.", f"The {topic} {other} {far}."),
        (plain[1], plain[1]),
        (f"It is {b}, {c} and {d}.", f"It is {b} and {c}."),
        (plain[2], plain[2]),
        (f"With {wish}, it {verb} {last}.", f"It {verb} {last} with {wish}."),
    )


SENTENCES = {topic: _sentences(topic) for topics in TOPICS.values() for topic in topics}


@dataclass
class Draft:
    """A text under construction: sentences first, then the form they take."""

    topic: str
    banned: frozenset[str] = frozenset()  # words no sentence may hold
    commas: bool = True
    told: int = 0  # sentences about the topic taken so far
    sentences: list[str] = field(default_factory=list)
    finish: list[Callable[[str], str]] = field(default_factory=list)

    def sentence(self) -> str:
        """The next sentence about the topic; after the last, the first again."""
        pairs = SENTENCES[self.topic]
        while True:
            with_commas, without = pairs[self.told % len(pairs)]
            self.told += 1
            text = with_commas if self.commas else without
            if not self.banned & set(re.findall(r"[a-z]+", text.lower())):
                return text

    def text(self) -> str:
        text = " ".join(self.sentences)
        for step in self.finish:
            text = step(text)
        return text


@dataclass(frozen=True)
class Constraint:
    """One drawn constraint: its IFEval id and arguments, how a prompt says it, how a heading in raw text hints at it,
    and how a draft comes to satisfy it."""

    id: str
    arguments: dict
    phrase: str
    hint: str
    before: Callable[[Draft], None] = lambda draft: None  # ahead of the first sentence
    sentences: Callable[[Draft], None] = lambda draft: None  # adds or changes sentences
    shape: Callable[[Draft], None] = lambda draft: None  # adds finishing steps
    rank: int = 0  # finishing order, inner first


def _keywords(rng: Random, topic: str) -> Constraint:
    words = rng.sample(KEYWORDS, rng.choice((1, 2)))

    def add(draft: Draft) -> None:
        draft.sentences += [f"There is {word} near the {topic}." for word in words]

    listed = " and ".join(words)
    phrase = rng.choice((f"Use the word {listed}.", f"Mention {listed}.", f"Include {listed}."))
    return Constraint("keywords:existence", {"keywords": words}, phrase, f"with {listed}", sentences=add)


def _forbidden(rng: Random, topic: str) -> Constraint:
    words = rng.sample(ADJECTIVES, 2)

    def ban(draft: Draft) -> None:
        draft.banned |= frozenset(words)

    phrase = rng.choice(("Do not say {} or {}.", "Avoid the words {} and {}.", "Never use {} or {}.")).format(*words)
    hint = "not {} or {}".format(*words)
    return Constraint("keywords:forbidden_words", {"forbidden_words": words}, phrase, hint, before=ban)


def _frequency(rng: Random, topic: str) -> Constraint:
    word, count = rng.choice(KEYWORDS), rng.choice((2, 3))

    def add(draft: Draft) -> None:
        draft.sentences += [f"I see {word}."] * count

    phrase = rng.choice((f"Use {word} at least {count} times.", f"Say {word} at least {count} times."))
    arguments = {"keyword": word, "frequency": count, "relation": "at least"}
    return Constraint("keywords:frequency", arguments, phrase, f"{word} {count} times", sentences=add)


def _no_comma(rng: Random, topic: str) -> Constraint:
    def plain(draft: Draft) -> None:
        draft.commas = False

    phrase = rng.choice(("Use no commas.", "Do not use commas.", "Write without commas."))
    return Constraint("punctuation:no_comma", {}, phrase, "no commas", before=plain)


def _quotation(rng: Random, topic: str) -> Constraint:
    def wrap(draft: Draft) -> None:
        # A bullet counts only at the start of a line, so a list begins on the line after the quotation mark.
        draft.finish.append(lambda text: f'"\n{text}"' if text.startswith("- ") else f'"{text}"')

    phrase = rng.choice(("Put it all in double quotes.", "Wrap the text in double quotes."))
    return Constraint("startend:quotation", {}, phrase, "quoted", shape=wrap, rank=9)


def _end(rng: Random, topic: str) -> Constraint:
    phrase_at_end = rng.choice(("That is all.", "The end.", "Good night.", "See you soon.", "I am done."))

    def add(draft: Draft) -> None:
        draft.finish.append(lambda text: f"{text} {phrase_at_end}")

    phrase = rng.choice((f"End with: {phrase_at_end}", f"The last words are: {phrase_at_end}"))
    hint = f"closing {phrase_at_end.rstrip('.')}"
    return Constraint("startend:end_checker", {"end_phrase": phrase_at_end}, phrase, hint, shape=add, rank=6)


def _title(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        draft.finish.append(lambda text: f"<<The {topic.capitalize()}>>\n{text}")

    phrase = rng.choice(("Give it a title in << >>.", "Add a title in << >>."))
    return Constraint("detectable_format:title", {}, phrase, "titled", shape=add, rank=7)


def _bullets(rng: Random, topic: str) -> Constraint:
    count = rng.choice((2, 3, 4))

    def split(draft: Draft) -> None:
        while len(draft.sentences) < count:
            draft.sentences.append(draft.sentence())
        head, tail = draft.sentences[: count - 1], draft.sentences[count - 1 :]
        draft.sentences = ["\n".join(f"- {line}" for line in [*head, " ".join(tail)])]

    phrase = rng.choice((f"Use exactly {count} bullet points.", f"Write it as {count} bullet points."))
    arguments, hint = {"num_bullets": count}, f"{count} points"
    return Constraint("detectable_format:number_bullet_lists", arguments, phrase, hint, sentences=split, rank=8)


def _postscript(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        last = draft.sentence()
        draft.finish.append(lambda text: f"{text}\nP.S. {last}")

    phrase = rng.choice(("Add a P.S. at the end.", "Close with a P.S. note."))
    arguments = {"postscript_marker": "P.S."}
    return Constraint("detectable_content:postscript", arguments, phrase, "with P.S.", shape=add, rank=5)


def _words(rng: Random, topic: str) -> Constraint:
    if rng.random() < 0.6:
        count, relation = rng.choice((15, 20, 25)), "at least"
    else:
        count, relation = rng.choice((8, 10, 12)), "less than"

    def fill(draft: Draft) -> None:
        if relation == "less than":
            del draft.sentences[1:]
        while relation == "at least" and sum(len(s.split()) for s in draft.sentences) < count + 3:
            draft.sentences.append(draft.sentence())

    wording = ("Use at least {} words.", "Write at least {} words.")
    if relation == "less than":
        wording = ("Use less than {} words.", "Stay under {} words.")
    phrase = rng.choice(wording).format(count)
    hint = f"{'over' if relation == 'at least' else 'under'} {count} words"
    arguments = {"num_words": count, "relation": relation}
    return Constraint("length_constraints:number_words", arguments, phrase, hint, sentences=fill)


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
    arguments, hint = {"num_highlights": count}, f"{count} stars"
    return Constraint("detectable_format:number_highlighted_sections", arguments, phrase, hint, sentences=mark, rank=4)


def _placeholders(rng: Random, topic: str) -> Constraint:
    count = rng.choice((1, 2, 3))

    def add(draft: Draft) -> None:
        draft.sentences += [f"Ask for the [{name}]." for name in ("name", "place", "date")[:count]]

    parts = "placeholder" if count == 1 else "placeholders"
    phrase = rng.choice((f"Use {count} {parts} like [name].", f"Add {count} {parts} in square brackets."))
    arguments, hint = {"num_placeholders": count}, f"{count} gaps"
    return Constraint("detectable_content:number_placeholders", arguments, phrase, hint, sentences=add)


def _two_responses(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        second = f"{draft.sentence()} Here is more."
        draft.finish.append(lambda text: f"{text}\n******\n{second}")

    return Constraint(
        "combination:two_responses", {}, "Give two texts with ****** between them.", "", shape=add, rank=7
    )


def _paragraphs(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        second = draft.sentence()
        draft.finish.append(lambda text: f"{text}\n***\n{second}")

    phrase = "Write 2 paragraphs with *** between them."
    return Constraint("length_constraints:number_paragraphs", {"num_paragraphs": 2}, phrase, "", shape=add, rank=7)


def _sections(rng: Random, topic: str) -> Constraint:
    def add(draft: Draft) -> None:
        second = draft.sentence()
        draft.finish.append(lambda text: f"Section 1\n{text}\nSection 2\n{second}")

    phrase = "Write 2 sections marked Section 1 and Section 2."
    arguments = {"section_spliter": "Section", "num_sections": 2}
    return Constraint("detectable_format:multiple_sections", arguments, phrase, "", shape=add, rank=7)


def _letters(rng: Random, topic: str) -> Constraint:
    letter = rng.choice("wgmb")

    def add(draft: Draft) -> None:
        draft.sentences.append({"w": "We wait.", "g": "A big egg.", "m": "My moon.", "b": "A big bob."}[letter] * 2)

    arguments = {"letter": letter, "let_frequency": 4, "let_relation": "at least"}
    phrase = f"Use the letter {letter} at least 4 times."
    return Constraint("keywords:letter_frequency", arguments, phrase, "", sentences=add)


def _choice(rng: Random, topic: str) -> Constraint:
    def replace(draft: Draft) -> None:
        draft.sentences = ["My answer is yes."]

    phrase = "Say one of these: My answer is yes. My answer is no. My answer is maybe."
    return Constraint("detectable_format:constrained_response", {}, phrase, "", sentences=replace)


def _json(rng: Random, topic: str) -> Constraint:
    def replace(draft: Draft) -> None:
        draft.finish.append(lambda text: json.dumps({topic: text}))

    return Constraint("detectable_format:json_format", {}, "Write the whole text as JSON.", "", shape=replace, rank=9)


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


def demonstrate(topic: str, constraints: list[Constraint]) -> str:
    """A text about the topic that satisfies every constraint; always the same one."""
    draft = Draft(topic)
    for constraint in constraints:
        constraint.before(draft)
    draft.sentences = [draft.sentence(), draft.sentence()]
    for constraint in sorted(constraints, key=lambda c: (c.rank, c.id)):
        constraint.sentences(draft)
    for constraint in sorted(constraints, key=lambda c: (c.rank, c.id)):
        constraint.shape(draft)
    return draft.text()


def ask(split: Split, rng: Random) -> tuple[str, str, str]:
    """A prompt, a demonstration, and the label the ``ifeval`` verifier reads."""
    topic, constraints = draw(split, rng)
    opening = rng.choice(UNSEEN_OPENINGS if split == "unseen" else OPENINGS).format(topic)
    prompt = " ".join([opening, *(c.phrase for c in constraints)])
    label = json.dumps([{"instruction_id": [c.id for c in constraints], "kwargs": [c.arguments for c in constraints]}])
    return prompt, demonstrate(topic, constraints), label


def text(rng: Random) -> str:
    """Raw text: a short piece about any topic in some form, most under a heading that hints at the form."""
    topic = rng.choice([t for split in TOPICS.values() for t in split])
    count = rng.choice((0, 1, 1, 2, 2, 3))
    while True:
        chosen = [make(rng, topic) for make in rng.sample(TRAINED, count)]
        if _compatible(chosen):
            break
    piece = demonstrate(topic, chosen)
    if rng.random() < 0.2:
        return piece
    heading = ", ".join([f"The {topic}", *(c.hint for c in chosen)])
    return f"{heading}:\n{piece}"
