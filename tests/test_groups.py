"""Channel groups: what is removed together, what stays and why, and that removal is masking."""

import awkward
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import clip, shaken

import vcodecs
from prune.groups.channels import Channels
from prune.groups.find import find_groups
from prune.groups.grouping import IN_PART, sort_out
from prune.groups.removal import remove_from
from prune.groups.shrink import largest_difference, masked_copy, remove, shrunk_copy
from prune.groups.trace import trace
from vcodecs import Reference, UserError, VideoCodec

CLOSE = 1e-5
DCVC = {preset: shaken(vcodecs.create("dcvc", preset)) for preset in ("tiny", "small")}
GROUPS = {preset: find_groups(codec) for preset, codec in DCVC.items()}
named = pytest.mark.parametrize(
    "kind", toys.WELL_BEHAVED + awkward.AWKWARD, ids=lambda kind: kind.__name__
)


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, derandomize=True)


def everything(channels: Channels) -> dict[str, list[int]]:
    return {group.name: list(range(group.size)) for group in channels.groups}


@st.composite
def subsets(draw, channels: Channels) -> dict[str, list[int]]:
    """At least one channel of every group, all of them in some groups."""
    kept = {}
    for group in channels.groups:
        chosen = draw(st.sets(st.integers(0, group.size - 1), min_size=1))
        kept[group.name] = sorted(chosen) if draw(st.booleans()) else list(range(group.size))
    return kept


def reason(channels: Channels, layer: str) -> str:
    made = {m.layer for g in channels.groups for m in g.producers()}
    assert layer not in made or channels.fixed[layer].startswith(IN_PART)
    return channels.fixed[layer]


def group_of(channels: Channels, layer: str):
    return next(g for g in channels.groups if layer in {m.layer for m in g.producers()})


# ---------------------------------------------------------------------- removal is masking


@named
def test_removing_nothing_changes_nothing(kind):
    codec = shaken(kind())
    kept = everything(find_groups(codec))
    assert largest_difference(codec, shrunk_copy(codec, kept), [clip(4)]) == 0


def test_removing_nothing_from_dcvc_changes_nothing():
    shrunk = shrunk_copy(DCVC["tiny"], everything(GROUPS["tiny"]))
    assert largest_difference(DCVC["tiny"], shrunk, [clip(3)]) == 0
    assert shrunk.state_dict().keys() == DCVC["tiny"].state_dict().keys()


@pytest.mark.parametrize(
    "preset, name", [(p, g.name) for p in DCVC for g in GROUPS[p].groups], ids=str
)
def test_every_group_of_dcvc_can_be_removed_alone(preset, name):
    codec, channels = DCVC[preset], GROUPS[preset]
    group = next(g for g in channels.groups if g.name == name)
    kept = everything(channels) | {name: list(range(0, group.size, 2))}
    masked = masked_copy(codec, channels, kept)
    shrunk = masked_copy(codec, channels, everything(channels))
    remove_from(shrunk, [group], kept)
    assert largest_difference(masked, shrunk, [clip(3)]) < CLOSE
    # The test would prove nothing for channels without an effect.
    assert largest_difference(codec, masked, [clip(2)]) > 10 * CLOSE


@examples(8)
@given(data=st.data())
def test_any_channels_of_tiny_dcvc_can_be_removed_together(data):
    kept = data.draw(subsets(GROUPS["tiny"]))
    masked = masked_copy(DCVC["tiny"], GROUPS["tiny"], kept)
    assert largest_difference(masked, shrunk_copy(DCVC["tiny"], kept), [clip(3)]) < CLOSE


@examples(3)
@given(data=st.data())
def test_any_channels_of_small_dcvc_can_be_removed_together(data):
    kept = data.draw(subsets(GROUPS["small"]))
    masked = masked_copy(DCVC["small"], GROUPS["small"], kept)
    assert largest_difference(masked, shrunk_copy(DCVC["small"], kept), [clip(3)]) < CLOSE


