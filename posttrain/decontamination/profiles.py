"""What counts as contamination: the paper's rule, and a stricter one that mends what the paper's misses."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from posttrain.decontamination.tokens import Splitting

ProfileName = Literal["paper", "strict"]


@dataclass(frozen=True)
class Boilerplate:
    """An n-gram is boilerplate if it stands in more than ``texts`` distinct evaluation texts, or in more than
    ``texts_of_one`` of one evaluation."""

    texts: int
    texts_of_one: int


@dataclass(frozen=True)
class Alignment:
    """A row with more than ``touched`` of an item's tokens in shared n-grams, some of each field, is compared with it
    token by token, and matches if more than the threshold of the item's own tokens stand in it in order; or, with all
    numbers taken as equal, more than ``numbers_alike``."""

    touched: Fraction
    numbers_alike: Fraction


@dataclass(frozen=True)
class Profile:
    """``ngram``: tokens that must be shared in a row. ``splitting``: how text becomes tokens.

    ``threshold``: an item overlaps if more than this share of its tokens is covered, where the user names none.
    ``joint_turns``: n-grams run on from one user turn of a row into the next. ``boilerplate``: which n-grams count for
    nothing; None counts all. ``alignment``: what else is a match; None is nothing else. ``phrase``: the rule for items
    without any n-gram of their own (too short, or all boilerplate), which can never match if it is None: such an item
    matches a row of which one turn, or all turns together, are exactly its tokens; and one of at least ``phrase``
    tokens that is too short for an n-gram and no boilerplate matches wherever it stands alone between sentence marks.
    """

    name: ProfileName
    ngram: int = 8
    splitting: Splitting = "published"
    threshold: float = 0.5
    joint_turns: bool = False
    boilerplate: Boilerplate | None = None
    alignment: Alignment | None = None
    phrase: int | None = None


PROFILES: dict[ProfileName, Profile] = {
    # Paper §3.2: n = 8, every n-gram counts, items under 8 tokens never match.
    "paper": Profile("paper"),
    # Ten is NeMo Curator's bound on how often an n-gram may be seen before it says nothing. The others were chosen on
    # pairs that were read and labelled: docs/decontamination.md.
    "strict": Profile(
        "strict",
        splitting="scripts",
        threshold=0.85,
        joint_turns=True,
        boilerplate=Boilerplate(texts=10, texts_of_one=1),
        alignment=Alignment(touched=Fraction(1, 5), numbers_alike=Fraction(19, 20)),
        phrase=4,
    ),
}
