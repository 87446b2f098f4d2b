"""What was found and what is done about it: per evaluation the rate, the verdict and the pairs, then one decision."""

import heapq
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from posttrain.decontamination.index import EvaluationIndex, Evaluations
from posttrain.decontamination.match import Batch, Matches, TrainRow, match_batches
from posttrain.decontamination.profiles import PROFILES, ProfileName
from posttrain.decontamination.spans import Span, Spans, shared_spans
from posttrain.errors import PosttrainError

Policy = Literal["drop_rows", "drop_set", "keep"]
AROUND = 300


@dataclass(frozen=True)
class Pair:
    """A training row and an evaluation item it overlaps. ``train_row``: the row's number in its set, from 0, as ids may
    repeat. ``spans``: (turn or field, begin, end) in characters. ``excerpt``: of the row, (text, whether it is shared),
    cut to `AROUND` characters about what is shared."""

    train_id: str
    train_row: int
    item_id: str
    coverage: float
    spans: Spans
    excerpt: tuple[tuple[str, bool], ...]


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

    def as_json(self, *, excerpts: bool) -> dict[str, Any]:
        """``excerpts``: with the text of the rows, for a run's own folder: what is shared is an evaluation's text."""
        evaluations = []
        for found in self.evaluations:
            columns = asdict(found) | {"rate": found.rate, "rows": len(found.row_numbers)}
            del columns["row_numbers"], columns["pairs"]
            pairs = [asdict(pair) for pair in found.pairs]
            if not excerpts:
                pairs = [{column: value for column, value in pair.items() if column != "excerpt"} for pair in pairs]
            evaluations.append(columns | {"pairs": pairs})
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
    profile: ProfileName = "strict",
    item_threshold: float | None = None,
    set_threshold: float = 0.02,
    pairs_shown: int = 200,
    processes: int = 1,
    on_rows: Callable[[int], object] = lambda count: None,
) -> DecontaminationReport:
    """The overlaps of one training set with every evaluation, by the paper's rule (§3.2) on the profile's n-grams.

    An item overlaps if one row covers more than ``item_threshold`` of its tokens (None: the profile's); the set is
    contaminated for an evaluation if more than ``set_threshold`` of its items overlap. Thresholds are taken as the
    decimals they print as.
    ``train``: (id, user turns), read once and never held; what is kept are the numbers of the rows that overlap and
    the ``pairs_shown`` best pairs of each evaluation. An index that was built once may stand for the evaluations; its
    profile then counts. ``on_rows`` is told how many rows each batch held. Raises PosttrainError if one of several
    ``processes`` dies.
    """
    index = evaluations if isinstance(evaluations, EvaluationIndex) else EvaluationIndex(evaluations, PROFILES[profile])
    item_threshold = index.profile.threshold if item_threshold is None else item_threshold
    _require_shares(item_threshold=item_threshold, set_threshold=set_threshold)
    batches = match_batches(index, train, Fraction(str(item_threshold)), processes=processes)
    thresholds = {"item_threshold": item_threshold, "set_threshold": set_threshold}
    return report_on(index, batches, **thresholds, pairs_shown=pairs_shown, on_rows=on_rows)


def report_on(
    index: EvaluationIndex,
    batches: Iterable[tuple[Batch, Matches]],
    *,
    item_threshold: float,
    set_threshold: float,
    pairs_shown: int = 200,
    on_rows: Callable[[int], object] = lambda count: None,
) -> DecontaminationReport:
    """The report on a training set of which each batch of rows comes with its matches over ``item_threshold``."""
    _require_shares(item_threshold=item_threshold, set_threshold=set_threshold)
    found = [_OfTask(pairs_shown) for _ in index.tasks]
    overlapped_I = np.zeros(len(index.items), dtype=bool)
    rows = 0
    for batch, matches in batches:
        overlapped_I[matches.item_M] = True
        columns = (matches.row_M, matches.item_M, matches.coverage_M, index.task_I[matches.item_M])
        for row, item, coverage, task in zip(*(column.tolist() for column in columns), strict=True):
            found[task].add(rows + row, item, coverage, batch[row])
        rows += len(batch)
        on_rows(len(batch))

    overlapping = np.bincount(index.task_I[overlapped_I], minlength=len(index.tasks)).tolist()
    best = [sorted(of_task.best, reverse=True) for of_task in found]
    spans = iter(shared_spans(index, [(-item, turns) for pairs in best for _, item, _, _, turns in pairs]))
    overlaps = tuple(
        EvaluationOverlap(
            task=task,
            items=items,
            overlapping=count,
            contaminated=count > Fraction(str(set_threshold)) * items,
            row_numbers=tuple(of_task.rows),
            pair_count=of_task.count,
            pairs=tuple(
                Pair(id, -row, index.items[-item][1].id, coverage, own := next(spans), excerpt(turns, own.train))
                for coverage, item, row, id, turns in pairs
            ),
        )
        for (task, items), count, of_task, pairs in zip(index.tasks.items(), overlapping, found, best, strict=True)
    )
    return DecontaminationReport(index.profile.name, index.profile.ngram, item_threshold, set_threshold, rows, overlaps)


def excerpt(turns: Sequence[str], spans: Sequence[Span]) -> tuple[tuple[str, bool], ...]:
    """What stands in ``spans`` and about them, in order; turns without any are left out."""
    pieces: list[tuple[str, bool]] = []
    for number, text in enumerate(turns):
        reached = 0
        for begin, end in sorted((begin, end) for turn, begin, end in spans if turn == number):
            pieces += [(_shortened(text[reached:begin], reached > 0, True), False), (text[begin:end], True)]
            reached = end
        if reached:
            pieces.append((_shortened(text[reached:], True, False) + "\n", False))
    return tuple(piece for piece in pieces if piece[0])


def _shortened(text: str, head: bool, tail: bool) -> str:
    if len(text) <= AROUND * (head + tail):
        return text
    return text[: AROUND * head] + " … " + text[len(text) - AROUND * tail :]


def _require_shares(**thresholds: float) -> None:
    for name, value in thresholds.items():
        if not 0 <= value < 1:
            raise PosttrainError(f"{name} is {value:g}, no share from 0 to below 1. For 2 % write 0.02.")


class _OfTask:
    """What is kept of one evaluation's pairs: numbers of rows, and a heap of the best with their texts."""

    def __init__(self, shown: int):
        self.shown, self.count, self.rows = shown, 0, array("q")
        self.best: list[tuple[float, int, int, str, Sequence[str]]] = []

    def add(self, row: int, item: int, coverage: float, train: TrainRow) -> None:
        self.count += 1
        if not self.rows or self.rows[-1] != row:
            self.rows.append(row)
        pair = (coverage, -item, -row, *train)
        if len(self.best) < self.shown:
            heapq.heappush(self.best, pair)
        elif self.best and pair > self.best[0]:
            heapq.heapreplace(self.best, pair)


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
