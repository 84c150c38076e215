"""DCVC-SDD and NVC-1B: sizes, names of the public code's state dict, what a P frame is made of."""

import pytest
import torch
from sdd import clip, lively, on_shapes
from torch.nn import functional as F

from prune.measure.macs import decoder_macs, encoder_macs
from vcodecs import Reference, UserError
from vcodecs.dcvc_sdd.blocks import ConvLSTM, DepthConvBlock, OffsetDiversity, split
from vcodecs.motion import MovedGroups, warp


def size(codec, *prefixes):
    """Parameters of the modules (or own parameters) whose names start so, all without any."""
    parts = codec.named_parameters()
    return sum(p.numel() for name, p in parts if not prefixes or name.startswith(prefixes))


# Of the public baseline, by module.
BASELINE = {
    "optic_flow": 960_200,
    "mv_encoder": 426_112,
    "mv_decoder": 379_856,
    "mv_hyper_prior_encoder": 184_640,
    "mv_hyper_prior_decoder": 144_064,
    "mv_y_prior_fusion_adaptor_0": 153_152,
    "mv_y_prior_fusion_adaptor_1": 166_016,
    "mv_y_prior_fusion.": 735_104,
    "mv_y_spatial_prior_adaptor_": 3 * 49_344,
    "mv_y_spatial_prior.": 963_904,
    "bit_estimator_z_mv": 704,
    "feature_adaptor_I": 1_344,
    "feature_adaptor.": 2_352,
    "feature_adaptor2": 2_352,
    "feature_adaptor3": 2_352,
    "lstm": 166_080,
    "feature_extractor.": 385_392,
    "feature_extractor_hidden": 385_392,
    "align_s": 123_248,
    "align_d": 123_248,
    "context_fusion_net.": 1_038_096,
    "context_fusion_net_hidden": 1_038_096,
    "context_hidden_fusion": 281_296,
    "contextual_encoder": 896_544,
    "contextual_decoder": 1_844_832,
    "recon_generation_net": 2_053_251,
    "contextual_hyper_prior_encoder": 442_752,
    "contextual_hyper_prior_decoder": 574_848,
    "temporal_prior_encoder": 193_760,
    "y_prior_fusion_adaptor_0": 1_053_568,
    "y_prior_fusion_adaptor_1": 1_087_360,
    "y_prior_fusion.": 2_174_720,
    "y_spatial_prior_adaptor_": 3 * 196_992,
    "y_spatial_prior.": 3_049_088,
    "bit_estimator_z.": 1_408,
}
MOTION_ENTROPY = ("mv_hyper", "mv_y_prior", "mv_y_spatial", "bit_estimator_z_mv")
ENTROPY = (*("contextual_hyper", "temporal_prior", "y_prior", "y_spatial", "bit_estimator_z."),)
MINING = ("feature_", "lstm", "align_", "context_")
# Table I of the paper, in millions.
TABLE = {
    0.96: ("optic_flow",),
    0.81: ("mv_encoder", "mv_decoder"),
    2.50: MOTION_ENTROPY,
    504.59: ("contextual_encoder", "contextual_decoder", "recon_generation_net"),
    435.88: ENTROPY,
    411.21: MINING,
}
# What the paper's figures say of the models on the way, in whole millions, cut off.
MODELS = {
    **{"official": 21, "m1": 52, "m2": 71, "m3": 96, "m4": 128, "m5": 177, "m6": 226, "m7": 50},
    **{"m8": 77, "m9": 90, "m10": 92, "m11": 199, "m12": 212, "m13": 26, "m14": 47, "m15": 75},
    **{"m16": 144, "m17": 252, "m18": 265},
}


def test_the_baseline_has_the_public_codes_parameters_module_by_module():
    codec = on_shapes("official")
    assert {name: size(codec, name) for name in BASELINE} == BASELINE
    assert size(codec) - size(codec, *BASELINE) == 336  # rate factors
    assert size(codec) == 21_774_475


def test_nvc_1b_has_the_papers_size_module_by_module():
    codec = on_shapes("nvc_1b")
    for millions, modules in TABLE.items():
        assert size(codec, *modules) / 1e6 == pytest.approx(millions, rel=0.01)
    assert size(codec) / 1e6 == pytest.approx(1355.95, rel=0.01)


