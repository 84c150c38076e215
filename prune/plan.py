"""`python -m prune.plan RECIPE [key=value …]`: what a budget would remove, without training.

The choice shown is by the magnitude of the dense weights alone; a run that trains finds its own.
The channel groups, what they cost and what has to stay are the same in both.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prune import make_callable
from prune.cli import main, recipe_parser
from prune.pipeline.job import Job
from prune.pipeline.plan import Plan, make_plan
from prune.progress import console, warn
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from prune.report.cells import prefixed

WIDTH = 100  # of what goes to a file or a pipe


# ---------------------------------------------------------------------- as tables


def tables(plan: Plan) -> list[Table]:
    """The plan for people: groups, MACs, and the layers that are left alone."""
    return [_groups_table(plan), _macs_table(plan), _fixed_table(plan)]


def as_text(plan: Plan) -> str:
    """The tables as plain text."""
    text = io.StringIO()
    shown = Console(width=WIDTH, highlight=False, file=text, color_system=None)
    for table in tables(plan):
        shown.print(table)
    return text.getvalue()


def _groups_table(plan: Plan) -> Table:
    table = _table("Channels that go together", "made by", "read by", "dense", "kept", "removed")
    for group in plan.groups:
        removed = len(group.removed)
        counts = (group.channels, group.channels - removed, removed)
        shown = (str(count * group.width) for count in counts)
        table.add_row(_lines(group.made_by), _lines(group.read_by), *shown)
    return table


def _macs_table(plan: Plan) -> Table:
    macs = plan.macs
    title = f"MACs of the decoder for a frame of {macs.width}x{macs.height}"
    table = _table(title, "module", "dense", "kept", "removed")
    rows = [*macs.by_module.items(), ("in all", (macs.dense, macs.sparse))]
    for i, (name, (dense, sparse)) in enumerate(rows):
        if i == len(rows) - 1:
            table.add_section()
        removed = f"{1 - sparse / dense:.1%}" if dense else "–"
        table.add_row(
            Text(name), *(prefixed(n, "MAC", macs.dense) for n in (dense, sparse)), removed
        )
    return table


def _fixed_table(plan: Plan) -> Table:
    table = _table("Layers whose output channels all stay", "layer", "why")
    for layer, reason in plan.fixed.items():
        table.add_row(Text(layer), Text(reason))
    return table


def _table(title: str, *headings: str) -> Table:
    """Names to the left and folded where they are too long, figures to the right and whole."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for heading in headings:
        if heading in ("dense", "kept", "removed"):
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    return table


def _lines(layers: Sequence[str]) -> Text:
    return Text("\n".join(layers))


# ---------------------------------------------------------------------- command line


def command() -> None:
    parser = recipe_parser(
        prog="python -m prune.plan",
        description="Show what a recipe's budget would remove, and why a layer is left alone.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_intermixed_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides, Recipe)
    job = Job(recipe, Path(arguments.recipe).parent)
    plan = make_plan(job)
    for warning in job.warnings:
        warn(warning)
    if arguments.json:
        console.print(json.dumps(asdict(plan), indent=2))
        return
    # A file or a pipe has no width of its own.
    shown = Console(width=None if console.is_terminal else WIDTH, highlight=False)
    for table in tables(plan):
        shown.print(table)
    section = recipe.prune
    console.print(
        f"For prune.budget {section.budget:g} and prune.align {section.align}, chosen by the "
        "magnitude of the dense weights."
    )


def _function() -> Callable[..., Any]:
    from prune.interface import plan

    return plan


if __name__ == "__main__":
    main(command)
else:
    make_callable(__name__, _function)
