"""What every verifier answers."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["correct", "wrong", "timeout", "error"]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one response.

    ``timeout``: the response itself hit a limit (time, size, depth); score 0, trained on, counted apart.
    ``error``: infrastructure only; never the response's fault, never trained on, never averaged.
    ``score`` lies in [0, 1]. ``version`` is the verifier's own, raised when its verdicts may change.
    """

    outcome: Outcome
    score: float
    detail: str = ""
    version: int = 1