@pytest.mark.parametrize("preset", MODELS)
def test_the_models_on_the_way_have_the_papers_totals(preset):
    assert size(on_shapes(preset)) / 1e6 == pytest.approx(MODELS[preset] + 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("preset", "receiver", "sender"), [("official", 3.22, 1.56), ("nvc_1b", 78.6, 10.8)]
)
def test_macs_of_a_full_size_frame_are_counted_on_shapes_alone(preset, receiver, sender):
    codec = on_shapes(preset)
    assert decoder_macs(codec, 1088, 1920).total / 1e12 == pytest.approx(receiver, rel=0.01)
    assert encoder_macs(codec, 1088, 1920).total / 1e12 == pytest.approx(sender, rel=0.01)


def test_the_state_dict_has_the_public_names():
    state = on_shapes("official").state_dict()
    shapes = {
        "mv_encoder.enc_1.1.block.0.conv1.0.weight": (64, 64, 1, 1),
        "mv_encoder.adaptor_1.block.0.adaptor.weight": (64, 128, 1, 1),
        "mv_decoder.dec_1.4.block.1.conv.2.bias": (64,),
        "mv_decoder.out_d.0.weight": (8, 64, 1, 1),
        "align_s.conv_offset.4.weight": (96, 64, 3, 3),
        "align_s.fusion.weight": (48, 6, 1, 1),
        "recon_generation_net.unet_2.up_conv2.block.0.depth_conv.weight": (64, 1, 3, 3),
        "y_q_basic_enc": (1, 128, 1, 1),
        "y_q_basic_dec": (1, 64, 1, 1),
        "mv_y_q_scale_dec": (4, 1, 1, 1),
        "context_hidden_fusion3.weight": (96, 192, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_a_public_state_dict_loads_strictly():
    source, target = lively("tiny"), lively("tiny")
    state = {f"module.{k}": v + 1 for k, v in source.state_dict().items()}
    target.load_official(state)
    assert torch.equal(target.lstm.conv.bias, source.lstm.conv.bias + 1)
    del state["module.lstm.conv.bias"]
    with pytest.raises(UserError, match=r"lstm\.conv\.bias"):
        target.load_official(state)


# ---------------------------------------------------------------------- blocks


def test_structure_is_what_half_the_size_can_show_and_detail_is_the_rest():
    flat, picture = torch.full((1, 2, 8, 8), 0.3), torch.rand(1, 2, 8, 8)
    assert torch.allclose(split(flat)[0], flat) and split(flat)[1].abs().max() < 1e-6
    structure, detail = split(picture)
    assert torch.allclose(structure + detail, picture, atol=1e-6)
    half = F.interpolate(picture, scale_factor=0.5, mode="bilinear", align_corners=False)
    double = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(structure, double, atol=1e-6)


@torch.no_grad()
def test_a_depthwise_block_is_two_halves_each_beside_a_skip():
    block, x = DepthConvBlock(4, 6), torch.randn(1, 4, 5, 5)
    first, second = block.block
    inside = first.depth_conv(F.leaky_relu(first.conv1[0](x), 0.01))
    middle = first.adaptor(x) + first.conv2(inside)
    wide = F.leaky_relu(second.conv[0](middle), 0.1)
    expected = middle + F.leaky_relu(second.conv[2](wide), 0.1)
    assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.mark.parametrize(("channels", "inside"), [(64, 256), (384, 1024), (512, 1024), (960, 1920)])
def test_the_inside_of_a_depthwise_block_is_four_times_as_wide_but_bounded(channels, inside):
    with torch.device("meta"):
        assert DepthConvBlock(channels, channels).block[1].conv[0].out_channels == inside


@torch.no_grad()
def test_a_recurrent_cell_follows_its_equations():
    cell, x = ConvLSTM(3), torch.randn(1, 3, 6, 6)
    before = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 6, 6)
    i, f, o, g = cell.conv(torch.cat((x, before[0]), dim=1)).chunk(4, 1)
    state = f.sigmoid() * before[1] + i.sigmoid() * g.tanh()
    hidden, kept = cell(x, before)
    assert torch.allclose(kept, state, atol=1e-6)
    assert torch.allclose(hidden, o.sigmoid() * state.tanh(), atol=1e-6)
    zeros = torch.zeros_like(x)
    assert all(map(torch.equal, cell(x, None), cell(x, (zeros, zeros))))


def test_groups_move_by_their_own_motion_place_by_place():
    x = torch.rand(2, 6, 8, 8)
    motion, gates = torch.randn(2, 2 * 3 * 2, 8, 8), torch.rand(2, 6, 8, 8)
    moved = MovedGroups(groups=3, places=2)(x, motion, gates)
    for n in range(2):  # also of two pictures each by its own
        for pair in range(6):
            group = x[n : n + 1, 2 * (pair % 3) : 2 * (pair % 3) + 2]
            expected = warp(group, motion[n : n + 1, 2 * pair : 2 * pair + 2]) * gates[n, pair]
            found = moved[n : n + 1, 2 * pair : 2 * pair + 2]
            assert torch.allclose(found, expected, atol=1e-6)


@torch.no_grad()
def test_offset_diversity_without_offsets_is_a_gated_warp():
    align = OffsetDiversity(8, groups=4, width=8)
    last = align.conv_offset[4]
    last.weight.zero_(), last.bias.zero_()
    feature, picture = torch.rand(1, 8, 16, 16), torch.rand(1, 3, 16, 16)
    motion = torch.randn(1, 2, 16, 16)
    moved = warp(feature, motion) / 2  # gates of zero are a half
    expected = align.fusion(torch.cat((moved, moved), dim=1))
    assert torch.allclose(align(feature, picture, motion), expected, atol=1e-6)


# ---------------------------------------------------------------------- P frames


@torch.no_grad()
def chain(codec, frames, rate=1.0):
    """Codes `frames` behind the first of them; yields (reference before, coded)."""
    reference = Reference(frames[:1])
    for t in range(1, len(frames)):
        coded = codec(frames[t : t + 1], reference, rate)
        yield reference, coded
        reference = coded.reference


def test_the_kept_feature_is_read_by_one_of_three_adaptors_in_turn():
    codec, seen = lively(), []
    names = ("feature_adaptor_I", "feature_adaptor", "feature_adaptor2", "feature_adaptor3")
    for name in names:
        layer = codec.get_submodule(name)
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    assert len(list(chain(codec, clip(8)))) == 7
    first, one, two, three = names
    assert seen == [first, one, three, one, two, one, three]


def test_the_long_term_context_has_not_seen_the_last_frame_yet():
    codec = lively()
    (_, first), (reference, _) = list(chain(codec, clip(3)))
    seen = []
    hook = codec.feature_extractor_hidden.register_forward_hook(
        lambda _module, given, _made: seen.append(given[0])
    )
    with torch.no_grad():
        codec(clip(3)[2:3], reference, 1.0)
    hook.remove()
    assert len(seen) == 1 and torch.equal(seen[0], first.reference.state["hidden"])


def test_what_is_kept_has_the_sizes_of_the_specification():
    reference = next(iter(chain(lively(), clip(2, 64, 128))))[1].reference
    shapes = {name: tuple(value.shape[1:]) for name, value in reference.tensors().items()}
    full, latent = (16, 64, 128), (16, 4, 8)
    assert shapes == {
        "frame": (3, 64, 128),
        "feature": full,
        "latent": latent,
        "motion_latent": latent,
        "motion_feature": (16, 16, 32),
        "hidden": full,
        "cell": full,
    }
    assert reference.position == 1


def test_a_higher_rate_point_multiplies_the_features_inside_the_transforms():
    codec = lively()
    with torch.no_grad():
        low, high = (codec.factor("y", "enc", rate) for rate in (0.0, 3.0))
    scales = codec.scales("y", "enc").flatten()
    assert torch.allclose(high / low, (scales[3] / scales[0]).expand_as(low))
    assert low.shape == (1, codec.presets["tiny"].contextual[0] + 16, 1, 1)


def test_a_rate_is_needed_and_has_to_be_within_range():
    codec, frame = lively(), clip(1)
    for rate in (None, -0.1, 3.1):
        with pytest.raises(UserError, match="0 to 3"):
            codec(frame, Reference(frame), rate)
