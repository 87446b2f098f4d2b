"""`posttrain compare A B`: two evaluated models on the same instances."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="folder of an evaluation, or FOLDER:LABEL where it has several models")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--changes", type=int, default=10, metavar="N", help="changed instances to print per task")


def execute(args: argparse.Namespace) -> int:
    from posttrain.cli.columns import table
    from posttrain.errors import PosttrainError
    from posttrain.evaluation.compare import compare, read_scored

    if args.changes < 0:
        raise PosttrainError(f"--changes {args.changes}: how many are printed, 0 or more.")
    a, b = read_scored(args.a), read_scored(args.b)
    found, average, alone = compare([a], [b])
    if not found:
        raise PosttrainError(f"{a.label} and {b.label} were scored on no task in common.")
    rows = [
        ("task", a.label, b.label, "difference [95 %]", "bootstrap", "gains", "losses", "McNemar p", "n", "detectable")
    ]
    for one in [*found, *([average] if average and len(found) > 1 else [])]:
        marks = "" if one.same_protocol else " (asked differently)"
        test = one.test
        rows.append(
            (
                one.task + marks,
                f"{100 * one.a:.1f}",
                f"{100 * one.b:.1f}",
                f"{100 * one.difference:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]",
                f"[{100 * one.bootstrap[0]:+.1f}, {100 * one.bootstrap[1]:+.1f}]" if one.bootstrap else "",
                str(test.only_a) if test else "",
                str(test.only_b) if test else "",
                f"{test.p:.3g}" if test else "",
                str(one.n),
                f"{100 * one.detectable:.1f}",
            )
        )
    print("\n".join(table(rows)))
    if alone:
        told = "no part of the average, as they or other parts of their component are scored for one of them only"
        print(f"{told}: {', '.join(alone)}")
    for one in found:
        if one.left_out:
            print(f"{one.task}: {one.left_out} instances could not be judged for both and are left out")
    responses = [{(r["task"], r["id"]): r["response"] for r in scored.records} for scored in (a, b)]
    for one in found:
        for id, x, y in one.changed[: args.changes]:
            texts = [" ".join(answers.get((one.task, id), "").split())[:100] for answers in responses]
            print(f"\n{id}: {x:g} and {y:g}\n  {a.label}: {texts[0]}\n  {b.label}: {texts[1]}")
        if len(one.changed) > args.changes:
            print(f"\n{one.task}: {len(one.changed) - args.changes} more changed; --changes shows them")
    return 0
