"""The training loop: reproducible, resumable to the bit, at one rate and at many."""

import pytest
import torch
from training import JOINT, MOTION, Killed, Recorder, make, same, weights

import vcodecs
from lvc.files import leftovers
from prune.training import saved_state
from prune.training import step as step_module
from prune.training.saved_state import STATE
from prune.training.tradeoff import Tradeoff, interpolated
from prune.training.trainer import Phase
from vcodecs import checkpoints


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights and curves of a run that nothing happened to."""
    trainer = make(tmp_path_factory.mktemp("undisturbed"))
    curves = trainer.run()
    return weights(trainer), [curve.as_dict() for curve in curves]


# ---------------------------------------------------------------------- seeds


def test_the_same_seed_gives_the_same_weights_and_curves(undisturbed, tmp_path):
    torch.manual_seed(1234)
    trainer = make(tmp_path)
    curves = [curve.as_dict() for curve in trainer.run()]
    assert same(weights(trainer), undisturbed[0])
    assert curves == undisturbed[1]


def test_another_seed_gives_other_weights(undisturbed, tmp_path):
    trainer = make(tmp_path, seed=1)
    trainer.run()
    assert not same(weights(trainer), undisturbed[0])


def test_training_changes_the_weights_and_leaves_the_codec_ready_for_use(tmp_path):
    trainer = make(tmp_path, phases=[(JOINT, 1)])
    before = weights(trainer)
    trainer.run()
    assert not same(weights(trainer), before)
    assert not trainer.codec.training
    assert all(p.requires_grad for p in trainer.codec.parameters())


# ---------------------------------------------------------------------- going on after a kill


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5, 6])
def test_a_run_killed_after_any_step_ends_as_if_nothing_had_happened(undisturbed, tmp_path, last):
    with pytest.raises(Killed):
        make(tmp_path, Recorder(last=last)).run()
    torch.manual_seed(last)
    resumed = make(tmp_path, Recorder())
    curves = [curve.as_dict() for curve in resumed.run()]
    assert same(weights(resumed), undisturbed[0])
    for curve in curves:
        del curve["recorder"]
    assert curves == undisturbed[1]


def test_workers_that_prepare_the_data_change_nothing(undisturbed, tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, Recorder(last=5), workers=1).run()
    resumed = make(tmp_path, Recorder(), workers=2)
    resumed.run()
    assert same(weights(resumed), undisturbed[0])


def test_a_run_killed_again_and_again_still_gets_there(undisturbed, tmp_path):
    for _ in range(6):
        with pytest.raises(Killed):
            # The second step of each process is lost: only what was saved before it counts.
            make(tmp_path, KilledAtSecondStep()).run()
    resumed = make(tmp_path, Recorder())
    resumed.run()
    assert same(weights(resumed), undisturbed[0])


class KilledAtSecondStep(Recorder):
    """Ends the process in its second step, or behind the last one."""

    def __init__(self):
        super().__init__()
        self.done_here = 0

    def begin_step(self, stage, progress):
        self.done_here += 1
        if self.done_here == 2 or progress >= 5 / 6:
            raise Killed


def test_a_finished_run_is_not_trained_again(undisturbed, tmp_path):
    make(tmp_path, Recorder()).run()
    again = Recorder()
    trainer = make(tmp_path, again)
    trainer.run()
    assert same(weights(trainer), undisturbed[0])
    assert again.calls == []
    assert again.steps == 6


def test_the_state_is_saved_as_often_as_asked_for_and_after_every_phase(tmp_path):
    seldom = tmp_path / "seldom"
    with pytest.raises(Killed):
        make(seldom, Recorder(last=2), checkpoint_seconds=1e6).run()
    assert not (seldom / STATE).exists()
    with pytest.raises(Killed):
        make(seldom, Recorder(last=5), checkpoint_seconds=1e6).run()
    saved = torch.load(seldom / STATE, weights_only=True)
    assert (saved["phase"], saved["step"]) == (1, 0)


def test_a_process_killed_while_it_saves_leaves_the_state_before(
    undisturbed, tmp_path, monkeypatch
):
    saves = []
    save = torch.save

    def interrupted(state, path):
        saves.append(path)
        if len(saves) == 3:
            path.write_bytes(b"half of it")
            raise Killed
        save(state, path)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(saved_state.torch, "save", interrupted)
        make(tmp_path).run()
    saved = torch.load(tmp_path / STATE, weights_only=True)
    assert (saved["phase"], saved["step"]) == (0, 2)
    assert leftovers(tmp_path) == []
    resumed = make(tmp_path)
    resumed.run()
    assert same(weights(resumed), undisturbed[0])


# ---------------------------------------------------------------------- many rates

MANY = Tradeoff((0.0, 1.0, 2.0, 3.0), (85.0, 170.0, 380.0, 840.0))
BATCH, STEPS = 3, 3


def make_rated(folder, *companions):
    """A trainer of the tiny intra codec of DCVC-HEM, which serves many rates."""
    torch.manual_seed(1)
    codec = vcodecs.create("dcvc_hem_intra", "tiny")
    phase = Phase("1 joint", codec.stages()[0], STEPS, 1e-3, batch=BATCH, crop=64)
    return make(folder, *companions, phases=[phase], codec=codec, tradeoff=MANY)


def saved(trainer, path):
    """The bytes of what was trained."""
    checkpoints.save(trainer.codec, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed_rates(tmp_path_factory):
    """Weights and curves of a run at many rates that nothing happened to."""
    folder = tmp_path_factory.mktemp("rates")
    trainer = make_rated(folder)
    curves = [curve.as_dict() for curve in trainer.run()]
    return saved(trainer, folder / "weights.safetensors"), curves


@pytest.mark.parametrize("last", range(1, STEPS + 1))
def test_a_run_at_many_rates_killed_after_any_step_ends_with_the_same_bytes(
    undisturbed_rates, tmp_path, last
):
    with pytest.raises(Killed):
        make_rated(tmp_path, Recorder(last=last)).run()
    torch.manual_seed(last)
    resumed = make_rated(tmp_path, Recorder())
    curves = [curve.as_dict() for curve in resumed.run()]
    assert saved(resumed, tmp_path / "weights.safetensors") == undisturbed_rates[0]
    for curve in curves:
        del curve["recorder"]
    assert curves == undisturbed_rates[1]


@pytest.fixture
def losses(monkeypatch):
    """The arguments of every loss that the trainer computes: lambdas and rates."""
    seen = []
    real = step_module.rate_distortion

    def spy(codec, clip, stage, lagrangian, noise, rate):
        seen.append((lagrangian, rate))
        return real(codec, clip, stage, lagrangian, noise, rate)

    monkeypatch.setattr(step_module, "rate_distortion", spy)
    return seen


def test_every_clip_of_every_step_has_a_rate_of_its_own_and_its_lambda(losses, tmp_path):
    trainer, told = make_rated(tmp_path), []
    trainer.codec.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2]))
    trainer.run()
    assert len(losses) == STEPS
    rates = torch.cat([rate for _, rate in losses])
    assert len(rates.unique()) == STEPS * BATCH
    assert torch.equal(torch.cat(told), rates)
    expected = interpolated(MANY.points, MANY.lagrangians, rates)
    assert torch.equal(torch.cat([lagrangian for lagrangian, _ in losses]), expected)


def test_a_codec_of_one_lambda_is_told_no_rate(losses, tmp_path):
    make(tmp_path, phases=[(MOTION, 2)]).run()
    assert [rate for _, rate in losses] == [None, None]
    assert all((lagrangian == 512).all() for lagrangian, _ in losses)
