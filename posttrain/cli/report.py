"""`posttrain report`."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_FOLDER", help="such as runs/quickstart")
    parser.add_argument("--open", action="store_true", help="show report.html, made anew, in the browser")
    parser.add_argument("--json", action="store_true", help="print report.json")


def execute(args: argparse.Namespace) -> int:
    from posttrain.report.published import read_report, report_file

    run = Path(args.run)
    if args.open:
        import webbrowser

        from posttrain.report.page import write_page

        page = write_page(run).resolve()
        if not webbrowser.open(page.as_uri()):
            print(f"no browser was found here; open {page}")
        return 0
    if args.json:
        read_report(run)  # damage is told, not printed
    print(report_file(run, "report.json" if args.json else "report.md").read_text(encoding="utf-8"), end="")
    return 0
