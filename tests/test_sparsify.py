"""Sparse training: thresholds, hard masks, and the budget that drives them."""

import copy

import pytest
import torch
import toys
from toys import clip, shaken

import vcodecs
from prune.groups.find import find_groups
from prune.groups.shrink import largest_difference
from prune.recipe.schema import PruneSection
from prune.sparsify.cost import CostModel
from prune.sparsify.sparsifier import Sparsifier
from vcodecs import Reference, Stage

CODEC = shaken(vcodecs.create("dcvc", "tiny"))
CHANNELS = find_groups(CODEC)
COST = CostModel(CODEC, CHANNELS, 64, 64)
STAGES = {stage.name: stage for stage in CODEC.stages()}
JOINT = STAGES["joint"]


def sparsifier(steps=100, codec=None, **settings):
    """With a threshold rate that gets anywhere within the few steps of a test."""
    section = PruneSection(**({"align": 1, "threshold_rate": 0.2} | settings))
    return Sparsifier(
        copy.deepcopy(CODEC) if codec is None else codec, CHANNELS, COST, section, steps
    )


def train(companion, steps, stage=JOINT, begin=0.0, end=1.0, task=None):
    """The trainer's order of calls, without any codec in between; the fractions kept by step."""
    optimizer = torch.optim.Adam(companion.parameter_groups())
    kept = []
    for step in range(steps):
        companion.begin_step(stage, begin + (end - begin) * step / steps)
        loss = companion.loss() + (task(companion) if task else 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        companion.end_step()
        kept.append(companion.keep)
    return kept


# ---------------------------------------------------------------------- the schedule


def test_nearly_everything_is_on_at_first():
    companion = sparsifier()
    companion.begin_step(JOINT, 0.0)
    assert companion.keep > 0.98
    assert companion.target == 1


def test_the_allowed_fraction_falls_to_the_budget_within_the_ramp():
    companion = sparsifier(budget=0.3, ramp=0.5)
    path = [companion.target_at(i / 20) for i in range(21)]
    assert path[0] == 1
    assert path == sorted(path, reverse=True)
    assert path[10:] == pytest.approx([0.3] * 11)
    assert path[5] > 0.3


@pytest.mark.parametrize("budget", [0.3, 0.6])
def test_training_reaches_the_scheduled_budget(budget):
    kept = train(sparsifier(budget=budget), 100)
    assert kept[0] > 0.98
    # One channel of a full-resolution layer of this small codec is 3 % of its MACs.
    assert kept[-10:] == pytest.approx([budget] * 10, abs=0.05)


@pytest.mark.parametrize("threshold", [1.0, 3.0])
def test_an_overshoot_comes_back(threshold):
    companion = sparsifier(budget=0.5)
    with torch.no_grad():
        companion.thresholds.fill_(threshold)
    kept = train(companion, 80, begin=0.9)
    assert kept[0] < 0.35
    assert kept[-10:] == pytest.approx([0.5] * 10, abs=0.05)


def test_an_overshoot_pays_until_it_has_come_back():
    companion = sparsifier(budget=0.5)
    companion.multiplier = 5.0
    with torch.no_grad():
        companion.thresholds.fill_(1.0)
    companion.begin_step(JOINT, 1.0)
    companion.end_step()
    assert companion.multiplier < 5.0
    with torch.no_grad():
        companion.thresholds.fill_(-3.0)
    companion.begin_step(JOINT, 1.0)
    before = companion.multiplier
    companion.end_step()
    assert companion.multiplier > before


def test_the_budget_is_an_augmented_lagrangian_of_the_macs_above_it():
    companion = sparsifier(budget=0.5)
    with torch.no_grad():
        companion.thresholds.fill_(-1.0)

    def loss_and_gradient(multiplier):
        companion.begin_step(JOINT, 1.0)  # leaves a multiplier of 0 where the stage is new
        companion.multiplier = multiplier
        companion.begin_step(JOINT, 1.0)
        companion.thresholds.grad = None
        companion.loss().backward()
        return float(companion.loss().detach()), companion.thresholds.grad.clone()

    plain, pull = loss_and_gradient(0.0)
    excess = companion.keep - 0.5
    assert excess > 0.05
    assert plain == pytest.approx(50 * excess**2)
    pressed, harder = loss_and_gradient(3.0)
    assert pressed == pytest.approx(50 * excess**2 + 3.0 * excess)
    # Both terms are functions of the same excess: so are their gradients.
    torch.testing.assert_close(harder, pull * (1 + 3.0 / (100 * excess)))


def test_no_group_goes_below_its_floor():
    companion = sparsifier(budget=0.1, floor=0.25, align=2)
    with torch.no_grad():
        companion.thresholds.fill_(100.0)
    companion.begin_step(JOINT, 1.0)
    for masked in companion.groups:
        floor = -(-masked.group.size // 4)
        assert int(masked.gate.forward.sum()) == floor + floor % 2
        assert masked.gate.value.tolist() == masked.gate.forward.tolist()


def test_what_cannot_go_below_its_floors_is_not_pushed_further():
    companion = sparsifier(budget=0.01, floor=0.5)
    with torch.no_grad():
        companion.thresholds.fill_(100.0)
    companion.begin_step(JOINT, 1.0)
    assert float(companion.loss().detach()) == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------------- masks


def test_the_channels_above_the_threshold_are_on():
    companion = sparsifier()
    with torch.no_grad():
        companion.thresholds.uniform_(-1, 1)
    companion.begin_step(JOINT, 0.5)
    for score, masked in zip(companion.scores(), companion.groups, strict=True):
        assert torch.equal(masked.gate.forward, (score > 0).float())


def test_a_masked_channel_that_regains_its_norm_comes_back():
    codec = copy.deepcopy(CODEC)
    companion = sparsifier(codec=codec)
    index = next(i for i, g in enumerate(CHANNELS.groups) if g.name == "priorDecoder.2")
    layer = codec.priorDecoder[2]
    stored = layer.parametrizations.weight.original
    with torch.no_grad():
        before = stored[:, 3].clone()
        stored[:, 3] = 0  # transposed: dimension 1 makes the channels
    companion.begin_step(JOINT, 0.5)
    assert companion.groups[index].gate.forward[3] == 0
    assert not layer.weight[:, 3].any()
    with torch.no_grad():
        stored[:, 3] = before
    companion.begin_step(JOINT, 0.6)
    assert companion.groups[index].gate.forward[3] == 1
    assert torch.equal(layer.weight[:, 3], before)


@pytest.mark.parametrize(
    "method, learns, shows",
    [
        ("gradient-decay", True, False),
        ("straight-through", True, False),
        ("mask-decay", True, True),
        ("one-shot", False, False),
    ],
)
def test_each_method_treats_masked_weights_its_own_way(method, learns, shows):
    """Halfway: whether a masked channel's weights still learn, and are still seen."""
    codec = shaken(toys.Warped()).train()
    kept = mask_half(codec, "motion.0", method)
    gradient, weight = backpropagated(codec, codec.motion[0])
    assert (gradient[kept] > 0).all()
    assert bool((gradient[~kept] > 0).any()) == learns
    assert bool(weight[:, ~kept].any()) == shows


def test_behind_a_relu_a_masked_channel_finds_no_slope_to_learn_by():
    """dL/dW~ itself is zero there, since torch's ReLU is flat at zero: no decay can help that."""
    codec = shaken(toys.Gated()).train()
    kept = mask_half(codec, "up.0", "straight-through")
    gradient, _ = backpropagated(codec, codec.up[0])
    assert (gradient[kept] > 0).all()
    assert not gradient[~kept].any()


def mask_half(codec, name, method):
    """Mask every group below its mean norm, in the middle of the run; what one group keeps."""
    channels = find_groups(codec)
    cost = CostModel(codec, channels, 64, 64)
    companion = Sparsifier(codec, channels, cost, PruneSection(method=method, align=1), 10)
    with torch.no_grad():
        companion.thresholds.zero_()
    companion.begin_step(codec.stages()[0], 0.5)
    index = next(i for i, group in enumerate(channels.groups) if group.name == name)
    kept = companion.scores()[index] > 0
    assert 0 < int(kept.sum()) < len(kept)
    return kept


def backpropagated(codec, layer):
    """By channel of a transposed convolution: size of the stored weights' gradient; its weights."""
    frames = clip(2)
    codec(frames[1:], Reference(frames[:1])).frame.square().mean().backward()
    return layer.parametrizations.weight.original.grad.abs().sum((0, 2, 3)), layer.weight


def test_beta_is_annealed_over_the_run():
    companion = sparsifier()
    seen = []
    for progress in (0.0, 0.5, 1.0):
        companion.begin_step(JOINT, progress)
        seen.append(companion.figures()["beta"])
    assert seen == pytest.approx([1, 0.5, 0])


def test_the_task_moves_thresholds_through_the_gates():
    """Channels that the task needs lower their group's threshold, useless ones raise it."""
    companion = sparsifier(budget=1.0)
    with torch.no_grad():
        companion.thresholds.zero_()

    def task(c):
        values = [masked.gate.value for masked in c.groups]
        return values[0].sum() - values[1].sum()

    train(companion, 5, begin=0.0, end=0.0, task=task)
    first, second = companion.thresholds.detach()[:2].tolist()
    assert first > 0 > second


# ---------------------------------------------------------------------- stages


@pytest.mark.parametrize("name", ["motion", "reconstruction"])
def test_a_stage_moves_the_thresholds_of_its_own_modules_alone(name):
    companion = sparsifier(budget=0.4)
    start = companion.thresholds.detach().clone()
    train(
        companion, 40, stage=STAGES[name], task=lambda c: sum(m.gate.value.sum() for m in c.groups)
    )
    own = torch.tensor([g.name.split(".")[0] in STAGES[name].modules for g in CHANNELS.groups])
    moved = companion.thresholds.detach() != start
    assert moved[own].all()
    assert not moved[~own].any()


def test_a_stage_brings_its_own_modules_to_the_budget():
    companion = sparsifier(budget=0.4)
    train(companion, 100, stage=STAGES["motion"])
    counts = torch.stack([masked.gate.forward.sum() for masked in companion.groups])
    motion = [m for m in STAGES["motion"].modules if m in CODEC.decoder_modules()]
    others = [m for m in CODEC.decoder_modules() if m not in motion and "Estimator" not in m]
    assert float(COST.fraction(counts, motion)) == pytest.approx(0.4, abs=0.06)
    assert float(COST.fraction(counts, others)) > 0.98


def test_a_stage_starts_without_the_pressure_of_the_one_before():
    companion = sparsifier(budget=0.3)
    train(companion, 30, STAGES["motion"], begin=0.5, end=0.6)
    assert companion.multiplier > 0
    companion.begin_step(JOINT, 0.6)
    assert companion.multiplier == 0
    train(companion, 5, JOINT, begin=0.6, end=0.65)
    pressure = companion.multiplier
    companion.begin_step(JOINT, 0.65)
    assert companion.multiplier == pressure != 0


def test_a_stage_of_the_encoder_alone_asks_for_nothing():
    companion = sparsifier()
    companion.begin_step(Stage("flow", ("opticFlow",)), 0.5)
    assert float(companion.loss()) == 0
    companion.end_step()
    assert companion.multiplier == 0


# ---------------------------------------------------------------------- the end, and going on


def test_the_choice_meets_the_budget_and_follows_the_scores():
    companion = sparsifier(budget=0.4, align=2)
    train(companion, 60)
    kept = companion.choose()
    counts = torch.tensor([len(kept[g.name]) for g in CHANNELS.groups])
    assert float(COST.fraction(counts)) == pytest.approx(0.4, abs=0.01)
    for group, score in zip(CHANNELS.groups, companion.scores(), strict=True):
        assert kept[group.name] == sorted(score.topk(len(kept[group.name])).indices.tolist())


def test_unmasking_restores_the_dense_codec():
    codec = copy.deepcopy(CODEC)
    companion = sparsifier(codec=codec)
    train(companion, 60)
    assert largest_difference(CODEC, codec, [clip(2)]) > 0
    companion.close()
    assert codec.state_dict().keys() == CODEC.state_dict().keys()
    assert largest_difference(CODEC, codec, [clip(2)]) == 0


def test_a_run_goes_on_from_its_saved_state_as_if_it_had_not_stopped(tmp_path):
    whole = sparsifier(budget=0.4)
    train(whole, 30, end=0.5)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    # Weights that were trained meanwhile: what was measured at the start has to be saved.
    other = copy.deepcopy(CODEC)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    again = sparsifier(budget=0.4, codec=other)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.load_state_dict(whole.codec.state_dict())
    assert train(again, 30, begin=0.5) == train(whole, 30, begin=0.5)
    assert torch.equal(again.thresholds, whole.thresholds)
    assert again.multiplier == whole.multiplier


def test_the_figures_say_what_is_kept_and_what_is_allowed():
    companion = sparsifier(budget=0.4)
    train(companion, 60)
    companion.begin_step(JOINT, 1.0)
    figures = companion.figures()
    counts = torch.stack([masked.gate.forward.sum() for masked in companion.groups])
    assert figures["keep"] == pytest.approx(float(COST.fraction(counts)))
    assert figures["budget"] == pytest.approx(0.4)


def test_the_pace_of_thresholds_follows_the_length_of_the_run():
    assert sparsifier(threshold_rate=None, steps=100_000).rate < 0.001
    assert sparsifier(threshold_rate=0.3, steps=100_000).rate == 0.3
