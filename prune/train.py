"""`python -m prune.train RECIPE [key=value …]`: train a dense codec, the teacher of later runs."""

import argparse

import torch

import vcodecs
from prune.cli import main
from prune.data import check_sources, open_source
from prune.load import load_recipe
from prune.progress import console
from prune.recipe import TeacherRecipe, phases_of, settings_of
from prune.trainer import Trainer
from vcodecs import checkpoints


def train() -> None:
    parser = argparse.ArgumentParser(prog="python -m prune.train", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides, TeacherRecipe)
    torch.manual_seed(recipe.seed)
    codec = vcodecs.create(recipe.codec.name, recipe.codec.preset, recipe.codec.checkpoint)
    phases = phases_of(recipe, recipe.train, codec)
    sources = [(open_source(spec), spec.weight) for spec in recipe.data.train]
    for phase in phases:
        check_sources([s for s, _ in sources], phase.stage.frames + 1, phase.crop)
    settings = settings_of(recipe, recipe.train)
    trainer = Trainer(codec, phases, sources, settings, recipe.output, title="teacher")
    trainer.run()
    path = recipe.output / "weights.safetensors"
    checkpoints.save(trainer.codec.cpu(), path, half=True)
    console.print(f"weights: {path}")


if __name__ == "__main__":
    main(train)
