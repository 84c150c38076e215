"""Runs side by side, a column per run and a row per figure: `python -m prune.compare RUN ...`."""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from prune import make_callable
from prune.report.cells import ReportTable, markdown
from prune.report.comparison import comparison, run_names, summary
from prune.report.schema import load_report

TONES = {"missing": "dim italic", "good": "green", "bad": "red"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 for a run that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m prune.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder or its report.json")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args(arguments)
    try:
        reports = [load_report(run) for run in options.runs]
    except Exception as error:
        # Imported late: vcodecs loads torch, which a table of figures should not wait for.
        from lvc.errors import UserError

        if not isinstance(error, UserError):
            raise
        print(f"error {error}", file=sys.stderr)
        return 2
    names = run_names(options.runs)
    if options.json:
        runs = [{"run": name} | summary(r) for name, r in zip(names, reports, strict=True)]
        print(json.dumps({"runs": runs}, indent=2))
    elif options.markdown:
        print(markdown(comparison(names, reports)))
    else:
        _print(comparison(names, reports))
    return 0


def _print(table: ReportTable) -> None:
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for name in table.header[1:]:
        shown.add_column(Text(name), overflow="fold")
    for row in table.rows:
        # Texts, since rich would take brackets in plain strings for markup.
        shown.add_row(*(Text(entry.text, TONES.get(entry.tone, "")) for entry in row))
    # A file or a pipe has no width that the table would have to fit into.
    Console(width=None if sys.stdout.isatty() else 10_000).print(shown)


if __name__ == "__main__":
    sys.exit(main())
else:
    make_callable(__name__)
