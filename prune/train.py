"""`python -m prune.train RECIPE [key=value …]`: train a dense codec, the teacher of later runs."""

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import vcodecs
from lvc.files import atomic_write
from prune.cli import main, quiet_option, recipe_parser
from prune.data import check_sources, open_source
from prune.data.held_back import held_back
from prune.ownership import owned
from prune.pipeline.training import phases_of, settings_of
from prune.progress import be_quiet, console
from prune.recipe.reading import load_recipe
from prune.recipe.schema import HOW, TeacherRecipe
from prune.training.processes import Processes, join
from prune.training.saved_state import SavedStates, state_files
from prune.training.trainer import Trainer
from prune.training.validation import Validation
from vcodecs import UserError, checkpoints

RECORD = "recipe.json"


def train(
    recipe: TeacherRecipe, base: str | Path = ".", go_on: bool = False, minutes: float | None = None
) -> Path:
    """Train, or go on training; returns the weights. `base`: where relative paths may start.

    `go_on`: also where the recipe has changed since, as far as what is done already stays as it
    was. `minutes`: all that is left of the phases is fitted into so long. UserError when the
    folder holds the unfinished training of another recipe: hours of work are neither mixed with
    something else nor thrown away.
    """
    processes = join(recipe.train.device)
    with owned(recipe.output) if processes.first else nullcontext():
        return _train(recipe, Path(base), go_on, minutes, processes)


def _train(
    recipe: TeacherRecipe, base: Path, go_on: bool, minutes: float | None, processes: Processes
) -> Path:
    torch.manual_seed(recipe.seed)
    section = recipe.codec
    start = section.checkpoint
    file, key = (start.path, start.key) if start else (None, None)
    preset = section.preset if "preset" in section.model_fields_set else None
    codec = vcodecs.create(section.name, preset, file, base, key)
    phases = phases_of(recipe, recipe.train, codec)
    opened = [(open_source(spec, base), spec.weight) for spec in recipe.data.train]
    sources, held = held_back(opened, recipe.data.held_back)
    for phase in phases:
        check_sources([s for s, _ in sources], phase.stage.frames + 1, phase.crop)
    if processes.first:
        _claim(recipe, go_on)
    settings = settings_of(recipe, recipe.train, codec, minutes=minutes)
    validation = Validation(held, settings.tradeoff, settings.intra) if held else None
    trainer = Trainer(
        codec, phases, sources, settings, recipe.output, title="teacher", validator=validation
    )
    trainer.run()
    path = recipe.output / "weights.safetensors"
    if processes.first:
        checkpoints.save(trainer.codec.cpu(), path, half=True)
    processes.leave()
    return path


# ---------------------------------------------------------------------- whose folder it is


def _claim(recipe: TeacherRecipe, go_on: bool) -> None:
    """Record what this folder trains; refuse where it trains something else."""
    mine = recipe.model_dump(mode="json", include={"codec", "data", "train", "seed"})
    mine["data"].pop("workers")
    for key in ("train", "eval"):
        mine["data"][key] = [spec.compared() for spec in getattr(recipe.data, key)]
    for key in HOW:
        mine["train"].pop(key)
    record = recipe.output / RECORD
    if state_files(recipe.output):
        theirs = json.loads(record.read_text()) if record.exists() else None
        if theirs is not None:
            for key in HOW:
                theirs["train"].pop(key, None)
        if theirs != mine:
            if theirs is None or not go_on:
                raise UserError(
                    f"{recipe.output}: holds the training of another recipe; give another "
                    f"output=, go on with it by --continue, or delete its state*.pt to start afresh"
                )
            _check_change(recipe, theirs, mine)
    atomic_write(record, json.dumps(mine, indent=1) + "\n")


def _check_change(recipe: TeacherRecipe, theirs: dict, mine: dict) -> None:
    """Say what has changed; refuse what would turn done work into that of another training."""
    for key in ("name", "preset"):
        if theirs["codec"].get(key) != mine["codec"][key]:
            raise UserError(
                f"{recipe.at(f'codec.{key}')}: {recipe.output} trains "
                f"{theirs['codec'].get(key)}; give another output="
            )
    saved = SavedStates(recipe.output).load(lambda state: None)
    assert saved is not None  # there is a state, or nothing would be changed
    over, begun = saved["phase"], saved["step"] > 0
    before, now = theirs["train"]["phases"], mine["train"]["phases"]
    for i in range(over):
        if i >= len(now) or now[i] != before[i]:
            raise UserError(
                f"{recipe.at('train.phases')}: phase {i} is over and was {before[i]}; keep it as "
                "it was, and change those behind it"
            )
    if begun and (over >= len(now) or now[over]["stage"] != before[over]["stage"]):
        raise UserError(
            f"{recipe.at('train.phases')}: phase {over} ({before[over]['stage']}) is under way; "
            "keep its stage, and change those behind it"
        )
    for key, (old, new) in _differences(theirs, mine):
        console.print(f"changed: {key}: {old} -> {new}")


def _differences(old: Any, new: Any, at: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted keys whose values differ, with both values (None where there is none)."""
    keys: Iterable[Any] = ()
    if isinstance(old, list) and isinstance(new, list):
        keys = range(max(len(old), len(new)))
    elif isinstance(old, dict) and isinstance(new, dict):
        keys = {**old, **new}
    elif old != new:
        yield at, (old, new)
    for key in keys:
        below = f"{at}.{key}" if at else str(key)
        yield from _differences(_get(old, key), _get(new, key), below)


def _get(content: Any, key: Any) -> Any:
    if isinstance(content, list):
        return content[key] if key < len(content) else None
    return content.get(key)


def command() -> None:
    parser = recipe_parser("python -m prune.train", __doc__)
    parser.add_argument(
        "--continue",
        action="store_true",
        dest="go_on",
        help="go on with a training whose recipe has been changed since",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="fit what is left into so many minutes"
    )
    quiet_option(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.quiet:
        be_quiet()
    if arguments.minutes is not None and not 0 < arguments.minutes < 1e6:
        raise UserError(f"--minutes {arguments.minutes:g}: a number above 0 is expected")
    recipe = load_recipe(arguments.recipe, arguments.overrides, TeacherRecipe)
    base = Path(arguments.recipe).parent
    console.print(f"weights: {train(recipe, base, arguments.go_on, arguments.minutes)}")


if __name__ == "__main__":
    main(command)
