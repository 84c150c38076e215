"""A recipe for tests, and what is told about faults in it."""

import pytest

from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from vcodecs import UserError

TEXT = """\
codec:
  name: dcvc
  preset: tiny
  lambda: 512
data:
  train: procedural
  eval: {kind: procedural, clips: 1, frames: 2, height: 64, width: 96}
  crop: 64
prune:
  budget: 0.5
  align: 1
train:
  phases:
    - {stage: motion, steps: 3}
    - stage: joint
      steps: 2
finetune:
  phases: []
evaluate: {frames: 2, gop: 2}
measure: {height: 64, width: 64}
"""


def write(folder, old="", new="", text=TEXT):
    """The recipe as a file: `text`, or with one part of it replaced."""
    assert old in text
    path = folder / "mine.yaml"
    path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return path


def load(path, *overrides):
    return load_recipe(path, overrides, Recipe)


def fault(path, *overrides, of=load):
    """The one line that a bad recipe is answered with."""
    with pytest.raises(UserError) as caught:
        of(path, *overrides)
    (line,) = str(caught.value).splitlines()
    return line
