"""`python -m prune.plan RECIPE [key=value …]`: what a budget would remove, without training.

The choice shown is by the magnitude of the dense weights alone; a run that trains finds its own.
The channel groups, what they cost and what has to stay are the same in both.
"""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from prune import make_callable
from prune.cli import main, recipe_parser
from prune.pipeline.job import Job
from prune.pipeline.plan import make_plan
from prune.pipeline.plan_tables import WIDTH, tables
from prune.pipeline.tried import try_out
from prune.progress import console, warn
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe


def command() -> None:
    parser = recipe_parser(
        prog="python -m prune.plan",
        description="Show what a recipe's budget would remove, and why a layer is left alone.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="also try what a run needs at its end: export, real bits, saving and loading",
    )
    arguments = parser.parse_intermixed_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides, Recipe)
    job = Job(recipe, Path(arguments.recipe).parent)
    plan = make_plan(job)
    for warning in job.warnings:
        warn(warning)
    if arguments.json:
        console.print(json.dumps(asdict(plan), indent=2))
        if arguments.check:
            try_out(job)
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
    if arguments.check:
        console.print(f"Tried: {try_out(job)}.")


if __name__ == "__main__":
    main(command)
else:
    make_callable(__name__)
