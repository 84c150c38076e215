"""From masks to smaller layers, and the proof that goes before a shrunk codec is used."""

import copy
import math

import pytest
import torch
import toys
from toys import clip, shaken

import vcodecs
from prune.groups import shrink
from prune.groups.find import find_groups
from prune.groups.shrink import TOLERANCE, check_same, largest_difference, masked_copy, shrunk_copy
from prune.sparsify.masked import MaskedGroup
from vcodecs import UserError, checkpoints


def halves(channels):
    return {group.name: list(range(0, group.size, 2)) for group in channels.groups}


class Subject:
    def __init__(self, codec):
        self.codec = shaken(codec)
        self.channels = find_groups(self.codec)
        self.kept = halves(self.channels)


@pytest.fixture(scope="module")
def tiny():
    return Subject(vcodecs.create("dcvc", "tiny"))


def test_a_masked_copy_has_the_old_shapes_and_zeros_for_weights_and_biases(tiny):
    masked = masked_copy(tiny.codec, tiny.channels, tiny.kept)
    before, after = tiny.codec.state_dict(), masked.state_dict()
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    first, dense = masked.mvDecoder_part2[0], tiny.codec.mvDecoder_part2[0]
    assert not first.weight[1::2].any()
    assert not first.bias[1::2].any()
    assert torch.equal(first.weight[0::2], dense.weight[0::2])
    assert torch.equal(first.bias[0::2], dense.bias[0::2])


def test_a_shrunk_copy_holds_the_kept_weights(tiny):
    shrunk = shrunk_copy(tiny.codec, tiny.kept)
    dense = tiny.codec.mvDecoder_part2
    assert torch.equal(shrunk.mvDecoder_part2[0].weight, dense[0].weight[0::2])
    assert torch.equal(shrunk.mvDecoder_part2[2].weight, dense[2].weight[0::2, 0::2])
    assert torch.equal(shrunk.mvDecoder_part2[0].bias, dense[0].bias[0::2])
    # Transposed: inputs come first. Normalisations lose both dimensions.
    dense = tiny.codec.mvDecoder_part1
    assert torch.equal(shrunk.mvDecoder_part1[2].weight, dense[2].weight[0::2, 0::2])
    assert torch.equal(shrunk.mvDecoder_part1[1].gamma, dense[1].gamma[0::2, 0::2])
    assert torch.equal(shrunk.mvDecoder_part1[1].beta, dense[1].beta[0::2])


def test_neither_copy_touches_the_codec(tiny):
    before = {key: value.clone() for key, value in tiny.codec.state_dict().items()}
    masked_copy(tiny.codec, tiny.channels, tiny.kept)
    shrunk_copy(tiny.codec, tiny.kept)
    after = tiny.codec.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_masked_and_shrunk_agree_on_any_size_of_frames(tiny):
    masked = masked_copy(tiny.codec, tiny.channels, tiny.kept)
    shrunk = shrunk_copy(tiny.codec, tiny.kept)
    odd = clip(3, side=72)[..., :70, :66]
    assert check_same(masked, shrunk, [clip(3), odd]) < TOLERANCE


def test_training_masks_and_the_masked_copy_are_the_same_codec():
    codec = shaken(toys.Carried())
    channels = find_groups(codec)
    kept = halves(channels)
    masked = masked_copy(codec, channels, kept)
    for group in channels.groups:
        gates = MaskedGroup(codec, group)
        gates.gate.forward = torch.zeros(group.size).index_fill(
            0, torch.tensor(kept[group.name]), 1
        )
    assert largest_difference(codec, masked, [clip(4)]) == 0


def test_a_shrunk_codec_can_be_trained(tiny):
    shrunk = shrunk_copy(tiny.codec, tiny.kept).train()
    frames = clip(2)
    coded = shrunk(frames[1:], vcodecs.Reference(frames[:1]))
    (coded.frame.square().mean() + coded.total_bits().mean()).backward()
    layer = shrunk.contextualDecoder_part2[0]
    assert layer.weight.grad.shape == layer.weight.shape
    assert layer.weight.grad.any()


def test_a_shrunk_checkpoint_rebuilds_the_shrunk_codec(tiny, tmp_path):
    shrunk = shrunk_copy(tiny.codec, tiny.kept)
    checkpoints.save(shrunk, tmp_path / "small.safetensors", tiny.kept)
    again = vcodecs.create("dcvc", "tiny", tmp_path / "small.safetensors").eval()
    assert largest_difference(shrunk, again, [clip(3)]) == 0


# ---------------------------------------------------------------------- the check


def test_a_codec_does_not_differ_from_itself(tiny):
    assert largest_difference(tiny.codec, copy.deepcopy(tiny.codec), [clip(2)]) == 0


def test_a_wrong_channel_shows_and_is_refused(tiny):
    name = "contextualDecoder_part2.0"
    wrong = tiny.kept | {name: [i + 1 for i in tiny.kept[name]]}
    masked = masked_copy(tiny.codec, tiny.channels, tiny.kept)
    shrunk = shrunk_copy(tiny.codec, wrong)
    with pytest.raises(UserError, match=r"differs from the masked one by .*prune\.plan"):
        check_same(masked, shrunk, [clip(3)])


def test_a_bias_that_is_left_in_shows(tiny):
    masked = masked_copy(tiny.codec, tiny.channels, tiny.kept)
    with torch.no_grad():
        masked.contextualDecoder_part2[0].bias[1] = 0.5
    assert largest_difference(masked, shrunk_copy(tiny.codec, tiny.kept), [clip(2)]) > 1e-3


def test_bits_count_as_much_as_the_picture(tiny):
    other = copy.deepcopy(tiny.codec)
    with torch.no_grad():
        other.bitEstimator_z.f1.b.add_(0.5)
    assert largest_difference(tiny.codec, other, [clip(2)]) > TOLERANCE


def test_what_goes_wrong_only_later_in_a_clip_shows():
    codec = shaken(toys.Carried())
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.from_feature.weight.add_(0.1)  # the first P frame does not run it
    assert largest_difference(codec, other, [clip(2)]) == 0
    assert largest_difference(codec, other, [clip(3)]) > TOLERANCE


def test_results_that_are_no_numbers_are_refused(tiny):
    for spoilt in ("contextualDecoder_part2", "entropy_parameters"):
        broken = copy.deepcopy(tiny.codec)
        with torch.no_grad():
            broken.get_submodule(spoilt)[-1].bias[0] = float("nan")
        with pytest.raises(UserError, match="differs"):
            check_same(tiny.codec, broken, [clip(2)])
        with pytest.raises(UserError, match="differs"):
            check_same(broken, tiny.codec, [clip(2)])


def test_a_rounding_tie_is_no_fault_and_a_fault_is_no_tie(tiny, monkeypatch):
    """A clip that differs is tried again with noise on it; what differs then as well is a fault."""
    tried = []

    def answers(*differences):
        rest = iter(differences)
        return lambda masked, shrunk, clips: tried.append(clips) or next(rest)

    monkeypatch.setattr(shrink, "largest_difference", answers(3e-4, 2e-6, 1e-7))
    assert check_same(tiny.codec, tiny.codec, [clip(2), clip(2)]) == 2e-6
    again = tried[1]
    assert len(again) == 2 and not torch.equal(again[0], again[1])
    assert all(0 < float((x - clip(2)).abs().max()) < 1 / 250 for x in again)
    for second in (3e-4, math.nan, math.inf):
        monkeypatch.setattr(shrink, "largest_difference", answers(3e-4, second))
        with pytest.raises(UserError, match="differs from the masked one"):
            check_same(tiny.codec, tiny.codec, [clip(2)])