@named
def test_every_group_of_a_toy_can_be_removed_alone(kind):
    codec = shaken(kind())
    channels = find_groups(codec)
    for group in channels.groups:
        for kept_here in ([0], list(range(1, group.size))):
            kept = everything(channels) | {group.name: kept_here}
            masked = masked_copy(codec, channels, kept)
            assert largest_difference(masked, shrunk_copy(codec, kept), [clip(4)]) < CLOSE
        assert largest_difference(codec, masked, [clip(4)]) > 0, f"{group.name} has no effect"


@pytest.mark.parametrize("kind", toys.WELL_BEHAVED, ids=lambda kind: kind.__name__)
@examples(5)
@given(data=st.data())
def test_any_channels_of_a_toy_can_be_removed_together(kind, data):
    codec = shaken(kind(), seed=1)
    channels = find_groups(codec)
    kept = data.draw(subsets(channels))
    masked = masked_copy(codec, channels, kept)
    assert largest_difference(masked, shrunk_copy(codec, kept), [clip(4)]) < CLOSE


# ---------------------------------------------------------------------- what belongs together


def test_only_results_and_motion_vectors_of_dcvc_stay():
    assert set(GROUPS["tiny"].fixed) == {
        "entropy_parameters_mv.4",
        "entropy_parameters.4",
        "contextualDecoder_part2.3",
        "mvDecoder_part1.6",
        "mvDecoder_part2.12",
        "bitEstimator_z_mv",
        "bitEstimator_z",
    }


def test_layers_that_add_up_share_a_group():
    stream = group_of(GROUPS["tiny"], "feature_extract.0")
    assert [m.layer for m in stream.producers()] == [
        "feature_extract.0",
        "feature_extract.1.conv2",
        "context_refine.0.conv2",
    ]


def test_groups_are_named_after_their_first_producer_and_follow_the_decoder():
    names = [group.name for group in GROUPS["tiny"].groups]
    assert all(g.name == g.producers()[0].layer for g in GROUPS["tiny"].groups)
    assert len(set(names)) == len(names)
    order = DCVC["tiny"].decoder_modules()
    places = [order.index(name.split(".")[0]) for name in names]
    assert places == sorted(places)


def test_a_sub_pixel_convolution_counts_its_channels_behind_the_shuffle():
    channels = find_groups(toys.SubpelChain())
    assert [(g.name, g.size) for g in channels.groups] == [("up.0", 6), ("up.1", 5)]


def test_a_shuffle_of_any_spelling_joins_what_makes_one_channel():
    group = group_of(find_groups(toys.PlainShuffle()), "up.0")
    assert group.producers()[0].channels == tuple(tuple(range(4 * c, 4 * c + 4)) for c in range(4))


def test_a_linear_layer_makes_channels_too():
    gate = group_of(find_groups(toys.Squeezed()), "gate.0")
    assert [m.layer for m in gate.consumers()] == ["gate.2"]
    wide = group_of(find_groups(toys.Squeezed()), "wide.0")
    assert [m.layer for m in wide.producers()] == ["wide.0", "gate.2"]


def test_a_normalisation_is_neither_producer_nor_consumer():
    group = group_of(find_groups(toys.Normalised()), "up.0")
    assert {m.layer: m.side for m in group.members} == {"up.0": "out", "up.1": "norm", "up.2": "in"}
    assert [m.layer for m in group.producers()] == ["up.0"]
    assert [m.layer for m in group.consumers()] == ["up.2"]


def test_motion_vectors_stay_and_are_not_tied_to_what_they_move():
    channels = find_groups(toys.Warped())
    assert "motion vector" in reason(channels, "motion.2")
    assert "motion vector" in reason(channels, "refine.2")
    features = group_of(channels, "features")
    assert [m.layer for m in features.producers()] == ["features", "picture.0.conv2"]


def test_offsets_behind_raw_pictures_and_constants_are_right():
    group = group_of(find_groups(toys.Joined()), "up.2")
    reader = next(m for m in group.consumers() if m.layer == "picture.0")
    # Three channels of the reference picture and two coordinates come first.
    assert reader.channels == tuple((5 + c,) for c in range(6))


def test_a_sum_with_a_raw_field_of_the_reference_stays():
    assert "reference latent" in reason(find_groups(toys.AddedToRawField()), "mix.2")


