"""AlpacaEval 2: 805 instructions against GPT-4 Turbo's answers; the length-controlled win rate.

The published judge is retired, so the paper's numbers cannot be made again: recorded annotations are replayed, any
other judge gives numbers of its own.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from posttrain.evaluation.judges import JUDGES
from posttrain.evaluation.protocol import Decoding, Instance, NotRun, Protocol, Task, plain_question
from posttrain.evaluation.tasks.hub import rows
from posttrain.evaluation.tasks.prompting import plain_of

DATA = "tatsu-lab/alpaca_eval"
DIFFICULTY = "tatsu-lab/alpaca_eval_difficulty"  # rows in the set's order: instruction_difficulty
GAMED = "tatsu-lab/alpaca_eval_gamed"  # rows of the two gamed baselines: index, len_baseline, len_model

PAPER = Protocol(
    task="alpaca_eval",
    mode="paper",
    data=DATA,
    revision="main",
    split="eval",
    format="chat",
    decoding=Decoding(max_tokens=8192),
    verifier=None,
    verifier_mode="strict",
    metric="lc_win_rate",
    judge=JUDGES["alpaca_eval"].label,
    judged="winner",
)
CLEAN = replace(PAPER, mode="clean", decoding=Decoding(max_tokens=4096))


def _load(protocol: Protocol, hub_mirror: Mapping[str, str], limit: int | None) -> list[Instance]:
    found = rows(
        DATA, "eval", hub_mirror, ("instruction", "output"), limit, hub_config="alpaca_eval_gpt4_baseline", ask_hub=True
    )
    made = []
    for index, row in enumerate(found):
        asked = row["instruction"]
        prompt = plain_question(asked) if protocol.format == "plain" else ({"role": "user", "content": asked},)
        # Which answer stands first is drawn from the instruction, the same for every model.
        model = random.Random(f"alpaca_eval {asked}").choice("ab")
        told = (("prompt", asked), ("other", row["output"]), ("model", model))
        made.append(Instance(f"alpaca_eval-{index}", prompt, (), told=told))
    return made


def combine(records: Sequence[Mapping[str, Any]], hub_mirror: Mapping[str, str]) -> dict[str, Any]:
    """Mean, interval and raw win rate of judged records. Raises NotRun without the two files of the regression."""
    import numpy as np

    from posttrain.evaluation.length_control import Gamed, length_controlled, length_feature
    from posttrain.evaluation.statistics import Z

    difficulty = np.array(
        [
            float(row["instruction_difficulty"])
            for row in rows(DIFFICULTY, "train", hub_mirror, ("instruction_difficulty",))
        ]
    )
    gamed = rows(GAMED, "train", hub_mirror, ("index", "len_baseline", "len_model"))
    # The two baselines stand one after the other, each with its own spread of lengths.
    halves = [gamed[: len(gamed) // 2], gamed[len(gamed) // 2 :]]
    lengths = [
        length_feature([float(row["len_baseline"]) for row in half], [float(row["len_model"]) for row in half])
        for half in halves
    ]
    places = np.array([int(row["index"]) for row in gamed])
    at = [int(record["id"].rsplit("-", 1)[1]) for record in records]
    if len(records) < 2 or max(at) >= len(difficulty):
        raise NotRun(f"needs two judged answers at least, and {DIFFICULTY} for {max(at, default=0) + 1} instructions")
    found = length_controlled(
        [1 + record["score"] for record in records],
        [record["other_length"] for record in records],
        [len(record["response"]) for record in records],
        difficulty[at],
        Gamed(np.concatenate(lengths), difficulty[places]),
    )
    half = Z * found.standard_error / 100
    mean = found.rate / 100
    interval = {"low": max(0.0, mean - half), "high": min(1.0, mean + half)}
    return {"mean": mean, **interval, "win_rate": found.win_rate / 100}


def _fields(hub_mirror: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    found = rows(DATA, "eval", hub_mirror, ("instruction",))
    return [(f"alpaca_eval-{index}", (row["instruction"],)) for index, row in enumerate(found)]


TASKS = tuple(
    Task(chat, plain_of(chat, "\nQuestion:"), _load, _fields, also=(DIFFICULTY, GAMED), combine=combine)
    for chat in (PAPER, CLEAN)
)
