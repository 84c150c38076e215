"""`python -m prune.train RECIPE [key=value …]`: train a dense codec, the teacher of later runs."""

import json
from pathlib import Path

import torch

import vcodecs
from lvc.files import atomic_write
from prune.cli import main, recipe_parser
from prune.data import check_sources, open_source
from prune.load import load_recipe
from prune.progress import console
from prune.recipe import TeacherRecipe, phases_of, settings_of
from prune.steps import STATE
from prune.trainer import Trainer
from vcodecs import UserError, checkpoints

RECORD = "recipe.json"


def train(recipe: TeacherRecipe, base: Path) -> Path:
    """Train, or go on training; returns the weights. `base`: where relative paths may start.

    UserError when the folder holds the unfinished training of another recipe: hours of work are
    neither mixed with something else nor thrown away.
    """
    torch.manual_seed(recipe.seed)
    codec = vcodecs.create(recipe.codec.name, recipe.codec.preset, recipe.codec.checkpoint)
    phases = phases_of(recipe, recipe.train, codec)
    sources = [(open_source(spec, base), spec.weight) for spec in recipe.data.train]
    for phase in phases:
        check_sources([s for s, _ in sources], phase.stage.frames + 1, phase.crop)
    _claim(recipe)
    settings = settings_of(recipe, recipe.train, codec)
    trainer = Trainer(codec, phases, sources, settings, recipe.output, title="teacher")
    trainer.run()
    path = recipe.output / "weights.safetensors"
    checkpoints.save(trainer.codec.cpu(), path, half=True)
    return path


def _claim(recipe: TeacherRecipe) -> None:
    """Record what this folder trains; refuse where it trains something else."""
    mine = recipe.model_dump(mode="json", include={"codec", "data", "train", "seed"})
    mine["data"].pop("workers")
    mine["train"].pop("checkpoint_seconds")
    record, state = recipe.output / RECORD, recipe.output / STATE
    if state.exists():
        theirs = json.loads(record.read_text()) if record.exists() else None
        if theirs != mine:
            raise UserError(
                f"{recipe.output}: holds the training of another recipe; give another output=, or "
                f"delete {state} to start afresh"
            )
    atomic_write(record, json.dumps(mine, indent=1) + "\n")


def command() -> None:
    parser = recipe_parser("python -m prune.train", __doc__)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides, TeacherRecipe)
    console.print(f"weights: {train(recipe, Path(arguments.recipe).parent)}")


if __name__ == "__main__":
    main(command)
