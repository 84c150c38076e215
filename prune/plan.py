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
from prune.recipe.schema import Recipe, budget_words


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
    parser.add_argument(
        "--shapes",
        action="store_true",
        help="no weights, shapes alone: for codecs too large for this machine; every group then "
        "loses about an equal share",
    )
    arguments = parser.parse_intermixed_args()
    if arguments.check and arguments.shapes:
        parser.error("--check needs weights, which --shapes leaves out")
    recipe = load_recipe(arguments.recipe, arguments.overrides, Recipe)
    job = Job(recipe, Path(arguments.recipe).parent, on_shapes=arguments.shapes)
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
    budget, align = budget_words(recipe.prune.budget), recipe.prune.align
    by = "equal shares" if arguments.shapes else "the magnitude of the dense weights"
    console.print(f"For prune.budget {budget} and prune.align {align}, chosen by {by}.")
    if arguments.check:
        console.print(f"Tried: {try_out(job)}.")


if __name__ == "__main__":
    main(command)
else:
    make_callable(__name__)
