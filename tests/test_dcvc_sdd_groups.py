"""Channel groups of DCVC-SDD: depthwise blocks, grouped convolutions, a recurrent cell."""

import pytest
from sdd import clip, lively

from prune.groups.find import find_groups
from prune.groups.shrink import largest_difference, masked_copy, shrunk_copy
from prune.measure.macs import decoder_macs
from prune.sparsify.cost import CostModel


@pytest.fixture(scope="module")
def codec():
    return lively()


@pytest.fixture(scope="module")
def channels(codec):
    return find_groups(codec)


def group_of(channels, layer):
    return next(g for g in channels.groups if layer in {m.layer for m in g.producers()})


def thinned(channels):
    return {g.name: [c for c in range(g.size) if c % 3 != 1] for g in channels.groups}


def test_every_layer_of_the_decoder_is_in_a_group_or_says_why_it_stays(codec, channels):
    reasons = ("latent", "motion vector", "result of the decoder", "no convolution")
    assert all(any(part in reason for part in reasons) for reason in channels.fixed.values())
    known = {m.layer for g in channels.groups for m in g.producers()} | channels.fixed.keys()
    for name in codec.decoder_modules():
        for inner, layer in codec.get_submodule(name).named_modules():
            full = f"{name}.{inner}" if inner else name
            if any(True for _ in layer.parameters(recurse=False)):
                assert any(full == k or full.startswith(f"{k}.") for k in known), full


def test_features_of_every_scale_can_go_though_the_decoder_joins_them(channels):
    for layer in (
        "feature_extractor.conv2",
        "feature_extractor.conv3",
        "context_fusion_net.res_block1_out.conv1",
    ):
        assert group_of(channels, layer).width == 1
    assert not [why for why in channels.fixed.values() if "not alike" in why]


def test_shrunk_codes_as_masked_does_in_every_turn_of_the_adaptors(codec, channels):
    kept = thinned(channels)
    masked, shrunk = masked_copy(codec, channels, kept), shrunk_copy(codec, kept, channels)
    assert largest_difference(masked, shrunk, [clip(7, 64, 128)]) < 1e-5


def test_what_is_left_costs_what_the_model_says(codec, channels):
    kept = thinned(channels)
    model = CostModel(codec, channels, 128, 128)
    counts = model.sizes.new_tensor([len(kept[g.name]) for g in channels.groups])
    shrunk = shrunk_copy(codec, kept, channels)
    assert float(model.total(counts)) == pytest.approx(decoder_macs(shrunk, 128, 128).total)


def test_a_depthwise_layer_goes_with_what_it_reads(channels):
    group = group_of(channels, "mv_decoder.dec_3.block.0.depth_conv")
    assert {m.layer for m in group.producers()} >= {"mv_decoder.dec_3.block.0.conv1.0"}
    assert group.width == 1


def test_moved_features_lose_the_same_channels_of_each_group(channels):
    group = group_of(channels, "feature_extractor.conv1")
    assert (group.size, group.width) == (4, 4)
    rows = next(m.channels for m in group.members if m.layer == "feature_extractor.conv1")
    assert rows[1] == (1, 5, 9, 13)
    into = next(m.channels for m in group.members if m.layer == "align_s.fusion")
    assert all(len(row) == 8 for row in into)  # of two places


def test_the_recurrent_cells_gates_and_state_are_one_group(channels):
    group = group_of(channels, "lstm.conv")
    rows = next(m.channels for m in group.members if (m.layer, m.side) == ("lstm.conv", "out"))
    assert rows[3] == (3, 19, 35, 51)
    read = next(m.channels for m in group.members if (m.layer, m.side) == ("lstm.conv", "in"))
    assert read[3] == (16 + 3,)
    layers = {m.layer for m in group.members}
    assert {"exit:reference_hidden", "exit:reference_cell"} <= layers


def test_the_adaptors_are_one_group_though_they_take_turns(channels):
    group = group_of(channels, "feature_adaptor_I")
    made = {m.layer for m in group.producers()}
    assert made == {f"feature_adaptor{which}" for which in ("", "2", "3", "_I")}
