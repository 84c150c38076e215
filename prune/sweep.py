"""`python -m prune.sweep RECIPE key=value,value …`: a run for every combination, and one report.

Runs go one behind the other, or over machines through submitit. Each has a folder of its own below
the recipe's output. What is done is skipped, what was interrupted goes on, what fails is listed and
the others go on. The report over all, `sweep.html` and `sweep.md`, is written anew after each.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from prune import make_callable
from prune.cli import main, quiet_option
from prune.interruption import Interrupted
from prune.ownership import owned
from prune.progress import be_quiet, console, notice
from prune.report.sweep import Row, write_sweep
from prune.sweeps.grid import Sweep, axes_of, expand
from prune.sweeps.machines import Machines, one_after_another, submitted
from prune.sweeps.member import MemberRun, Outcome, finished, last_outcome, report_of
from vcodecs import UserError

SUBMITTED = ".submitit"
FAILED = 1
"""Exit status of a sweep that got to its end with runs that failed."""


def sweep(
    recipe: str | Path,
    settings: Mapping[str, Any],
    machines: Machines = "here",
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Outcome]:
    """Run a recipe's file at every combination of `settings`; how each run ended, by its name.

        prune.sweep("recipes/dcvc_hem.yaml", {"prune.budget": [0.5, 0.35], "seed": range(3)})

    A list has the values that a setting takes in turn, anything else is set in all runs.
    `machines` and `parameters`: see `prune.sweeps.machines`. UserError before anything starts
    where a recipe is wrong.
    """
    return _sweep(expand(recipe, axes_of(settings)), machines, parameters or {}, tell=False)


def _sweep(
    plan: Sweep, machines: Machines, parameters: Mapping[str, Any], tell: bool
) -> dict[str, Outcome]:
    with owned(plan.folder):
        outcomes = {m.name: Outcome(0) for m in plan.members if finished(m)}
        console.print(
            f"{len(plan.members)} runs in {plan.folder}"
            + (f", {len(outcomes)} of them done before" if outcomes else "")
        )
        _write(plan, outcomes)
        runs = {
            m.name: MemberRun(str(plan.recipe), m.overrides, str(m.folder), tell=tell)
            for m in plan.members
            if m.name not in outcomes
        }
        for name, outcome in _ends(runs, plan, machines, parameters):
            outcomes[name] = outcome
            _tell(name, outcome)
            _write(plan, outcomes)
        return {m.name: outcomes[m.name] for m in plan.members}


def _ends(
    runs: Mapping[str, MemberRun], plan: Sweep, machines: Machines, parameters: Mapping[str, Any]
) -> Iterator[tuple[str, Outcome]]:
    if machines == "here":
        return one_after_another(runs)
    return submitted(runs, plan.folder.absolute() / SUBMITTED, machines, parameters)


def _tell(name: str, outcome: Outcome) -> None:
    if outcome.status:
        notice(outcome.state, f"{name}: {outcome.line}", "yellow")
    else:
        console.print(f"done: {name}")


def _write(plan: Sweep, outcomes: Mapping[str, Outcome]) -> None:
    """The report over all members as they are now."""
    rows = []
    for member in plan.members:
        known = outcomes.get(member.name)
        ended = known or last_outcome(member)
        state = ended.state if ended and (known or ended.status) else "not run yet"
        report = report_of(member) if state == "done" else None
        line = ended.line if ended and ended.status else ""
        rows.append(Row(member.name, member.values, state, line, report))
    write_sweep(rows, plan.varied, plan.recipe.stem, plan.folder)


def command() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m prune.sweep",
        description="Run a recipe at every combination of some settings, and compare the runs.",
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe of leanvc's own")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="key=value,value",
        help="such as prune.budget=0.5,0.35 seed=0,1,2; a single value is set in all runs",
    )
    parser.add_argument(
        "--on",
        choices=get_args(Machines),
        default="here",
        help="here: one behind the other; local: all at once; slurm: jobs of a cluster",
    )
    parser.add_argument(
        "--with",
        dest="parameters",
        action="append",
        default=[],
        metavar="name=value",
        help="of submitit: timeout_min, gpus_per_node, slurm_partition, ...; again for each",
    )
    quiet_option(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.quiet:
        be_quiet()
    plan = expand(arguments.recipe, arguments.settings)
    parameters = _parameters(arguments.parameters)
    try:
        found = _sweep(plan, arguments.on, parameters, tell=not arguments.quiet)
    except Interrupted as end:
        raise Interrupted(end.number, "what is done stays done") from end
    failed = {name: outcome for name, outcome in found.items() if outcome.status}
    console.print(f"report: {plan.folder / 'sweep.html'}")
    for name, outcome in failed.items():
        notice(outcome.state, f"{name}: {outcome.line}", "red")
    if failed:
        notice("error", f"{len(failed)} of {len(found)} runs have no result", "red")
        sys.exit(FAILED)


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise UserError(f"--with {text!r}: write it as name=value")
        found[key] = yaml.safe_load(value)
    return found


if __name__ == "__main__":
    main(command)
else:
    make_callable(__name__, __name__)
