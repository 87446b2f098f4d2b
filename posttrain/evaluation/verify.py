"""From responses to verdicts: every check of every record, in killable processes where a verifier needs them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.artifacts.hashing import digest_json
from posttrain.evaluation.protocol import UNANSWERED, Instance, Protocol
from posttrain.evaluation.scorers import SCORERS
from posttrain.verifiers.pool import VerifierPool
from posttrain.verifiers.verdict import Verdict
from posttrain.verifiers.worker import judge

VERIFIER_WORKERS = 2
FEW = 100  # answers that one worker judges before another is worth its start
SECONDS_PER_VERDICT = 10.0  # a verdict takes milliseconds; sympy and langdetect can stall on odd text
SECONDS_PER_PROGRAM = 300.0  # the sandbox has a limit of its own, by benchmark


# Plain comparisons of text, in time linear in the answer: they need no process that can be killed.
PLAIN = ("exact_match", "gsm8k", "substring")


@dataclass(frozen=True)
class _Check:
    record: int
    verifier: str
    answer: str
    label: str
    mode: str


def verify(records: list[dict[str, Any]], asked: Sequence[tuple[Protocol, Instance]]) -> None:
    """Puts outcome, score and detail into each record, by the checks of its instance on its response.

    A record without an answer stays as it is. Instances without checks (a judge decides them) are left alone.
    """
    checks = []
    for number, (record, (protocol, instance)) in enumerate(zip(records, asked, strict=True)):
        if record["finish_reason"] in UNANSWERED:
            continue
        answer = instance.before + instance.extract(record["response"])
        checks += [_Check(number, name, answer, label, protocol.verifier_mode) for name, label in instance.checks]
    verdicts: dict[int, list[Verdict]] = {}
    for check, verdict in _verdicts(checks):
        verdicts.setdefault(check.record, []).append(verdict)
    for number, held in verdicts.items():
        records[number] |= all_of(held)
        if asked[number][0].metric in ("mean", "mc2") and records[number]["outcome"] != "error":
            records[number]["score"] = sum(verdict.score for verdict in held) / len(held)


def _verdicts(checks: Sequence[_Check]) -> Iterator[tuple[_Check, Verdict]]:
    for check in checks:
        if check.verifier in SCORERS:
            yield check, SCORERS[check.verifier](check.answer, check.label)
        elif check.verifier in PLAIN:
            yield check, judge(check.verifier, check.answer, check.label, check.mode)
    pooled: dict[tuple[str, float], list[_Check]] = {}
    for check in checks:
        if check.verifier not in (*SCORERS, *PLAIN):
            seconds = SECONDS_PER_PROGRAM if check.verifier == "code" else SECONDS_PER_VERDICT
            pooled.setdefault((check.mode, seconds), []).append(check)
    for (mode, seconds), own in sorted(pooled.items(), key=lambda item: item[0]):
        # A greedy model repeats itself: equal answers to one label are judged once.
        unique = list(dict.fromkeys((check.verifier, check.answer, check.label) for check in own))
        # A second worker loads its language data or sympy again: not for a few answers.
        workers = min(VERIFIER_WORKERS, 1 + len(unique) // FEW)
        with VerifierPool(workers, seconds, mode) as pool:
            found = dict(zip(unique, pool.verify(unique), strict=True))
            if seconds == SECONDS_PER_VERDICT:
                # Once more for what was late: on a machine under load it may have been the worker that had to wait.
                late = [check for check, verdict in found.items() if verdict.outcome == "timeout"]
                found |= zip(late, pool.verify(late), strict=True)
        yield from ((check, found[check.verifier, check.answer, check.label]) for check in own)


def all_of(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Right only if every check is; an error of the machine outweighs all, a time-out is wrong but counted apart."""
    outcomes = {verdict.outcome for verdict in verdicts}
    outcome = next((o for o in ("error", "timeout", "wrong") if o in outcomes), "correct")
    detail = "; ".join(verdict.detail for verdict in verdicts if verdict.detail)
    return {"outcome": outcome, "score": float(outcome == "correct"), "detail": detail}


def about(instance: Instance, protocol: Protocol, sample: int) -> Mapping[str, Any]:
    """What a record says of its instance beyond what all of them do."""
    found: dict[str, Any] = {"group": instance.group, "cluster": _short(instance.cluster)}
    if protocol.samples > 1:
        found["sample"] = sample
    return {name: value for name, value in found.items() if value != ""}


def _short(cluster: str) -> str:
    """A passage is its digest: records need to know that two are the same, not what they say."""
    return digest_json(cluster)[:12] if cluster else ""
