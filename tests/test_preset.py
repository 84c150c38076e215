"""A recipe that names no preset takes that of its checkpoint."""

from prune.pipeline.job import Job
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe


def test_a_recipe_that_names_no_preset_takes_that_of_its_checkpoint(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "codec: {name: dcvc, checkpoint: dcvc_small}\ndata: {train: a, eval: b}\n"
        "train: {phases: [{stage: joint, steps: 1}]}\nfinetune: {phases: []}\n"
    )
    assert Job(load_recipe(path, (), Recipe), tmp_path).teacher.preset == "small"