def test_equal_parts_lose_the_same_channels():
    wide = group_of(find_groups(toys.Gated()), "wide")
    assert wide.producers()[0].channels == tuple((c, c + 6) for c in range(6))
    wide = group_of(find_groups(toys.Halved()), "wide.0")
    assert wide.producers()[0].channels == tuple((c, c + 5, c + 10) for c in range(5))
    assert {m.layer: m.channels for m in wide.consumers()} == {
        name: tuple((c,) for c in range(5)) for name in ("first", "last", "again")
    }


def test_what_is_added_to_one_half_goes_with_both():
    group = group_of(find_groups(toys.HalvedBesides()), "beside")
    members = {m.layer: m.channels for m in group.members}
    assert members["beside"] == members["left"] == members["right"]
    assert members["wide"] == tuple((c, c + 5) for c in range(5))


def test_a_depthwise_convolution_and_a_scale_go_with_their_channels():
    group = group_of(find_groups(toys.Scaled()), "wide")
    assert {m.layer: m.side for m in group.members} == {
        "wide": "out",
        "scale": "norm",
        "depthwise": "out",
        "up.0": "norm",
        "up.1": "in",
    }


@named
def test_no_channel_is_in_two_groups(kind):
    seen = set()
    for group in find_groups(kind()).groups:
        for member in group.members:
            for i in (i for row in member.channels for i in row):
                assert (member.layer, member.side, i) not in seen
                seen.add((member.layer, member.side, i))


# ---------------------------------------------------------------------- carried tensors


@pytest.mark.parametrize("kind", [toys.Carried, toys.CarriedSum])
def test_a_carried_feature_shrinks_where_it_leaves_and_where_it_enters(kind):
    codec = shaken(kind())
    channels = find_groups(codec)
    kept = everything(channels) | {group_of(channels, "mix.2").name: [0, 2, 5]}
    shrunk = shrunk_copy(codec, kept)
    masked = masked_copy(codec, channels, kept)
    expected = found = Reference(clip(1))
    for frame in clip(4)[1:]:
        a, b = masked(frame[None], expected), shrunk(frame[None], found)
        assert b.reference.feature.shape[1] == 3
        torch.testing.assert_close(a.frame, b.frame, rtol=0, atol=CLOSE)
        torch.testing.assert_close(a.reference.feature[:, [0, 2, 5]], b.reference.feature)
        expected, found = a.reference, b.reference


def test_what_only_the_first_p_frame_runs_is_known_too():
    group = group_of(find_groups(toys.Carried()), "from_feature")
    assert [m.layer for m in group.producers()] == ["from_picture", "from_feature"]


def test_a_carried_feature_that_is_not_declared_stays():
    channels = find_groups(awkward.CarriedUndeclared())
    assert "tied_channels() does not name" in reason(channels, "mix.2")
    assert {g.name for g in channels.groups} == {"from_picture", "mix.0", "up.0"}


def test_a_declaration_of_the_wrong_layer_is_an_error():
    with pytest.raises(UserError, match=r"toy.tied_channels\(\): 'mix.0' .*'feature'"):
        find_groups(awkward.WronglyDeclared())


# ---------------------------------------------------------------------- what stays, and why


@named
def test_every_layer_of_a_decoder_is_in_a_group_or_has_a_reason(kind):
    check_every_layer(kind(), find_groups(kind()))


@pytest.mark.parametrize("preset", ["tiny", "official"])
def test_every_layer_of_dcvc_is_in_a_group_or_has_a_reason(preset):
    codec = vcodecs.create("dcvc", preset)
    check_every_layer(codec, sort_out(codec, trace(codec)))


def check_every_layer(codec: VideoCodec, channels: Channels) -> None:
    free = {m.layer for g in channels.groups for m in g.members if m.side != "in"}
    for layer in free & channels.fixed.keys():
        assert channels.fixed[layer].startswith(IN_PART)
    assert all(channels.fixed.values())
    for name, layer in codec.named_modules():
        if name.split(".")[0] not in codec.decoder_modules():
            continue
        if any(True for _ in layer.parameters(recurse=False)):
            parts = name.split(".")
            parents = {".".join(parts[: i + 1]) for i in range(len(parts))}
            assert parents & (free | channels.fixed.keys()), name


