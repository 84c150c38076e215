"""TensorBoard: figures, channels kept by module, decoded frames, where a recipe asks for them."""

import sys

import pytest
import torch
from training import JOINT, MOTION, Killed, Recorder, make, weights
from whole_runs import RECIPE

from prune.groups.find import find_groups
from prune.pipeline.job import Job
from prune.recipe.reading import load_recipe
from prune.recipe.schema import PruneSection, Recipe
from prune.sparsify.cost import CostModel
from prune.sparsify.sparsifier import Sparsifier
from prune.training.saved_state import state_files
from vcodecs import UserError

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
PHASES = [(MOTION, 11), (JOINT, 2)]


def read(folder):
    found = events.EventAccumulator(str(folder))
    return found.Reload()


def sparse(folder, **changes):
    trainer = make(folder, phases=PHASES, precision="no", **changes)
    channels = find_groups(trainer.codec)
    cost = CostModel(trainer.codec, channels, 64, 64)
    sparsifier = Sparsifier(trainer.codec, channels, cost, PruneSection(budget=0.5), 13)
    trainer.companions.append(sparsifier)
    return trainer


def test_a_training_shows_figures_channels_by_module_and_frames(tmp_path):
    board = tmp_path / "board"
    trainer = sparse(tmp_path / "a", tensorboard=board)
    trainer.run()
    found = read(board)
    scalars = found.Tags()["scalars"]
    assert {"training/loss", "training/psnr", "training/keep", "training/speed"} <= set(scalars)
    # Steps are counted over the phases: every tenth of each, and each's last.
    assert [event.step for event in found.Scalars("training/loss")] == [0, 10, 11, 12]
    kept = {tag.removeprefix("kept/") for tag in scalars if tag.startswith("kept/")}
    assert kept and kept <= set(trainer.codec.decoder_modules())
    for module in kept:
        assert all(0 < event.value <= 1 for event in found.Scalars(f"kept/{module}"))
    images = found.Tags()["images"]
    assert images == ["original and decoded/0 motion", "original and decoded/1 joint"]
    (picture,) = found.Images(images[1])[:1]
    assert (picture.width, picture.height) == (2 * 64, 64)


def test_nothing_that_is_trained_changes_by_being_shown(tmp_path):
    plain, shown = sparse(tmp_path / "a"), sparse(tmp_path / "b", tensorboard=tmp_path / "board")
    plain.run()
    shown.run()
    mine, theirs = weights(plain), weights(shown)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_killed_training_goes_on_in_the_same_curves(tmp_path):
    board = tmp_path / "board"
    killed = make(tmp_path / "a", Recorder(last=12), phases=PHASES, tensorboard=board)
    with pytest.raises(Killed):
        killed.run()
    assert state_files(tmp_path / "a")
    make(tmp_path / "a", Recorder(), phases=PHASES, tensorboard=board).run()
    assert [event.step for event in read(board).Scalars("training/loss")] == [0, 10, 11, 12]


def test_without_being_asked_tensorboard_is_not_even_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    make(tmp_path, phases=[(JOINT, 1)]).run()


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return load_recipe("small.yaml", ["finetune.tensorboard=true"], Recipe)


def test_a_recipe_asks_for_it_by_training(recipe):
    job = Job(recipe, ".")
    assert job.settings("train").tensorboard is None
    assert str(job.settings("finetune").tensorboard) == "out/tensorboard/finetune"


def test_where_it_is_missing_that_is_said_before_anything_is_trained(recipe, monkeypatch):
    monkeypatch.setattr("prune.training.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"finetune.tensorboard: .*leanvc\[tensorboard\]"):
        Job(recipe, ".").check()
