"""`prune.train`: dense codecs, trained by recipe."""

import pytest
import yaml

from prune.load import load_recipe
from prune.recipe import TeacherRecipe
from prune.train import train
from vcodecs import UserError, create

RECIPE = {
    "codec": {"name": "dcvc", "preset": "tiny"},
    "data": {"train": "procedural", "eval": "procedural", "crop": 64, "batch": 1, "workers": 0},
    "train": {"phases": [{"stage": "flow", "steps": 2}], "device": "cpu"},
}


def recipe(tmp_path, *overrides):
    path = tmp_path / "teacher.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"output": str(tmp_path / "out")}))
    return load_recipe(path, overrides, TeacherRecipe)


def test_leaves_weights_that_a_codec_loads(tmp_path):
    path = train(recipe(tmp_path), tmp_path)
    assert create("dcvc", "tiny", path).preset == "tiny"


def test_the_same_recipe_goes_on_and_ends_with_the_same_weights(tmp_path):
    first = train(recipe(tmp_path), tmp_path).read_bytes()
    assert train(recipe(tmp_path, "data.workers=1"), tmp_path).read_bytes() == first


def test_refuses_to_mix_with_the_training_of_another_recipe(tmp_path):
    train(recipe(tmp_path), tmp_path)
    with pytest.raises(UserError, match="another recipe"):
        train(recipe(tmp_path, "train.phases.0.steps=3"), tmp_path)
