"""Scores by loss: what is measured of each channel, and the masks that follow from it."""

import copy

import pytest
import torch
from plugins import BLOCKS, plugin
from toys import clip

import vcodecs
from prune.groups.find import find_groups
from prune.groups.shrink import masked_copy
from prune.recipe.schema import PruneSection
from prune.sparsify.by_loss import LossSparsifier
from prune.sparsify.cost import CostModel
from prune.sparsify.importance import ESSENTIAL, channel_losses, tells_all
from prune.sparsify.selection import by_losses, choose_by_loss
from prune.training.loss import rate_distortion
from prune.training.tradeoff import Tradeoff
from vcodecs import UserError


def started():
    """The classical codec that a small preset starts as, a little out of order everywhere."""
    torch.manual_seed(0)
    codec = vcodecs.create("dcvc", "tiny").eval()
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter += 0.03 * torch.randn_like(parameter) * parameter.std().nan_to_num(0.1)
    return codec


CODEC = started()
CHANNELS = find_groups(CODEC)
COST = CostModel(CODEC, CHANNELS, 64, 64)
JOINT = next(stage for stage in CODEC.stages() if tells_all(stage))
ONE_RATE = Tradeoff((None,), (512.0,))
SECTION = PruneSection(budget=0.5, align=1, floor=0.2)


def batches(count=2):
    return [torch.stack([clip(2, seed=i), clip(2, seed=i + 100)]) for i in range(count)]


@pytest.fixture(scope="module")
def losses():
    return channel_losses(CODEC, CHANNELS, SECTION, JOINT, batches(), ONE_RATE)


def loss_of(codec):
    """As it is measured: the same noise every time."""
    codec = copy.deepcopy(codec).train()
    torch.manual_seed(0)
    with torch.no_grad():
        found = rate_distortion(codec, torch.cat(batches()), JOINT, torch.full((4,), 512.0))
    return float(found.loss)


def everything_but(group, channels):
    kept = {g.name: list(range(g.size)) for g in CHANNELS.groups}
    return kept | {group.name: sorted(set(range(group.size)) - set(channels))}


# ---------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("name", ["feature_extract.0", "contextualDecoder_part2.0"])
def test_the_least_channels_of_a_group_lose_what_removing_them_loses(losses, name):
    number = [group.name for group in CHANNELS.groups].index(name)
    group, values = CHANNELS.groups[number], losses[number]
    gone = (values < ESSENTIAL / 2).nonzero().flatten().tolist()  # down to the floor: measured
    masked = masked_copy(CODEC, CHANNELS, everything_but(group, gone))
    rise = loss_of(masked) - loss_of(CODEC)
    assert rise > 0
    assert float(values[gone].sum()) == pytest.approx(rise, rel=1e-3)


def test_no_channel_is_worth_less_than_nothing(losses):
    assert all(float(values.min()) > 0 for values in losses)


def test_a_channel_that_nobody_reads_goes_first():
    codec = copy.deepcopy(CODEC)
    with torch.no_grad():
        codec.contextualDecoder_part2[1].conv1.weight[:, 3] = 0
        codec.contextualDecoder_part2[3].weight[:, 3] = 0
        for block in (codec.contextualDecoder_part2[1], codec.contextualDecoder_part2[2]):
            block.conv1.weight[:, 3] = 0
    found = channel_losses(codec, CHANNELS, SECTION, JOINT, batches(), ONE_RATE)
    number = [group.name for group in CHANNELS.groups].index("contextualDecoder_part2.0")
    assert int(found[number].argmin()) == 3


def test_measuring_leaves_the_codec_as_it_was():
    codec = copy.deepcopy(CODEC)
    codec.opticFlow.train()
    codec.mvEncoder.requires_grad_(False)
    before = copy.deepcopy(codec.state_dict())
    modes = {name: module.training for name, module in codec.named_modules()}
    learning = {name: p.requires_grad for name, p in codec.named_parameters()}
    channel_losses(codec, CHANNELS, SECTION, JOINT, batches(1), ONE_RATE)
    assert codec.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in codec.state_dict().items())
    assert {name: module.training for name, module in codec.named_modules()} == modes
    assert {name: p.requires_grad for name, p in codec.named_parameters()} == learning


def test_the_same_clips_give_the_same_losses(losses):
    again = channel_losses(CODEC, CHANNELS, SECTION, JOINT, batches(), ONE_RATE)
    assert all(torch.equal(a, b) for a, b in zip(losses, again, strict=True))


