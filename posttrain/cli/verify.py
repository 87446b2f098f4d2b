"""`posttrain verify`: verdicts on a file of responses."""

import argparse
import collections
import os
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.jsonl", help='rows with "response" and "label" (or "ground_truth")')
    parser.add_argument(
        "--verifier", required=True, help="such as gsm8k, math, ifeval; `posttrain verifiers` lists all"
    )
    parser.add_argument("--mode", choices=("strict", "tulu3"), default="strict")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=10.0, help="limit for one response (default: 10)")


def execute(args: argparse.Namespace) -> int:
    from posttrain.artifacts.jsonl import dump_line, read_jsonl
    from posttrain.data.columns import label_text
    from posttrain.errors import PosttrainError
    from posttrain.verifiers.pool import VerifierPool
    from posttrain.verifiers.registry import check_names

    check_names([args.verifier], args.mode)
    items = []
    for number, row in read_jsonl(args.file):
        label = row.get("label", row.get("ground_truth"))
        response = row.get("response")
        if not isinstance(response, str) or label is None:
            raise PosttrainError(
                f'{args.file}:{number}: "response" must be a string, and "label" (or "ground_truth") be there.'
            )
        items.append((args.verifier, response, label_text(label)))
    counts: collections.Counter[str] = collections.Counter()
    with VerifierPool(args.workers, args.seconds, args.mode) as pool:
        for verdict in pool.verify(items):
            counts[verdict.outcome] += 1
            shown = {"outcome": verdict.outcome, "score": verdict.score, "detail": verdict.detail}
            print(dump_line({**shown, "version": verdict.version}))
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) or "no rows"
    print(f"{len(items)} responses: {told}", file=sys.stderr)
    return 0
