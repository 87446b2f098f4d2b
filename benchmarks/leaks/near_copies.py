"""How the false rate hangs on what the benchmark calls a near copy: real training prompts alone, by the rule's bound.

python benchmarks/leaks/near_copies.py
"""

import os
from fractions import Fraction
from pathlib import Path

from prompts import NearCopies, evaluations, real_training, squeezed

from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.match import match_batches
from posttrain.decontamination.profiles import PROFILES

BOUNDS = (0.7, 0.8, 0.9)


def main() -> None:
    data = Path(os.environ.get("POSTTRAIN_TEST_DATA", "../shared/data"))
    items = evaluations(data, 1.0)
    every = [fields for of_task in items.values() for fields in of_task]
    known = {squeezed(text) for fields in every for text in (*fields, " ".join(fields))}
    real = [
        (str(number), turns)
        for number, (_, turns) in enumerate(real_training(data))
        if any(turn.strip() for turn in turns)
        and not any(squeezed(text) in known for text in (*turns, " ".join(turns)) if text.strip())
    ]
    named = {task: [EvaluationItem(str(n), fields) for n, fields in enumerate(some)] for task, some in items.items()}
    flagged: dict[str, str] = {}
    for batch, found in match_batches(EvaluationIndex(named, PROFILES["strict"]), real, Fraction(1, 2)):
        flagged |= {batch[row][0]: " ".join(batch[row][1]) for row in found.row_M.tolist()}
    print(f"{len(real):,} real prompts that are no item letter by letter; strict flags {len(flagged):,}", end=" ")
    print(f"({len(flagged) / len(real):.2%})")
    near = NearCopies([" ".join(fields) for fields in every])
    for bound in BOUNDS:
        NearCopies.ALIKE = bound
        left = sum(not near.holds(text) for text in flagged.values())
        print(f"near copies from {bound} on set apart: {left:,} ({left / len(real):.2%})")


if __name__ == "__main__":
    main()