def test_running_statistics_stand_still():
    codec = plugin(BLOCKS["BatchNorm"])().eval()
    before = copy.deepcopy(codec.state_dict())
    stage = next(stage for stage in codec.stages() if tells_all(stage))
    found = channel_losses(codec, find_groups(codec), SECTION, stage, batches(1), ONE_RATE)
    assert all(values.isfinite().all() for values in found)
    assert all(torch.equal(value, before[key]) for key, value in codec.state_dict().items())


# ---------------------------------------------------------------------- the choice


def test_a_choice_by_losses_meets_its_budget(losses):
    kept = by_losses(CHANNELS, COST, SECTION, losses)
    counts = torch.tensor([float(len(kept[group.name])) for group in CHANNELS.groups])
    assert float(COST.fraction(counts)) == pytest.approx(0.5, abs=0.01)


def test_it_loses_less_than_the_same_choice_upside_down(losses):
    upside_down = [values.max() + values.min() - values for values in losses]
    best = masked_copy(CODEC, CHANNELS, by_losses(CHANNELS, COST, SECTION, losses))
    worst = masked_copy(CODEC, CHANNELS, by_losses(CHANNELS, COST, SECTION, upside_down))
    assert loss_of(best) < loss_of(worst)


def test_a_budget_on_the_way_need_not_be_met():
    coarse = PruneSection(budget=0.9, align=64, floor=0.1)
    values = [torch.arange(group.size, 0, -1.0) for group in CHANNELS.groups]
    with pytest.raises(UserError, match="lower"):
        choose_by_loss(CHANNELS.groups, values, COST, 0.9, coarse)
    kept = choose_by_loss(CHANNELS.groups, values, COST, 0.9, coarse, exact=False)
    assert kept.keys() == {group.name for group in CHANNELS.groups}


# ---------------------------------------------------------------------- masks while training


def sparsifier(losses, codec=None, **settings):
    section = PruneSection(**({"budget": 0.5, "align": 1, "floor": 0.2} | settings))
    return LossSparsifier(codec or copy.deepcopy(CODEC), CHANNELS, COST, section, losses)


def test_the_kept_macs_fall_to_the_budget_within_the_ramp(losses):
    companion, path = sparsifier(losses, ramp=0.5), []
    for step in range(20):
        companion.begin_step(JOINT, step / 20)
        path.append(companion.keep)
        companion.end_step()
    assert path[0] > 0.9
    assert path == sorted(path, reverse=True)
    assert path[10:] == pytest.approx([0.5] * 10, abs=0.01)


def test_the_channels_of_the_last_steps_are_those_that_stay(losses):
    companion = sparsifier(losses)
    companion.begin_step(JOINT, 0.999)
    kept = companion.choose()
    for group, masked in zip(CHANNELS.groups, companion.groups, strict=True):
        assert kept[group.name] == masked.gate.forward.nonzero().flatten().tolist()
    companion.close()


def test_a_training_that_ends_before_its_ramp_still_meets_the_budget(losses):
    companion = sparsifier(losses)
    companion.begin_step(JOINT, 0.1)
    assert companion.keep > 0.6
    kept = companion.choose()
    counts = torch.tensor([float(len(kept[group.name])) for group in CHANNELS.groups])
    assert float(COST.fraction(counts)) == pytest.approx(0.5, abs=0.01)


def test_a_saved_state_goes_on_where_it_was(losses):
    first, second = sparsifier(losses), sparsifier([values * 0 + 1 for values in losses])
    first.begin_step(JOINT, 0.3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for companion in (first, second):
        companion.begin_step(JOINT, 0.6)
    assert first.choose() == second.choose()


@pytest.mark.parametrize("method", ["gradient-decay", "straight-through"])
def test_masked_channels_make_zeros_and_go_on_learning(losses, method):
    codec = copy.deepcopy(CODEC).train()
    companion = sparsifier(losses, codec, method=method, beta={"begin": 0.9, "finish": 1.0})
    companion.begin_step(JOINT, 0.8)
    rate_distortion(codec, torch.cat(batches(1)), JOINT, torch.full((2,), 512.0)).loss.backward()
    kept = companion.choose()["contextualDecoder_part2.0"]
    layer = codec.contextualDecoder_part2[0]
    gone = sorted(set(range(layer.out_channels)) - set(kept)) or pytest.skip("all of it stays")
    assert not layer.weight[gone].any()
    assert float(layer.parametrizations.weight.original.grad[gone].abs().max()) > 0
