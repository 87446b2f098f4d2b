"""What was found and what is done about it: per evaluation the rate, the verdict and the pairs, then one decision."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from posttrain.decontamination.index import EvaluationIndex, EvaluationItem, Evaluations
from posttrain.decontamination.match import Match, Spans, TrainRow, match_rows, shared_spans
from posttrain.decontamination.profiles import PROFILES, ProfileName

Policy = Literal["drop_rows", "drop_set", "keep"]


@dataclass(frozen=True)
class Pair:
    """A training row and an evaluation item it overlaps. ``spans``: (turn or field, begin, end) in characters."""

    train_id: str
    item_id: str
    coverage: float
    spans: Spans


@dataclass(frozen=True)
class EvaluationOverlap:
    """One evaluation against one training set.

    ``overlapping``: items that some row overlaps. ``row_numbers``: the rows that overlap an item, by their order.
    ``pairs``: the best ones with their places in the texts; ``pair_count`` counts all.
    """

    task: str
    items: int
    overlapping: int
    contaminated: bool
    row_numbers: tuple[int, ...]
    pair_count: int
    pairs: tuple[Pair, ...]

    @property
    def rate(self) -> float:
        return self.overlapping / self.items if self.items else 0.0


@dataclass(frozen=True)
class DecontaminationReport:
    """One training set of ``rows`` rows against every evaluation."""

    profile: ProfileName
    ngram: int
    item_threshold: float
    set_threshold: float
    rows: int
    evaluations: tuple[EvaluationOverlap, ...]

    @property
    def contaminated(self) -> tuple[EvaluationOverlap, ...]:
        return tuple(evaluation for evaluation in self.evaluations if evaluation.contaminated)

    def as_json(self) -> dict[str, Any]:
        evaluations = []
        for found in self.evaluations:
            columns = asdict(found) | {"rate": found.rate, "rows": len(found.row_numbers)}
            del columns["row_numbers"]
            columns["pairs"] = columns.pop("pairs")  # last, being long
            evaluations.append(columns)
        return {
            "profile": self.profile,
            "ngram": self.ngram,
            "item_threshold": self.item_threshold,
            "set_threshold": self.set_threshold,
            "rows": self.rows,
            "evaluations": evaluations,
        }


@dataclass(frozen=True)
class Decision:
    """``dropped``: numbers of the rows to leave out."""

    action: Policy
    dropped: frozenset[int]
    reason: str


def find_overlaps(
    train: Iterable[TrainRow],
    evaluations: Evaluations | EvaluationIndex,
    *,
    profile: ProfileName = "paper",
    item_threshold: float = 0.5,
    set_threshold: float = 0.02,
    pairs_shown: int = 1000,
    on_row: Callable[[], None] = lambda: None,
) -> DecontaminationReport:
    """The overlaps of one training set with every evaluation, by the paper's rule (§3.2) on the profile's n-grams.

    An item overlaps if one row covers more than ``item_threshold`` of its tokens; the set is contaminated for an
    evaluation if more than ``set_threshold`` of its items overlap. Thresholds are taken as the decimals they print as.
    ``train``: (id, user turns). An index that was built once may stand for the evaluations; its profile then counts.
    ``on_row`` is called once for each row.
    """
    index = evaluations if isinstance(evaluations, EvaluationIndex) else EvaluationIndex(evaluations, PROFILES[profile])
    ids: list[str] = []
    turns_of_matched: dict[int, tuple[str, ...]] = {}
    matches: dict[str, list[Match]] = defaultdict(list)
    for (id, turns), found in match_rows(index, train, Fraction(str(item_threshold))):
        if found:
            turns_of_matched[len(ids)] = tuple(turns)
        for match in found:
            matches[index.items[match.item][0]].append(match)
        ids.append(id)
        on_row()

    overlaps = []
    for task, items in index.tasks.items():
        of_task = matches[task]
        overlapping = len({match.item for match in of_task})
        best = sorted(of_task, key=lambda match: (-match.coverage, match.item, match.row))[:pairs_shown]
        overlaps.append(
            EvaluationOverlap(
                task=task,
                items=items,
                overlapping=overlapping,
                contaminated=overlapping > Fraction(str(set_threshold)) * items,
                row_numbers=tuple(sorted({match.row for match in of_task})),
                pair_count=len(of_task),
                pairs=tuple(
                    Pair(
                        ids[match.row],
                        index.items[match.item][1].id,
                        match.coverage,
                        shared_spans(index, match.item, turns_of_matched[match.row]),
                    )
                    for match in best
                ),
            )
        )
    return DecontaminationReport(
        index.profile.name, index.profile.ngram, item_threshold, set_threshold, len(ids), tuple(overlaps)
    )


def decide(report: DecontaminationReport, policy: Policy) -> Decision:
    """What ``policy`` makes of the report. Rows matched only in evaluations under the threshold are always kept."""
    bad = report.contaminated
    if not bad:
        return Decision("keep", frozenset(), f"no evaluation overlaps by more than {report.set_threshold:.2%}")
    found = ", ".join(f"{e.task} {e.rate:.1%} ({e.overlapping} of {e.items})" for e in bad)
    reason = f"over {report.set_threshold:.2%} of {found}; on_contamination is {policy}"
    match policy:
        case "keep":
            return Decision(policy, frozenset(), reason)
        case "drop_set":
            return Decision(policy, frozenset(range(report.rows)), reason)
        case "drop_rows":
            return Decision(policy, frozenset(row for e in bad for row in e.row_numbers), reason)


__all__ = [
    "Decision",
    "DecontaminationReport",
    "EvaluationItem",
    "EvaluationOverlap",
    "Evaluations",
    "Pair",
    "decide",
    "find_overlaps",
]
