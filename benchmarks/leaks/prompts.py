"""Real evaluation prompts, real and generated training prompts, and what is planted among them.

Everything is drawn from the public files under POSTTRAIN_TEST_DATA by a fixed seed. A training prompt is a tuple of
user turns. Generated prompts are walks through the word pairs of the real training prompts.
"""

import csv
import gzip
import hashlib
import io
import json
import random
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Texts = tuple[str, ...]
PLANTED = ("verbatim", "wrapped", "numbers changed", "10 % words dropped", "split over turns", "short", "short wrapped")
HARD_NEGATIVES = ("shared template", "standard formula", "code idiom", "45 % prefix")
IDIOMS = (
    "for i in range(len(numbers)): for j in range(i + 1, len(numbers)): if numbers[i] > numbers[j]:",
    "if __name__ == '__main__': import sys; sys.exit(main(sys.argv[1:]))",
    "from typing import List, Optional, Dict, Tuple def solve(numbers: List[int]) -> int:",
    "with open(path, 'r', encoding='utf-8') as f: lines = [line.strip() for line in f.readlines()]",
    "def fibonacci(n): if n <= 1: return n return fibonacci(n - 1) + fibonacci(n - 2)",
    "return sum(x for x in numbers if x % 2 == 0) / len(numbers) if numbers else 0",
    "def is_prime(n): if n < 2: return False for i in range(2, int(n ** 0.5) + 1): if n % i == 0: return False "
    "return True",
    "try: value = int(input('Enter a number: ')) except ValueError: print('Please enter a valid number')",
    "result = {} for word in text.split(): result[word] = result.get(word, 0) + 1 return result",
    "while left <= right: mid = (left + right) // 2 if arr[mid] == target: return mid",
)
FORMULAS = (
    "the quadratic formula says that x equals minus b plus or minus the square root of b squared minus 4 a c over 2 a",
    "the sum of the squares of the two legs of a right triangle is equal to the square of the hypotenuse",
    "the sum of the interior angles of a triangle is equal to 180 degrees",
    "what is the sum of the first n terms of a geometric series with first term a and common ratio r",
    "four score and seven years ago our fathers brought forth on this continent a new nation conceived in liberty",
    "let $f(x)$ be a function such that $f(x+y) = f(x) + f(y)$ for all real numbers $x$ and $y$",
    "the area of a circle with radius $r$ is $\\pi r^2$ and its circumference is $2 \\pi r$",
    "we hold these truths to be self evident that all men are created equal",
)


@dataclass(frozen=True)
class Prompt:
    """A training prompt. ``kind``: ``real …``, ``generated``, or one of PLANTED and HARD_NEGATIVES. ``item``: (task,
    number) of the evaluation item that was planted."""

    id: str
    turns: Texts
    kind: str
    item: tuple[str, int] | None = None


def evaluations(data: Path, scale: float = 1.0) -> dict[str, list[Texts]]:
    """Task → items → fields. ``scale``: the share of each task that is used."""
    tasks: dict[str, list[Texts]] = {
        "mmlu": [(row[0],) for row in _mmlu(data, "test")],
        "gsm8k": [(row["question"],) for row in _lines(data / "gsm8k/test.jsonl")],
        "math": [(row["problem"],) for row in _lines(data / "math/math_test.jsonl")],
        "drop": [_drop(row["context"]) for row in _lines(data / "drop/drop_v0_dev.jsonl.gz")],
        "ifeval": [(row["prompt"],) for row in _lines(data / "ifeval/input_data.jsonl")],
        "humaneval": [(row["prompt"],) for row in _lines(data / "humaneval/HumanEval.jsonl.gz")],
        "bbh": [
            (row["input"],)
            for file in sorted((data / "bbh/tasks").iterdir())
            for row in json.loads(file.read_text(encoding="utf-8"))["examples"]
        ],
        "truthfulqa": [(row["Question"],) for row in _table(data / "truthfulqa/TruthfulQA_v1.csv")],
        "popqa": [(row["question"],) for row in _lines(data / "popqa/popqa_test_subsample1000.jsonl")],
        "agieval": [
            tuple(text for text in (row["passage"], row["question"]) if text)
            for file in sorted((data / "agieval/v1").iterdir())
            for row in _lines(file)
        ],
        "deepmind_math": [
            (row["question"] if "question" in row else row["doc"]["question"],)
            for file in sorted((data / "deepmind_math/sample100").glob("*/test.jsonl.gz"))
            for row in _lines(file)
        ],
        "jailbreaktrigger": [(row["prompt"],) for row in _lines(data / "safety/trustllm_jailbreaktrigger_400.jsonl")],
        "dan": [(row["prompt"],) for row in _lines(data / "safety/do_anything_now_jailbreak.jsonl")],
        "harmbench": [(row["Behavior"],) for row in _table(data / "safety/harmbench_behaviors_text_test.csv")],
        "ifbench": [(row["prompt"],) for row in _lines(data / "ifbench/IFBench_test.jsonl")],
    }
    return {task: items[: max(20, int(scale * len(items)))] for task, items in tasks.items()}


