"""`posttrain data inspect` and `show-matches`: rows and leaks to look at."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence

from posttrain.cli.data import evaluations, layout, pairs, tokenizer

TRAINED, MATCHED, PLAIN = "\x1b[1;32m", "\x1b[1;31m", "\x1b[0m"  # bold green, bold red
AROUND = 200  # characters shown on either side of a match


def inspect(args: argparse.Namespace) -> int:
    from posttrain.data.masked import masked
    from posttrain.data.readers import read_rows
    from posttrain.data.rejects import Rejects
    from posttrain.errors import PosttrainError

    rejects = Rejects(None)
    rows = enumerate(read_rows(args.file, args.rows, layout=layout(args), rejected=rejects), start=1)
    wanted = ((n, row) for n, row in rows if (row.id == args.id if args.id else n == args.row))
    number, row = next(wanted, (0, None))
    if row is None:
        raise PosttrainError(f"{args.file}: no row {args.id or args.row} ({rejects.count} bad rows left out).")
    made = tokenizer(args)
    assert made is not None  # --tokenizer is required
    bad = f", after {rejects.count} bad rows" if rejects.count else ""
    print(f"row {number}{bad}, id {clean(row.id)}, source {clean(row.source)}")
    for name, tokens in masked(made, row, max_tokens=args.max_tokens, train_on=args.train_on):
        trained = sum(piece.trained for piece in tokens)
        print(f"{name}: {len(tokens):,} tokens, {trained:,} trained ({mark('like this', True, TRAINED)})")
        if args.tokens:
            for n, piece in enumerate(tokens):
                print(f"{n:>6} {piece.id:>8} {'trained' if piece.trained else '      -'}  {piece.text!r}")
        else:
            print("".join(marked([(piece.text, piece.trained) for piece in tokens], TRAINED, between="|")))
    return 0


def show_matches(args: argparse.Namespace) -> int:
    import json

    from posttrain.data.content import user_turns
    from posttrain.data.readers import read_rows
    from posttrain.data.rejects import Rejects
    from posttrain.errors import PosttrainError
    from posttrain.stages.suite_items import suite_items

    path = args.report / "decontamination.json" if args.report.is_dir() else args.report
    if not path.is_file():
        raise PosttrainError(f"{path}: no such report. A mixture stage and `posttrain data decontaminate` write it.")
    report = json.loads(path.read_text(encoding="utf-8"))
    _, against = evaluations(args)
    items, _ = suite_items(args.suites or report.get("suites", ()), pairs("mirror", args.mirror))
    texts = {(task, item.id): item.fields for task, some in {**items, **against}.items() for item in some}
    found = [
        (source["source"], evaluation, pair)
        for source in report["sources"]
        for evaluation in source["evaluations"]
        if args.task in (None, evaluation["task"])
        for pair in evaluation["pairs"][: args.count]
    ]
    wanted = {pair["train_id"] for _, _, pair in found}
    rows: dict[str, dict[int, Sequence[str]]] = defaultdict(dict)  # id → number → user turns
    every = (
        row for file in args.files for row in read_rows(file, args.rows, layout=layout(args), rejected=Rejects(None))
    )
    for number, row in enumerate(every):
        if row.id in wanted:
            rows[row.id][number] = user_turns(row)
    for source, evaluation, pair in found:
        task = evaluation["task"]
        print(
            f"{task} item {pair['item_id']}: {pair['coverage']:.0%} stands in row {clean(pair['train_id'])} of {source}"
        )
        _side("evaluation", texts.get((task, pair["item_id"])), pair["spans"]["item"])
        of_id = rows[pair["train_id"]]  # the number tells rows of one id apart; the only row may stand elsewhere
        turns = of_id.get(pair["train_row"]) or (next(iter(of_id.values())) if len(of_id) == 1 else None)
        _side("training", turns, pair["spans"]["train"])
        print()
    pair_count = sum(evaluation["pair_count"] for source in report["sources"] for evaluation in source["evaluations"])
    print(f"{len(found):,} of {pair_count:,} pairs shown.")
    return 0


def _side(name: str, texts: Sequence[str] | None, spans: list[list[int]]) -> None:
    if texts is None:
        print(f"  {name}: its text is not in what was given (FILE, --mirror, --against)")
        return
    for number, text in enumerate(texts):
        places = [(begin, end) for where, begin, end in spans if where == number]
        if not places and len(texts) > 1:
            continue
        first, last = (places[0][0], places[-1][1]) if places else (0, 0)
        begin, end = max(0, first - AROUND), min(len(text), last + AROUND)
        parts, at = [], begin
        for one, other in places:
            parts += [(text[at:one], False), (text[one:other], True)]
            at = other
        parts.append((text[at:end], False))
        shown = "".join(marked(parts, MATCHED))
        print(f"  {name}: {'…' * (begin > 0)}{shown}{'…' * (end < len(text))}")


def marked(parts: Iterable[tuple[str, bool]], style: str, between: str = "") -> Iterable[str]:
    """The texts, runs of the marked ones in ``style``, or in brackets where the output is no terminal."""
    run: list[str] = []
    state = False
    for text, mark_it in parts:
        if mark_it != state and run:
            yield mark(between.join(run), state, style) + between
            run = []
        state = mark_it
        run.append(clean(text))
    if run:
        yield mark(between.join(run), state, style)


def mark(text: str, marked_: bool, style: str) -> str:
    if not marked_:
        return text
    return f"{style}{text}{PLAIN}" if sys.stdout.isatty() else f"⟦{text}⟧"


def clean(text: str) -> str:
    """Without what would steer a terminal: data may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
