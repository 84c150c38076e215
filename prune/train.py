"""`python -m prune.train RECIPE [key=value …]`: train a dense codec, the teacher of later runs."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

import vcodecs
from lvc.files import atomic_write
from prune.cli import main, recipe_parser
from prune.data import check_sources, open_source
from prune.data.held_back import held_back
from prune.pipeline.training import phases_of, settings_of
from prune.progress import console
from prune.recipe.reading import load_recipe
from prune.recipe.schema import TeacherRecipe
from prune.training.settings import STATE
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
    base = Path(base)
    torch.manual_seed(recipe.seed)
    section = recipe.codec
    preset = section.preset if "preset" in section.model_fields_set else None
    codec = vcodecs.create(section.name, preset, section.checkpoint, base)
    phases = phases_of(recipe, recipe.train, codec)
    opened = [(open_source(spec, base), spec.weight) for spec in recipe.data.train]
    sources, held = held_back(opened, recipe.data.held_back)
    for phase in phases:
        check_sources([s for s, _ in sources], phase.stage.frames + 1, phase.crop)
    _claim(recipe, go_on)
    settings = settings_of(recipe, recipe.train, codec, minutes=minutes)
    validation = Validation(held, settings.tradeoff, settings.intra) if held else None
    trainer = Trainer(
        codec, phases, sources, settings, recipe.output, title="teacher", validator=validation
    )
    trainer.run()
    path = recipe.output / "weights.safetensors"
    checkpoints.save(trainer.codec.cpu(), path, half=True)
    return path


# ---------------------------------------------------------------------- whose folder it is


def _claim(recipe: TeacherRecipe, go_on: bool) -> None:
    """Record what this folder trains; refuse where it trains something else."""
    mine = recipe.model_dump(mode="json", include={"codec", "data", "train", "seed"})
    mine["data"].pop("workers")
    mine["train"].pop("checkpoint_seconds")
    record, state = recipe.output / RECORD, recipe.output / STATE
    if state.exists():
        theirs = json.loads(record.read_text()) if record.exists() else None
        if theirs != mine:
            if theirs is None or not go_on:
                raise UserError(
                    f"{recipe.output}: holds the training of another recipe; give another "
                    f"output=, go on with it by --continue, or delete {state} to start afresh"
                )
            _check_change(recipe, theirs, mine, state)
    atomic_write(record, json.dumps(mine, indent=1) + "\n")


def _check_change(recipe: TeacherRecipe, theirs: dict, mine: dict, state: Path) -> None:
    """Say what has changed; refuse what would turn done work into that of another training."""
    for key in ("name", "preset"):
        if theirs["codec"].get(key) != mine["codec"][key]:
            raise UserError(
                f"{recipe.at(f'codec.{key}')}: {state.parent} trains "
                f"{theirs['codec'].get(key)}; give another output="
            )
    saved = torch.load(state, map_location="cpu", weights_only=True, mmap=True)
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
    arguments = parser.parse_intermixed_args()
    if arguments.minutes is not None and not 0 < arguments.minutes < 1e6:
        raise UserError(f"--minutes {arguments.minutes:g}: a number above 0 is expected")
    recipe = load_recipe(arguments.recipe, arguments.overrides, TeacherRecipe)
    base = Path(arguments.recipe).parent
    console.print(f"weights: {train(recipe, base, arguments.go_on, arguments.minutes)}")


if __name__ == "__main__":
    main(command)