def real_training(data: Path) -> Iterator[tuple[str, Texts]]:
    """(set, user turns) of every real training prompt."""
    for row in _lines(data / "gsm8k/train.jsonl"):
        yield "gsm8k train", (row["question"],)
    for row in json.loads((data / "math/math_train_answers_only.json").read_text(encoding="utf-8")):
        yield "math train", (row["problem"],)
    for split in ("dev", "val"):
        for row in _mmlu(data, split):
            yield "mmlu dev and val", (row[0],)
    for row in _lines(data / "mbpp/mbpp.jsonl"):
        yield "mbpp", (row["text"],)
    for row in json.loads((data / "instructions/codegen-instruct.json").read_text(encoding="utf-8")):
        yield "codegen-instruct", (f"{row['instruction']}\n{row['input']}".strip(),)
    for name in ("aqua", "qasc", "strategyqa"):
        text = (data / f"instructions/{name}_train.tsv").read_text(encoding="utf-8")
        for line in text.splitlines():
            yield name, (line.split("\t")[0].replace("\\n", "\n"),)
    for row in _lines(data / "instructions/en_100_tree.jsonl"):
        for turns in _paths(row["prompt"]):
            yield "oasst", turns
    for name in ("seed_tasks", "user_oriented_instructions"):
        for row in _lines(data / f"instructions/{name}.jsonl"):
            yield "self-instruct", (f"{row['instruction']}\n{row['instances'][0]['input']}".strip(),)
    for row in _lines(data / "preferences/coconot_pref.jsonl"):
        yield "coconot", (row["prompt"],)
    for row in _lines(data / "preferences/harmless-base_test.jsonl.gz"):
        turns = re.findall(r"\n\nHuman: (.*?)(?=\n\nAssistant:)", row["chosen"], re.DOTALL)
        yield "hh-rlhf", tuple(turns)
    for row in _lines(data / "tulu3/sft_sample.jsonl"):
        yield "tulu 3 sft", tuple(m["content"] for m in row["messages"] if m["role"] == "user")


