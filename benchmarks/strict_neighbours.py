"""What the neighbours of `strict`'s constants would flag: the table of docs/decontamination.md, some minutes.

    python benchmarks/strict_neighbours.py

A real prompt is wrongly flagged if it was read as ``template``, or not read; rightly if it was read as a near copy. A
planted one counts only if it matches its own item, or one of the same text. docs/decontamination.md, "Benchmark".
"""

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from leaks.prompts import PLANTED, Prompt, Texts, digest, evaluations, labels, real_training, squeezed, training

from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.match import match_batches
from posttrain.decontamination.profiles import PROFILES, Alignment, Boilerplate

STRICT = PROFILES["strict"]
NEIGHBOURS = {
    "strict": STRICT,
    "0.80 in place of 0.85": replace(STRICT, threshold=0.8),
    "0.90": replace(STRICT, threshold=0.9),
    "boilerplate from three texts on": replace(STRICT, boilerplate=Boilerplate(texts=10, texts_of_one=2)),
    "more than 0.35 touched": replace(STRICT, alignment=Alignment(Fraction(7, 20), Fraction(19, 20))),
    "numbers count as words": replace(STRICT, alignment=Alignment(Fraction(1, 5), Fraction(1))),
    "8-grams alone": replace(STRICT, alignment=None),
}
COLUMNS = {
    "template or unread": ("template", "unread"),
    "near copies": ("same", "numbers"),
    "words dropped": ("10 % words dropped",),
    "numbers changed": ("numbers changed",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("POSTTRAIN_TEST_DATA", "../shared/data")))
    data = parser.parse_args().data

    items = evaluations(data)
    planted = [p for p in training(data, items, size=60_000, planted=1000) if p.kind in PLANTED]
    prompts = [*planted, *read_prompts(data, items)]
    print(f"{'':34}" + "".join(f"{column:>20}" for column in COLUMNS))
    for name, profile in NEIGHBOURS.items():
        found = flagged(items, prompts, profile)
        print(f"{name:34}" + "".join(f"{sum(found[kind] for kind in kinds):>20,}" for kinds in COLUMNS.values()))


def read_prompts(data: Path, items: dict[str, list[Texts]]) -> Iterator[Prompt]:
    """The real training prompts that are no evaluation item letter by letter, each with its label for a kind."""
    read = labels()
    known = {squeezed(text) for of_task in items.values() for fields in of_task for text in (*fields, " ".join(fields))}
    for number, (_, turns) in enumerate(real_training(data)):
        texts = [text for text in (*turns, " ".join(turns)) if text.strip()]
        if texts and not any(squeezed(text) in known for text in texts):
            yield Prompt(f"real-{number}", turns, read.get(digest(turns), "unread"))


def flagged(items: dict[str, list[Texts]], prompts: list[Prompt], profile) -> Counter[str]:
    """kind → how many of its prompts match an item."""
    index = EvaluationIndex(
        {task: [EvaluationItem(f"{task}/{n}", f) for n, f in enumerate(of_task)] for task, of_task in items.items()},
        profile,
    )
    text = [squeezed("".join(fields)) for of_task in items.values() for fields in of_task]
    own = {(task, n): squeezed("".join(f)) for task, of_task in items.items() for n, f in enumerate(of_task)}
    kind_of = {}
    rows = [(str(number), prompt.turns) for number, prompt in enumerate(prompts)]
    for batch, found in match_batches(index, rows, Fraction(str(profile.threshold))):
        for row, item in zip(found.row_M.tolist(), found.item_M.tolist(), strict=True):
            prompt = prompts[int(batch[row][0])]
            if prompt.item is None or text[item] == own[prompt.item]:
                kind_of[prompt.id] = prompt.kind
    return Counter(kind_of.values())


if __name__ == "__main__":
    main()
