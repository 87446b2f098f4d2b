"""The words of the nano world, split so that training, development and unseen share none of their names and things."""

from dataclasses import dataclass
from random import Random
from typing import Literal

Split = Literal["train", "development", "unseen"]


@dataclass(frozen=True)
class Item:
    """One prompt with a demonstration and the verifier that judges any other answer.

    ``verifier`` and ``ground_truth`` hold one name and label, or parallel tuples.
    """

    id: str
    kind: str
    prompt: str
    answer: str
    verifier: str | tuple[str, ...]
    ground_truth: str | tuple[str, ...]


def _split(words: str, development: int, unseen: int) -> dict[Split, tuple[str, ...]]:
    listed = tuple(words.split())
    assert len(set(listed)) == len(listed), "a word stands twice"
    train = len(listed) - development - unseen
    return {
        "train": listed[:train],
        "development": listed[train : train + development],
        "unseen": listed[train + development :],
    }


NAMES = _split(
    "Tom Anna Ben Lucy Sam Mary Jack Ella Max Nina Paul Rosa Leo Vera Adam Clara Hugo Ida Karl Lena Noah Olga Rex Sara "
    "Tim Uma Will Zoe Dan Eva Finn Gina "
    "Bob Cora Dave Emma Fred Greta Hans Iris Joe Kim "
    "Otto Pia Quinn Rita Saul Tess Viktor Wanda",
    development=10,
    unseen=8,
)

THINGS = _split(  # countable, in the plural
    "apples books coins shells stamps pens cards cakes eggs plums nuts cups keys bells boxes flowers stones rings hats "
    "toys balls pears beans leaves candles ribbons feathers masks "
    "marbles spoons kites seeds drums grapes bricks shoes pies nails "
    "lemons buttons maps jars socks beads lamps ropes",
    development=10,
    unseen=8,
)

TOPICS = _split(  # what texts are written about
    "fox river garden house dog tree boat market bridge forest cat mill lake road horse tower farm ship hill castle "
    "bird kitchen snow field moon train "
    "cow school rain island bear library wolf harbor baker meadow "
    "goat desert owl museum cloud village storm doctor",
    development=10,
    unseen=8,
)

ADJECTIVES = "old small red quiet bright green cold brave warm blue wild kind slow soft gray quick".split()
VERBS = "sleeps waits rests stands sings hides stays moves shines turns".split()
PLACES = (
    "near the water|by the wall|under the sun|in the morning|at night|behind the hill|on the hill|by the gate".split(
        "|"
    )
)
NEEDS = "water sun rest care time light food help".split()
KEYWORDS = "lamp letter window stone winter music bread silver paper summer door glass button honey cotton".split()

TOWN_STARTS = "Vel Tor Bram Osk Lin Har Mel Dun Kas Ros Fen Gil".split()
TOWN_ENDS = "mar wick dale port stad more".split()
RIVER_STARTS = "Ar Ble Cor Du Es Fla Gro Hy In Ju Ki Lo".split()
RIVER_ENDS = "na sel ven tis ra lo".split()
COLORS = "green red blue white yellow black orange purple".split()
FOODS = "soup bread cheese fish honey rice pie stew cake corn".split()


@dataclass(frozen=True)
class Town:
    name: str
    river: str
    color: str
    food: str
    ruler: str


def _towns() -> dict[Split, tuple[Town, ...]]:
    rng = Random("towns of the nano world")
    names = [a + b for a in TOWN_STARTS for b in TOWN_ENDS]
    rivers = [a + b for a in RIVER_STARTS for b in RIVER_ENDS]
    rng.shuffle(names)
    rng.shuffle(rivers)
    people = NAMES["train"]
    towns = tuple(
        Town(name, river, rng.choice(COLORS), rng.choice(FOODS), rng.choice(people))
        for name, river in zip(names, rivers, strict=True)
    )
    return {"train": towns[:40], "development": towns[40:60], "unseen": towns[60:]}


TOWNS = _towns()


def all_words(table: dict[Split, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(word for words in table.values() for word in words)
