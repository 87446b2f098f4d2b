"""HumanEval and HumanEval+: Python functions to complete, run in the sandbox; pass@10 of 20 samples."""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from posttrain.evaluation.protocol import Decoding, Instance, Protocol, Task
from posttrain.evaluation.tasks.hub import rows
from posttrain.evaluation.tasks.prompting import plain_of

COLUMNS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
OPENING = "Here is the completed function:\n\n```python\n"
# HumanEval+'s tests import numpy, mostly to ask whether a value is an array: where it was not imported, none is.
# Its import takes ten times as long as the rest of a short test.
NUMPY = """import sys as _sys

class _Numpy:
    def __getattr__(self, name):
        if name == "ndarray" and "numpy" not in _sys.modules:
            return _Numpy
        import numpy
        return getattr(numpy, name)

np = _Numpy()
"""
# Six of them ask a reference for the results, for minutes in twenty samples: it is asked once, of copies.
_REFERENCE = re.compile(
    r"^def check\(candidate\):\n    (inputs = .*)\n    for i, inp in enumerate\(inputs\):\n"
    r"        assertion\(candidate\(\*inp\), ref_func\(\*inp\), 0\)$",
    re.MULTILINE,
)
_ASKED_ONCE = r"""
import copy as _copy

\1
results = [ref_func(*_copy.deepcopy(inp)) for inp in inputs]

def check(candidate):
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
# All but one compare hundreds of answers in such a loop: the calls cross to the program together.
_LOOP = re.compile(
    r"^    for i, \(inp, exp\) in enumerate\(zip\(inputs, results\)\):\n"
    r"        assertion\(candidate\(\*inp\), exp, (.*)\)$",
    re.MULTILINE,
)
_TOGETHER = r"""    from posttrain.sandbox.checker import each
    for out, exp in zip(each(candidate, inputs), results):
        assertion(out, exp, \1)"""
SECONDS = {"humaneval": 3.0, "humaneval_plus": 20.0}

PAPER = Protocol(
    task="humaneval",
    mode="paper",
    data="openai/openai_humaneval",
    revision="main",
    split="test",
    format="chat",
    decoding=Decoding(
        max_tokens=512,
        temperature=0.8,
        top_p=0.95,
        stop_strings=("\nclass", "\nif", "\nprint", "\n#", "\n```", "\n```\n\n", "<|eot_id|>"),
    ),
    verifier="code",
    verifier_mode="strict",
    metric="pass@k",
    extractor=2,  # 2: a test that calls a helper of its prompt finds it
    samples=20,
    k=10,
    prefill=OPENING,
    # The released prompt shows the opening both at the end of the question and as the answer's beginning.
    prompt=(
        ("before", "Complete the following python function.\n\n\n```python\n"),
        ("after", f"\n```\n\n\n{OPENING}"),
    ),
)
CLEAN = replace(
    PAPER,
    mode="clean",
    decoding=Decoding(max_tokens=1024, stop_strings=PAPER.decoding.stop_strings),
    samples=1,
    k=1,
    prompt=(PAPER.prompt[0], ("after", "\n```")),
)


def _plus(protocol: Protocol) -> Protocol:
    return replace(protocol, task="humaneval_plus", data="evalplus/humanevalplus")


def _helpers(row: Mapping[str, Any]) -> str:
    """The functions of the prompt that its test calls beside the one that is asked for (three prompts have one). They
    are taken from the prompt, not from the answer, which might define them otherwise."""
    stated = ast.parse(f"{row['prompt']}\n    pass\n").body
    given = [one for one in stated if isinstance(one, ast.FunctionDef) and one.name != row["entry_point"]]
    if not any(re.search(rf"\b{one.name}\(", row["test"]) for one in given):
        return ""
    imports = [one for one in stated if isinstance(one, (ast.Import, ast.ImportFrom))]
    return "".join(f"{ast.unparse(one)}\n" for one in (*imports, *given))


def _label(row: Mapping[str, Any], seconds: float) -> str:
    test = row["test"].replace("import numpy as np\n", NUMPY, 1)
    given = {
        "setup": _helpers(row) + _LOOP.sub(_TOGETHER, _REFERENCE.sub(_ASKED_ONCE, test)),  # once for all samples
        "tests": [f"check({row['entry_point']})"],
        "calls": [row["entry_point"]],
        "score": "all",
        "seconds": seconds,
    }
    return json.dumps(given)


def _load(data: str, protocol: Protocol, hub_mirror: Mapping[str, str], limit: int | None) -> list[Instance]:
    made = []
    for row in rows(data, "test", hub_mirror, COLUMNS, limit, ask_hub=True):
        program = row["prompt"]
        if protocol.format == "plain":
            prompt: Any = program
        else:
            text = protocol.text("before") + program.rstrip() + protocol.text("after")
            prompt = ({"role": "user", "content": text},)
        made.append(
            Instance(
                f"{protocol.task}-{row['task_id'].split('/')[-1]}",
                prompt,
                (("code", _label(row, SECONDS[protocol.task])),),
                row["canonical_solution"],
                prefill="" if protocol.format == "plain" else program,
                before=program,
            )
        )
    return made


def _fields(data: str, hub_mirror: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    return [(f"{row['task_id']}", (row["prompt"],)) for row in rows(data, "test", hub_mirror, COLUMNS)]


def _task(chat: Protocol) -> Task:
    plain = plain_of(chat, "\ndef")
    return Task(chat, plain, partial(_load, chat.data), partial(_fields, chat.data))


TASKS = tuple(_task(chat) for chat in (PAPER, _plus(PAPER), CLEAN, _plus(CLEAN)))
