"""Sources become one clean set: read, decontaminate, drop what an earlier source gave already, take the amount asked
for, shuffle, write.

Writes data.jsonl (published layout), mixture.json (the manifest: what came from where under which licence, what was
left out and why, how long it is), decontamination.json (every source against every evaluation) and, if there are any,
rejected.jsonl (bad rows). The rows wait on disk; what grows with them in memory is some hundred bytes each.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import write_json
from posttrain.artifacts.hashing import digest_file
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.content import user_turns, whole_text
from posttrain.data.layouts import Layout
from posttrain.data.mixing import keyed_order, requested, select, unique_ids, without_duplicates
from posttrain.data.readers import write_rows
from posttrain.data.rejects import Rejects
from posttrain.data.rows import Row
from posttrain.data.rows_on_disk import RowsOnDisk
from posttrain.data.sources import HubSource, LocalSource, find_source
from posttrain.data.statistics import Statistics
from posttrain.decontamination.dataset import digest_of, source_report
from posttrain.decontamination.index import EvaluationIndex
from posttrain.decontamination.near_duplicates import near_duplicates
from posttrain.decontamination.profiles import PROFILES
from posttrain.decontamination.report import decide, find_overlaps
from posttrain.errors import PosttrainError
from posttrain.models.load import load_tokenizer
from posttrain.recipe.data_settings import Decontamination, Mixture, MixtureStatistics, Source
from posttrain.recipe.tables import licence_of
from posttrain.stages.base import StageContext
from posttrain.stages.suite_items import suite_items

VERSION = 5
PAIRS_SHOWN = 50  # near duplicates in the manifest; all are counted


@dataclass
class Part:
    """One source on its way: the rows that are left of it, what became of the others, and the positions ``used``."""

    settings: Source
    source: LocalSource | HubSource
    rows: RowsOnDisk
    removed: dict[str, int]
    rejected_reasons: dict[str, int]
    used: list[int] = field(default_factory=list)
    requested: int = 0
    decontamination: str = "not checked: the recipe sets no decontamination"
    copies_of: Counter[str] = field(default_factory=Counter)
    near_copies_of: Counter[str] = field(default_factory=Counter)

    def keep(self, positions: Iterable[int], reason: str) -> None:
        before, self.rows = len(self.rows), self.rows.kept(positions)
        self.removed[reason] = before - len(self.rows)

    @property
    def amount(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in ("fraction", "count", "repeat")}

    def licensed(self, row: Row) -> Row:
        """The row with its licence in a column of its own, where one is known."""
        licence = self.settings.licence or row.extra.get("licence") or licence_of(row.source, self.source.name)
        return replace(row, extra={**row.extra, "licence": licence}) if licence else row


def run(context: StageContext) -> dict[str, Any]:
    # On the disk of the output: rows may fill more than a small /tmp.
    with tempfile.TemporaryDirectory(prefix="rows-", dir=context.output) as folder:
        return mix(context, Path(folder))


def mix(context: StageContext, folder: Path) -> dict[str, Any]:
    """The stage, with a ``folder`` for the rows of each source."""
    settings: Mixture = context.settings
    check: Decontamination | None = settings.decontamination
    evaluations, not_run = suite_items(check.suites if check else (), context.hub_mirror)
    if not_run:
        context.progress.note(f"not checked against {', '.join(not_run)}: their data is not there")
    index = EvaluationIndex(evaluations, PROFILES[check.profile]) if check else None

    rejects = Rejects(context.output / "rejected.jsonl")
    parts, reports = [], []
    seen: dict[str, str] = {}
    for number, source in enumerate(settings.sources):
        part = read_part(context, source, rejects, folder / f"{number}.jsonl")
        if check and index:
            reports.append(decontaminate_part(context, part, check, index))
        choose(part, seen, context.seed)
        parts.append(part)
    pairs = near_duplicates_of(context, parts) if settings.near_duplicates else None

    tokenizer = tokenizer_of(context, settings.statistics) if settings.statistics else None
    train_on = settings.statistics.train_on if settings.statistics else "all_assistant_turns"
    accounts = []
    for part in parts:
        counts = {"available": len(part.rows), "requested": part.requested, "used": len(part.used)}
        if counts["used"] < counts["requested"]:
            context.progress.note(
                f"{part.source.name}: {part.requested} rows were asked for, {len(part.used)} are there"
            )
        row_sources, licences, lengths = composition(part, Statistics(tokenizer, train_on))
        told = {"licences": licences, "lengths": lengths}
        accounts.append(account(part) | {"row_sources": row_sources} | part.amount | counts | told)
    places = [(part, position) for part in parts for position in part.used]

    if not places:
        left_out = "; ".join(f"{part.source.name}: removed {part.removed}" for part in parts)
        raise PosttrainError(f"mixture {context.name}: no row is left to train on ({left_out}).")
    own_ids = [part.rows.ids[position] for part, position in places]
    ids = list(unique_ids(own_ids))
    order = keyed_order(ids, context.seed, "shuffle") if settings.shuffle else range(len(ids))

    def mixed() -> Iterator[Row]:
        for number in order:
            part, position = places[number]
            yield replace(part.licensed(part.rows[position]), id=ids[number])

    count = write_rows(context.output / "data.jsonl", mixed())
    digest = digest_file(context.output / "data.jsonl")
    if check:
        made_for = {"data_sha256": digest, "evaluations_sha256": digest_of(evaluations), "suites": list(check.suites)}
        write_json(context.output / "decontamination.json", made_for | {"not_run": not_run, "sources": reports})
    manifest = {
        "rows": count,
        "kind": settings.rows,
        "data_sha256": digest,
        "seed": context.seed,
        "shuffled": settings.shuffle,
        "ids_made_unique": count - len(set(own_ids)),
        "sources": accounts,
        "near_duplicates": pairs,
        "rejected_reasons": dict(sorted(rejects.reasons.items())),
        "decontamination": check.model_dump(mode="json") | {"not_run": not_run} if check else None,
    }
    write_json(context.output / "mixture.json", manifest)
    removed: Counter[str] = Counter()
    for part in parts:
        removed.update(part.removed)
    return {"rows": {"data": count, **removed}, "metrics": {}}


def read_part(context: StageContext, settings: Source, rejects: Rejects, path: Path) -> Part:
    """The good rows of one source, kept at ``path``; the bad ones are set aside."""
    of_stage = settings.data.startswith("stage:")
    layout = settings.layout
    source = find_source(
        context.resolve(settings.data) if of_stage else settings.data,
        hub_mirror=context.hub_mirror,
        revision=settings.revision,
        split=settings.split,
        name=settings.data if of_stage else None,
        layout=Layout(layout.columns, layout.values, layout.header) if layout else Layout(),
    )
    if isinstance(source, HubSource) and settings.revision is None:
        context.progress.note(f"{source.name}: no revision in the recipe; read at commit {source.commit}")
    count, reasons = rejects.count, Counter(rejects.reasons)
    rows = source.rows(context.settings.rows, rejects=rejects, limit=settings.limit)
    kept = RowsOnDisk(path, context.settings.rows, rows)
    rejected = {"rejected": rejects.count - count}
    part = Part(settings, source, kept, rejected, dict(sorted((rejects.reasons - reasons).items())))
    if settings.row_sources:
        of_them = [position for position, row in enumerate(kept) if row.source in settings.row_sources]
        part.keep(of_them, "of_other_row_sources")
    return part


def decontaminate_part(
    context: StageContext, part: Part, check: Decontamination, index: EvaluationIndex
) -> dict[str, Any]:
    """Leaves out what the recipe's policy says, and returns the source's entry in decontamination.json."""
    name, rows = part.source.name, part.rows
    context.progress.start(f"checking {name} against the evaluations", len(rows), "rows")
    report = find_overlaps(
        ((row.id, user_turns(row)) for row in rows),
        index,
        item_threshold=check.item_threshold,
        set_threshold=check.set_threshold,
        on_rows=context.progress.advance,
    )
    decision = decide(report, check.on_contamination)
    part.keep((n for n in range(len(rows)) if n not in decision.dropped), "contaminated")
    part.decontamination = decision.reason
    if decision.dropped:
        context.progress.note(f"{name}: {len(decision.dropped)} of {len(rows)} rows left out, {decision.reason}")
    dropped_ids = [rows.ids[n] for n in sorted(decision.dropped)]
    return source_report(name, report, decision, dropped_ids, excerpts=True)


def choose(part: Part, seen: dict[str, str], seed: int) -> None:
    """Takes the amount asked for of the rows whose content no earlier source gave; adds what is used to ``seen``."""
    fresh = without_duplicates(part.rows, seen, part.source.name)
    part.copies_of = fresh.copies_of
    part.keep(fresh.positions, "duplicate")
    part.requested = requested(len(part.rows), **part.amount)
    part.used = select(part.rows.ids, **part.amount, seed=seed, source=part.source.name)
    seen.update((fresh.fingerprints[position], part.source.name) for position in part.used)


class WholeTexts:
    """The whole texts of rows, each read when it is asked for."""

    def __init__(self, place: Sequence[tuple[Part, int]]):
        self.place = place

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, number: int, /) -> str:
        part, position = self.place[number]
        return whole_text(part.rows[position])


def near_duplicates_of(context: StageContext, parts: Sequence[Part]) -> dict[str, Any]:
    """What is found among the rows that are used, for the manifest; with ``drop`` the later row of each pair is left
    out."""
    place = [(part, position) for part in parts for position in dict.fromkeys(part.used)]
    context.progress.start("looking for near duplicates", len(place), "rows")
    copies: set[tuple[int, int]] = set()
    shown = []
    for found in near_duplicates(WholeTexts(place)):
        (part, position), (first_part, first) = place[found.row], place[found.original]
        copies.add((id(part), position))
        part.near_copies_of[first_part.source.name] += 1
        if len(shown) < PAIRS_SHOWN:
            ids = {"id": part.rows.ids[position], "source": part.source.name, "like": first_part.rows.ids[first]}
            shown.append(ids | {"of": first_part.source.name, "similarity": round(found.similarity, 4)})
    context.progress.advance(len(place))
    dropped = context.settings.near_duplicates == "drop"
    if dropped:
        for part in parts:
            kept = [position for position in range(len(part.rows)) if (id(part), position) not in copies]
            number = {position: new for new, position in enumerate(kept)}
            part.keep(kept, "near_duplicate")
            part.used = [number[position] for position in part.used if position in number]
    return {"found": len(copies), "dropped": dropped, "pairs": shown}


def account(part: Part) -> dict[str, Any]:
    """The source's entry in the manifest, less its amounts."""
    return {
        "source": part.source.name,
        "provenance": part.source.provenance,
        "limit": part.settings.limit,
        "read": len(part.rows) + sum(part.removed.values()),
        "removed": part.removed,
        "rejected_reasons": part.rejected_reasons,
        "copies_of": dict(sorted(part.copies_of.items())),
        "near_copies_of": dict(sorted(part.near_copies_of.items())),
        "decontamination": part.decontamination,
    }


def composition(part: Part, lengths: Statistics) -> tuple[dict[str, int], dict[str, int], dict[str, Any]]:
    """Of the rows that are used: where they came from, under which licence, and how long they are."""
    row_sources, licences = Counter[str](), Counter[str]()
    for position in part.used:
        row = part.licensed(part.rows[position])
        row_sources[row.source] += 1
        licences[row.extra.get("licence") or "unknown"] += 1
        lengths.add(row)
    return dict(sorted(row_sources.items())), dict(sorted(licences.items())), lengths.as_json()


def tokenizer_of(context: StageContext, settings: MixtureStatistics):
    """The tokenizer that the manifest's lengths are counted with, None for none."""
    if settings.tokenizer is None:
        return None
    return prepare_tokenizer(load_tokenizer(context.resolve(settings.tokenizer)), settings.chat_template)
