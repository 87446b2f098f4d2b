"""The two suites and every task by name. Reading this module loads no data and neither torch nor transformers."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

from posttrain.errors import PosttrainError
from posttrain.evaluation.protocol import NotRun, Task
from posttrain.evaluation.tasks import gsm8k, ifeval, nano

Suite = Literal["development", "unseen"]

SUITES: Mapping[Suite, tuple[Task, ...]] = {
    "development": (*nano.DEVELOPMENT, gsm8k.TASKS[0], ifeval.TASKS[0]),
    "unseen": nano.UNSEEN,
}
VARIANTS: Mapping[Suite, tuple[Task, ...]] = {
    "development": (*gsm8k.TASKS[1:], *ifeval.TASKS[1:]),
    "unseen": (),
}  # other protocols of the same questions: run when named
SUITE_OF: Mapping[str, Suite] = {task.name: suite for suite in SUITES for task in (*SUITES[suite], *VARIANTS[suite])}
TASKS: Mapping[str, Task] = {task.name: task for suite in SUITES for task in (*SUITES[suite], *VARIANTS[suite])}
DEFAULTS: Mapping[str, str] = {task.chat.task: task.name for suite in SUITES for task in SUITES[suite]}
"""``gsm8k`` → ``gsm8k@paper``: a task without a mode is the protocol that its suite runs."""


def check_task_names(names: Iterable[str]) -> None:
    """Raises PosttrainError that names an unknown task and the nearest known one."""
    for name in names:
        if name not in TASKS and name not in DEFAULTS:
            near = get_close_matches(name, [*TASKS, *DEFAULTS], n=1, cutoff=0.0)[0]
            raise PosttrainError(f"{name!r} is no evaluation task; the nearest is {near!r}. All: {', '.join(TASKS)}.")


def select(suite: Suite, names: Sequence[str] = ()) -> tuple[Task, ...]:
    """The named tasks of a suite, or all of it. A task of the other suite raises PosttrainError."""
    check_task_names(names)
    names = list(dict.fromkeys(DEFAULTS.get(name, name) for name in names))
    for name in names:
        if SUITE_OF[name] != suite:
            raise PosttrainError(f"{name!r} belongs to the {SUITE_OF[name]} suite; this evaluation is of {suite}.")
    return tuple(TASKS[name] for name in names) or SUITES[suite]


def prompts(suite: Suite, hub_mirror: Mapping[str, str]) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """(item id, texts) of every instance by task, for the decontamination index. Tasks without data are absent."""
    found = {}
    for task in SUITES[suite]:
        try:
            found[task.name] = task.fields(hub_mirror)
        except NotRun:
            continue
    return found