@pytest.mark.parametrize(
    "kind, layer, words",
    [
        (awkward.AddedSigmoid, "wide", "not the same as masking"),
        (awkward.SplitByNumber, "wide", "the codec fails"),
        (awkward.Offset, "wide", "offset is held by the codec itself"),
        (awkward.SlicedAtFixedPlace, "wide", "some of its channels stay: without"),
        (awkward.PictureReadAgain, "up.2", "a result of the decoder"),
        (awkward.PictureReadAgain, "mix", "the encoder makes"),
        (toys.AutoRegressive, "scales.2", "read by the entropy coder"),
        (toys.Halved, "unused", "not reached"),
    ],
)
def test_what_cannot_be_removed_stays_with_its_reason(kind, layer, words):
    assert words in reason(find_groups(kind()), layer)


def test_what_the_encoder_adds_to_a_context_goes_with_its_channels():
    channels = find_groups(toys.AddedByTheEncoder())
    group = next(g for g in channels.groups if g.name == "context")
    assert {m.layer for m in group.producers()} == {"context", "beside"}
    assert {m.layer for m in group.consumers()} == {"picture.1", "beside", "last"}


def test_one_group_that_cannot_be_removed_leaves_the_others_free():
    assert [g.name for g in find_groups(awkward.AddedSigmoid()).groups] == ["up.0"]
    # What is behind the slice's fixed start may become shorter, what is in front of it may not.
    groups = find_groups(awkward.SlicedAtFixedPlace()).groups
    assert [(g.name, g.size) for g in groups] == [("wide.part2", 3), ("left", 4)]


# ---------------------------------------------------------------------- manners


@named
def test_frozen_codecs_have_the_same_groups(kind):
    assert find_groups(kind().requires_grad_(False)) == find_groups(kind())


def test_frozen_layers_stay_frozen_when_they_shrink():
    codec = shaken(toys.Normalised()).requires_grad_(False)
    codec.up[2].requires_grad_(True)
    remove(codec, {"up.0": [1, 3], "up.2": [0]})
    trained = {name for name, p in codec.named_parameters() if p.requires_grad}
    assert trained == {"up.2.weight", "up.2.bias"}


def test_finding_groups_leaves_codec_and_random_numbers_alone():
    codec = toys.Carried().train()
    codec.mix.requires_grad_(False)
    frozen = {name for name, p in codec.named_parameters() if not p.requires_grad}
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    state = torch.get_rng_state()
    find_groups(codec)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in codec.modules())
    assert {name for name, p in codec.named_parameters() if not p.requires_grad} == frozen
    assert all(torch.equal(before[key], value) for key, value in codec.state_dict().items())
    assert not any(m._forward_hooks for m in codec.modules())


def test_groups_do_not_depend_on_the_weights():
    zero = toys.Carried()
    for parameter in zero.parameters():
        nn.init.zeros_(parameter)
    assert find_groups(zero) == find_groups(shaken(toys.Carried()))


def test_a_shrunk_codec_has_the_same_groups_with_fewer_channels():
    codec = shaken(toys.Carried())
    remove(codec, {g.name: list(range(g.size - 1)) for g in find_groups(codec).groups})
    sizes = {g.name: g.size for g in find_groups(codec).groups}
    assert sizes == {g.name: g.size - 1 for g in find_groups(toys.Carried()).groups}


@pytest.mark.parametrize("known", [False, True], ids=["found", "known"])
@pytest.mark.parametrize("kept", [{"no.such": [0]}, {"up.0": [6]}, {"up.0": [-1]}])
def test_kept_channels_that_do_not_fit_are_an_error_and_change_nothing(kept, known):
    codec = toys.Normalised()
    channels = find_groups(codec) if known else None
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    with pytest.raises(UserError, match="do not fit this codec"):
        remove(codec, kept, channels)
    assert all(torch.equal(before[key], value) for key, value in codec.state_dict().items())