def training(data: Path, items: dict[str, list[Texts]], size: int, planted: int, seed: int = 1) -> list[Prompt]:
    """At least ``size`` prompts, shuffled: ``planted`` of every kind, real ones, and generated ones for the rest.

    Real prompts make up at most half. One of which a turn, or all, is an evaluation item letter by letter is a ``real
    leak``; one that was read and found to be an item, or one with other numbers, is a ``real near copy``, and one that
    asks something else about an item's own text ``real, same passage``. None of them is clean, nor feeds the generated
    prompts, which would repeat it.
    """
    draw = random.Random(seed)
    known = {squeezed(text) for of_task in items.values() for fields in of_task for text in (*fields, " ".join(fields))}
    read = labels()
    kinds = {"same": "real near copy", "numbers": "real near copy", "passage": "real, same passage"}
    real = []
    for name, turns in real_training(data):
        if any(turn.strip() for turn in turns):
            leaks = any(squeezed(text) in known for text in (*turns, " ".join(turns)) if text.strip())
            kind = "real leak" if leaks else kinds.get(read.get(digest(turns), ""), f"real: {name}")
            real.append(Prompt("", turns, kind))
    chain = Chain(prompt.turns[0] for prompt in real if prompt.kind.startswith("real:"))
    prompts = [*_planted(items, planted, chain, draw), *_hard_negatives(items, planted, chain, draw)]
    prompts += draw.sample(real, min(len(real), size // 2))
    prompts += [
        Prompt("", (chain.walk(draw, int(draw.lognormvariate(4.2, 0.6)) + 5),), "generated")
        for _ in range(max(0, size - len(prompts)))
    ]
    draw.shuffle(prompts)
    return [Prompt(f"train-{n}", p.turns, p.kind, p.item) for n, p in enumerate(prompts)]


def labels() -> dict[str, str]:
    """Digest of a real training prompt → what it is beside the evaluation item most like it.

    ``same`` problem, other ``numbers``, another question about the same ``passage``, or the same ``template`` alone.
    """
    lines = (Path(__file__).parent / "labels.txt").read_text(encoding="utf-8").splitlines()
    return {digest: label for digest, label, *_ in (line.split() for line in lines if not line.startswith("#"))}


def digest(turns: Texts) -> str:
    return hashlib.blake2b(squeezed(" ".join(turns)).encode(errors="replace"), digest_size=6).hexdigest()


class Chain:
    """Generates text whose every word pair stands in the texts that it was made from."""

    def __init__(self, texts):
        follows = defaultdict(list)
        for text in texts:
            words = text.split()
            for word, after in zip(words, words[1:], strict=False):
                follows[word].append(after)
        self.follows = dict(follows)
        self.starts = sorted(self.follows)

    def walk(self, draw: random.Random, count: int) -> str:
        words = [draw.choice(self.starts)]
        while len(words) < count:
            after = self.follows.get(words[-1])
            words.append(draw.choice(after) if after else draw.choice(self.starts))
        return " ".join(words)


def squeezed(text: str) -> str:
    return "".join(text.lower().split())


def words_of(text: str) -> list[str]:
    return [word for word in re.split(r'[ ,.?!:;()"\n\\-]', text.lower()) if word]


def _planted(items, count: int, chain: Chain, draw: random.Random) -> Iterator[Prompt]:
    every = [(task, n) for task, of_task in items.items() for n in range(len(of_task))]
    text_of = {(task, n): "\n".join(items[task][n]) for task, n in every}
    long = [item for item in every if len(words_of(text_of[item])) >= 8]
    short = [item for item in every if 0 < len(words_of(text_of[item])) < 8]
    # A template with another number is another item of the same task, so only items of some length are changed.
    changeable = [item for item in long if len(words_of(text_of[item])) >= 16]
    numbered = [item for item in changeable if len(re.findall(r"\d+", text_of[item])) >= 2]
    for kind in PLANTED:
        pool = {"verbatim": every, "wrapped": long, "numbers changed": numbered, "10 % words dropped": changeable}
        chosen_from = pool.get(kind, short if kind.startswith("short") else long)
        for item in draw.choices(chosen_from, k=count):
            text = text_of[item]
            turns: Texts = (text,)
            if kind == "wrapped":
                turns = (f"{chain.walk(draw, 12)}.\n{text}\n{chain.walk(draw, 8)}.",)
            elif kind == "short wrapped":
                turns = (f"{chain.walk(draw, 12)}:\n{text}\n{chain.walk(draw, 8)}.",)
            elif kind == "numbers changed":
                turns = (re.sub(r"\d+", lambda found: str(draw.randrange(2, 10 ** len(found[0]) + 2)), text),)
            elif kind == "10 % words dropped":
                words = text.split(" ")
                dropped = set(draw.sample(range(len(words)), max(1, len(words) // 10)))
                turns = (" ".join(word for n, word in enumerate(words) if n not in dropped),)
            elif kind == "split over turns":
                words = text.split(" ")
                middle = max(1, len(words) // 2)
                turns = (" ".join(words[:middle]), " ".join(words[middle:]))
            yield Prompt("", turns, kind, item)


def _hard_negatives(items, count: int, chain: Chain, draw: random.Random) -> Iterator[Prompt]:
    templates = _templates(items)
    for _ in range(count):
        yield Prompt("", (f"{draw.choice(templates)} {chain.walk(draw, 30)}",), "shared template")
        yield Prompt(
            "",
            (f"{chain.walk(draw, 15)}. Recall that {draw.choice(FORMULAS)}. {chain.walk(draw, 20)}",),
            "standard formula",
        )
        idioms = " ".join(draw.sample(IDIOMS, 2))
        yield Prompt("", (f"{chain.walk(draw, 12)}:\n{idioms}\n{chain.walk(draw, 10)}",), "code idiom")
    long = [
        fields[0]
        for of_task in items.values()
        for fields in of_task
        if len(fields) == 1 and len(words_of(fields[0])) >= 20
    ]
    for text in draw.choices(long, k=count):
        words = text.split(" ")
        yield Prompt(
            "", (f"{' '.join(words[: int(0.45 * len(words))])} {chain.walk(draw, len(words))}",), "45 % prefix"
        )


def _templates(items) -> list[str]:
    """The longest openings of at least eight words that more than ten items of one task share."""
    found = []
    for of_task in items.values():
        words = [fields[0].split(" ") for fields in of_task if len(fields) == 1]
        length, longest = 60, []
        while length >= 8:
            openings = Counter(tuple(w[:length]) for w in words if len(w) >= length)
            longest += [opening for opening, count in openings.items() if count > 10]
            words = [w for w in words if not any(tuple(w[: len(opening)]) == opening for opening in longest)]
            length -= 4
        found += [" ".join(opening) for opening in longest[:40]]
    return found


def _lines(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _mmlu(data: Path, split: str) -> Iterator[list[str]]:
    with zipfile.ZipFile(data / "mmlu/mmlu.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(f"data/{split}/") and name.endswith(".csv"):
                yield from csv.reader(io.StringIO(archive.read(name).decode("utf-8")))


def _drop(context: str) -> Texts:
    passage, _, question = context.rpartition("\nQuestion:")
    return passage.rpartition("Passage:")[2].strip(), question.removesuffix("Answer:").strip()


def _paths(message: dict, before: Sequence[str] = ()) -> Iterator[Texts]:
    """The user turns along every path of a tree of messages."""
    turns = (*before, message["text"]) if message["role"] == "prompter" else tuple(before)
    if not message["replies"]:
        yield turns
    for reply in message["replies"]:
        yield from _paths(reply, turns)
