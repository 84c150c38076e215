"""`prune.train`: dense codecs, trained by recipe."""

import pytest
import torch
import yaml

from prune.ownership import owned
from prune.recipe.reading import load_recipe
from prune.recipe.schema import TeacherRecipe
from prune.train import command, train
from prune.training import step, trainer
from prune.training.validation import Validation
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


def test_an_older_state_of_another_recipe_is_not_gone_on_from(tmp_path):
    train(recipe(tmp_path), tmp_path)
    (tmp_path / "out" / "state.pt").rename(tmp_path / "out" / "state.1.pt")
    with pytest.raises(UserError, match=r"another recipe.*delete its state\*\.pt"):
        train(recipe(tmp_path, "train.phases.0.steps=3"), tmp_path)


def test_a_second_training_in_one_folder_says_so_and_stops(tmp_path, call):
    path = tmp_path / "teacher.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"output": "out"}))
    with owned(tmp_path / "out"):
        status, _, errors = call(tmp_path, command, path)
    assert status == 2
    assert errors == (
        "error out: another run is at work in it; wait for its end, or give another output=\n"
    )


def test_how_a_step_is_computed_may_change_on_the_way(tmp_path):
    path = train(recipe(tmp_path), tmp_path)
    before = path.read_bytes()
    changed = ("train.accumulate=1", "train.recompute=true", "train.keep_checkpoints=5")
    assert train(recipe(tmp_path, *changed), tmp_path).read_bytes() == before


# ---------------------------------------------------------------------- changed on the way


def phases(*steps):
    listed = ", ".join(f"{{stage: {stage}, steps: {count}}}" for stage, count in steps)
    return f"train.phases=[{listed}]"


def test_a_training_goes_on_with_more_steps_and_other_phases(tmp_path, capsys):
    train(recipe(tmp_path), tmp_path)
    longer = recipe(tmp_path, phases(("flow", 2), ("motion", 1)), "codec.lambda=512")
    path = train(longer, tmp_path, go_on=True)
    told = capsys.readouterr().out
    assert "changed: codec.lagrangian: 1024.0 -> 512.0" in told
    assert "changed: train.phases.1: None -> " in told
    saved = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    assert (saved["phase"], [curve["step"] for curve in saved["curves"]]) == (2, [[0, 1], [0]])
    # From now on this is the recipe of the folder.
    assert train(longer, tmp_path).read_bytes() == path.read_bytes()


def test_what_is_done_already_cannot_be_changed(tmp_path):
    train(recipe(tmp_path), tmp_path)
    with pytest.raises(UserError, match=r"train\.phases.*phase 0 is over"):
        train(recipe(tmp_path, phases(("motion", 2))), tmp_path, go_on=True)
    with pytest.raises(UserError, match=r"codec\.preset.*trains tiny"):
        train(recipe(tmp_path, "codec.preset=small"), tmp_path, go_on=True)


def interrupt(tmp_path, monkeypatch, *overrides):
    """Train two of the flow's steps, and be killed."""
    count = iter(range(3))

    def killed(*arguments):
        if next(count) == 2:
            raise KeyboardInterrupt
        return measured(*arguments)

    measured = step.rate_distortion
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(step, "rate_distortion", killed)
        train(recipe(tmp_path, "train.checkpoint_seconds=1e-9", *overrides), tmp_path)


def test_the_phase_under_way_may_become_longer_or_shorter(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, phases(("flow", 9)))
    for steps, expected in ((4, [0, 3]), (1, [0, 3])):
        train(recipe(tmp_path, phases(("flow", steps))), tmp_path, go_on=True)
        saved = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
        assert saved["phase"] == 1
        assert saved["curves"][0]["step"] == expected
        if steps == 4:
            saved |= {"phase": 0, "step": 4, "part": 0.5}
            torch.save(saved, tmp_path / "out" / "state.pt")


def test_the_phase_under_way_keeps_its_stage(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, phases(("flow", 9)))
    with pytest.raises(UserError, match=r"phase 0 \(flow\) is under way"):
        train(recipe(tmp_path, phases(("motion", 9))), tmp_path, go_on=True)


def test_a_learning_rate_that_was_changed_holds_from_now_on(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch, phases(("flow", 9)))
    rates = []
    real = trainer.set_learning_rate

    def spy(optimizer, factor):
        real(optimizer, factor)
        rates.append((optimizer.param_groups[0]["lr"], factor))

    monkeypatch.setattr(trainer, "set_learning_rate", spy)
    changed = "train.phases=[{stage: flow, steps: 4, learning_rate: 0.5}]"
    train(recipe(tmp_path, changed), tmp_path, go_on=True)
    assert [lr for lr, _ in rates] == pytest.approx([0.5 * factor for _, factor in rates])


# ---------------------------------------------------------------------- in so many minutes


def test_a_time_box_ends_all_phases_whole(tmp_path):
    boxed = recipe(tmp_path, phases(("flow", 100_000), ("motion", 100_000)))
    path = train(boxed, tmp_path, minutes=0.05)
    assert create("dcvc", "tiny", path)
    saved = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    assert saved["phase"] == 2
    assert len(saved["curves"]) == 2
    assert all(1 <= max(curve["step"]) < 1000 for curve in saved["curves"])


def test_the_command_takes_minutes_and_continue(tmp_path, monkeypatch, capsys):
    path = tmp_path / "teacher.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"output": str(tmp_path / "out")}))
    for arguments in (
        [str(path)],
        [str(path), phases(("flow", 2), ("motion", 5)), "--continue", "--minutes", "0.02"],
    ):
        monkeypatch.setattr("sys.argv", ["train", *arguments])
        command()
    assert "weights: " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["train", str(path), "--minutes", "-1"])
    with pytest.raises(UserError, match=r"--minutes -1"):
        command()


# ---------------------------------------------------------------------- averages and scores


def test_the_best_of_the_scored_weights_are_what_is_left(tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0])
    kept = []

    def score(_, codec):
        found = {"score": next(scores)}
        kept.append({name: value.clone() for name, value in codec.state_dict().items()})
        return found

    monkeypatch.setattr(Validation, "__call__", score)
    scored = recipe(
        tmp_path,
        phases(("joint", 3)),
        "train.validate_every=1",
        "train.average=0.5",
        "data.held_back=1",
        "data.train={kind: procedural, clips: 3, frames: 3, height: 64, width: 64}",
    )
    left = create("dcvc", "tiny", train(scored, tmp_path)).state_dict()
    assert len(kept) == 3
    assert all((left[name] == value.half().float()).all() for name, value in kept[1].items())


def test_scores_are_of_the_averaged_weights_and_training_goes_on_with_its_own(tmp_path):
    data = "data.train={kind: procedural, clips: 3, frames: 3, height: 64, width: 64}"
    own = ("train.validate_every=1", "data.held_back=1", data, phases(("joint", 3)))
    unscored = recipe(tmp_path, *own[1:], "train.average=0.5", f"output={tmp_path / 'a'}")
    scored = recipe(tmp_path, *own, "train.average=0.5", f"output={tmp_path / 'b'}")
    states = []
    for one, folder in ((unscored, "a"), (scored, "b")):
        train(one, tmp_path)
        states.append(torch.load(tmp_path / folder / "state.pt", weights_only=True))
    assert all((states[1]["codec"][k] == v).all() for k, v in states[0]["codec"].items())
    assert len(states[1]["scores"]) == 3
