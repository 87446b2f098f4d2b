"""Files of rows against the evaluations, outside of a recipe: a report, and a copy without what leaks."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from posttrain.artifacts.atomic import write_json, write_text
from posttrain.artifacts.hashing import digest_file
from posttrain.data.columns import RowKind
from posttrain.data.content import user_turns
from posttrain.data.layouts import AS_PUBLISHED, Layout
from posttrain.data.readers import read_rows, write_rows
from posttrain.data.rejects import Rejects
from posttrain.data.rows import Row
from posttrain.decontamination.dataset import card, digest_of, source_report
from posttrain.decontamination.index import EvaluationIndex, Evaluations
from posttrain.decontamination.profiles import PROFILES, ProfileName
from posttrain.decontamination.ray_data import match_files
from posttrain.decontamination.report import Decision, DecontaminationReport, Policy, decide, find_overlaps, report_on
from posttrain.errors import PosttrainError
from posttrain.stages.fresh_report import REPORT
from posttrain.stages.suite_items import suite_items


@dataclass(frozen=True)
class CheckedCopy:
    """``not_run``: the tasks whose data was not there. ``rejected``: bad rows, set aside in ``folder``."""

    report: DecontaminationReport
    decision: Decision
    not_run: list[str]
    rejected: int
    folder: Path


def checked_copy(
    files: Sequence[Path],
    folder: Path,
    *,
    kind: RowKind = "conversation",
    layout: Layout = AS_PUBLISHED,
    suites: Sequence[str] = ("development", "unseen"),
    against: Evaluations | None = None,
    hub_mirror: Mapping[str, str] | None = None,
    profile: ProfileName = "strict",
    policy: Policy = "drop_rows",
    item_threshold: float | None = None,
    set_threshold: float = 0.02,
    processes: int = 1,
    ray_workers: int = 0,
    on_rows: Callable[[int], object] = lambda count: None,
) -> CheckedCopy:
    """Checks the files as one training set, and writes a dataset without the rows that ``policy`` drops.

    ``folder`` gets data.jsonl, the card README.md, the report decontamination.json (without which training refuses the
    rows), and rejected.jsonl if there are bad rows. ``against``: evaluations beside those of the suites. The files are
    read twice and never held. ``ray_workers``: of the Ray cluster that is at hand, instead of ``processes``.
    """
    of_suites, not_run = suite_items(suites, hub_mirror or {})
    if taken := sorted(set(of_suites) & set(against or ())):
        raise PosttrainError(f"{', '.join(taken)} of the suites would be replaced by `against`. Give it another name.")
    index = EvaluationIndex({**of_suites, **(against or {})}, PROFILES[profile])
    rejects = Rejects(folder / "rejected.jsonl")
    shutil.rmtree(folder / "rejected", ignore_errors=True)  # those of an earlier check by Ray
    item_threshold = index.profile.threshold if item_threshold is None else item_threshold
    thresholds = {"item_threshold": item_threshold, "set_threshold": set_threshold}
    if ray_workers:
        aside = folder / "rejected"
        item = Fraction(str(item_threshold))
        batches = match_files(index, files, kind, item, layout=layout, workers=ray_workers, rejected=aside)
        report = report_on(index, batches, **thresholds, on_rows=on_rows)
    else:
        rows = ((row.id, user_turns(row)) for row in rows_of(files, kind, layout, rejects))
        report = find_overlaps(rows, index, **thresholds, processes=processes, on_rows=on_rows)
    decision = decide(report, policy)
    dropped_ids: list[str] = []

    def kept(again: Rejects) -> Iterator[Row]:
        for number, row in enumerate(rows_of(files, kind, layout, again)):
            if number in decision.dropped:
                dropped_ids.append(row.id)
            else:
                yield row

    again = Rejects(None)
    write_rows(folder / "data.jsonl", kept(again))
    name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    made_for = {
        "data_sha256": digest_file(folder / "data.jsonl"),
        "evaluations_sha256": digest_of(of_suites),
        "against_sha256": digest_of(against) if against else None,
        "suites": list(suites),
        "made_of": [{"file": file.name, "sha256": digest_file(file)} for file in files],
    }
    entry = source_report(name, report, decision, dropped_ids, excerpts=False)
    write_json(folder / REPORT, made_for | {"not_run": not_run, "sources": [entry]})
    write_text(folder / "README.md", card(name, report, decision, not_run))
    return CheckedCopy(report, decision, not_run, again.count, folder)


def rows_of(files: Sequence[Path], kind: RowKind, layout: Layout, rejects: Rejects) -> Iterator[Row]:
    """The good rows of all files, in order."""
    for file in files:
        yield from read_rows(file, kind, rejected=rejects, layout=layout)
