"""What counts as contamination: the paper's rule, and a stricter one that mends what the paper's misses."""

from dataclasses import dataclass
from typing import Literal

from posttrain.decontamination.tokens import Splitting

ProfileName = Literal["paper", "strict"]


@dataclass(frozen=True)
class Profile:
    """``ngram``: tokens that must be shared in a row. ``splitting``: how text becomes tokens.

    ``boilerplate_texts``: an n-gram that stands in more distinct evaluation texts than this is boilerplate and counts
    for nothing; None counts all. ``match_rest_whole``: an item without any n-gram of its own (too short, or all
    boilerplate) matches a training turn that has exactly its tokens; otherwise it can never match.
    """

    name: ProfileName
    ngram: int = 8
    splitting: Splitting = "published"
    boilerplate_texts: int | None = None
    match_rest_whole: bool = False


PROFILES: dict[ProfileName, Profile] = {
    # Paper §3.2: n = 8, every n-gram counts, items under 8 tokens never match.
    "paper": Profile("paper"),
    # Ten is NeMo Curator's bound on how often an n-gram may be seen before it says nothing.
    "strict": Profile("strict", splitting="scripts", boilerplate_texts=10, match_rest_whole=True),
}
