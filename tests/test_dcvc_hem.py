"""DCVC-HEM and its intra codec: names, sizes and costs of the official networks.

As in `test_dcvc`, comparisons with the official ones read a folder of reference data, the
environment variable LEANVC_REFERENCE or else `shared/reference` beside the repository, and are
skipped where there is none. The facts that must hold everywhere are written down here.
"""

import json
import zlib

import pytest
import torch
from hem import INTRA, VIDEO, both_codecs, lively, needs_reference, official
from reference_fill import REFERENCE, fill

import vcodecs
from prune.measure.macs import decoder_macs, encoder_macs, parameters
from vcodecs import UserError

# ---------------------------------------------------------------------- names, shapes, loading

TENSORS = {VIDEO: 406, INTRA: 175}
PARAMETERS = {VIDEO: 17_523_323, INTRA: 31_168_967}
LISTINGS = {VIDEO: "f20fe953", INTRA: "1a59efd3"}
SHAPES = {
    VIDEO: {
        "y_q_basic": (1, 96, 1, 1),
        "mv_y_q_basic": (1, 64, 1, 1),
        "y_q_scale": (4, 1, 1, 1),
        "mv_y_q_scale": (4, 1, 1, 1),
        "optic_flow.moduleBasic.3.conv2.weight": (64, 32, 7, 7),
        "mv_encoder.0.downsample.weight": (64, 2, 1, 1),
        "mv_hyper_prior_decoder.6.0.weight": (384, 96, 1, 1),
        "mv_decoder.7.0.weight": (8, 64, 1, 1),
        "feature_extractor.res_block2.conv1.weight": (64, 64, 3, 3),
        "context_fusion_net.conv2_up.0.weight": (256, 128, 3, 3),
        "contextual_encoder.res1.conv1.weight": (64, 128, 3, 3),
        "temporal_prior_encoder.2.weight": (192, 144, 3, 3),
        "y_prior_fusion.0.weight": (384, 480, 3, 3),
        "recon_generation_net.unet_1.conv3.conv.3.fc.0.weight": (8, 128),
        "recon_generation_net.unet_2.up_conv2.up_dim.weight": (64, 64, 1, 1),
        "bit_estimator_z_mv.f4.h": (1, 64, 1, 1),
    },
    INTRA: {
        "q_basic": (1, 192, 1, 1),
        "q_scale": (4, 1, 1, 1),
        "enc.6.weight": (192, 192, 3, 3),
        "hyper_dec.8.weight": (384, 288, 3, 3),
        "y_spatial_prior.0.weight": (576, 768, 3, 3),
        "dec.7.0.weight": (64, 192, 1, 1),
        "refine.0.up_conv2.up_dim.weight": (16, 64, 1, 1),
        "refine.1.weight": (3, 16, 3, 3),
    },
}


@both_codecs
def test_the_official_preset_has_the_published_size(name):
    state = official(name).state_dict()
    assert sum(value.numel() for value in official(name).parameters()) == PARAMETERS[name]
    assert sum(value.numel() for value in state.values()) == PARAMETERS[name], "no buffers"
    assert len(state) == TENSORS[name]
    assert {value.dtype for value in state.values()} == {torch.float32}
    for key, shape in SHAPES[name].items():
        assert tuple(state[key].shape) == shape, key


@both_codecs
def test_the_official_preset_has_the_published_names_and_shapes(name):
    state = official(name).state_dict()
    listing = "\n".join(f"{key} {tuple(state[key].shape)}" for key in sorted(state))
    assert f"{zlib.crc32(listing.encode()):08x}" == LISTINGS[name]


@needs_reference
@both_codecs
def test_names_shapes_and_counts_are_those_of_the_official_class(name):
    theirs = json.loads((REFERENCE / f"{name}_params.json").read_text())
    state = official(name).state_dict()
    listed = {key: (tuple(shape), dtype) for key, shape, dtype in theirs["state_dict"]}
    assert {
        key: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in state.items()
    } == listed
    assert (TENSORS[name], PARAMETERS[name]) == (theirs["num_tensors"], theirs["num_parameters"])
    assert theirs["num_buffer_elements"] == 0


def test_made_up_weights_are_the_same_everywhere():
    for key, shape, checksum in MADE_UP:
        assert f"{zlib.crc32(fill(key, shape).astype('<f4').tobytes()):08x}" == checksum, key


MADE_UP = [
    ("contextual_encoder.conv4.weight", (96, 64, 3, 3), "1a4d4ee3"),
    ("y_prior_fusion.4.bias", (288,), "425fc873"),
    ("mv_y_q_scale", (4, 1, 1, 1), "2e3c4b70"),
    ("refine.1.weight", (3, 16, 3, 3), "3d171cb7"),
]


@needs_reference
@both_codecs
def test_the_weights_of_the_reference_data_can_be_made_again(name):
    checksums = json.loads((REFERENCE / "fill_checksums.json").read_text())[name]
    state = official(name).state_dict()
    made = {key: f"{zlib.crc32(value.numpy().tobytes()):08x}" for key, value in state.items()}
    assert made == checksums


@both_codecs
@pytest.mark.parametrize("wrapped", [None, "state_dict", "net"])
def test_a_released_file_is_loaded_as_it_is_wrapped(name, wrapped, tmp_path):
    source = lively(name)
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({wrapped: state} if wrapped else state, tmp_path / "released.pth.tar")
    codec = vcodecs.create(name, "tiny", tmp_path / "released.pth.tar")
    loaded = codec.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items())


@both_codecs
def test_loading_is_strict(name):
    codec, state = vcodecs.create(name, "tiny"), lively(name).state_dict()
    scale = "q_scale" if name == INTRA else "y_q_scale"
    changed = {
        "bit_estimator_z.f1.a": {k: v for k, v in state.items() if k != "bit_estimator_z.f1.a"},
        "surplus": state | {"surplus": torch.zeros(1)},
        scale: state | {scale: torch.ones(5, 1, 1, 1)},
    }
    for told, wrong in changed.items():
        with pytest.raises(UserError, match=f"does not fit {name}, preset tiny: .*{told}"):
            codec.load_official(wrong)


# ---------------------------------------------------------------------- cost

DECODER_MACS = {
    VIDEO: {
        "mv_hyper_prior_decoder": 1_117_593_600,
        "mv_y_prior_fusion": 8_121_876_480,
        "mv_y_spatial_prior": 8_121_876_480,
        "mv_decoder": 82_288_312_320,
        "feature_adaptor_I": 0,  # behind an I frame 3.6 G, in place of feature_adaptor_P
        "feature_adaptor_P": 8_556_380_160,
        "feature_extractor": 303_216_721_920,
        "context_fusion_net": 765_261_250_560,
        "contextual_hyper_prior_decoder": 2_500_485_120,
        "temporal_prior_encoder": 4_737_761_280,
        "y_prior_fusion": 27_749_744_640,
        "y_spatial_prior": 18_274_222_080,
        "contextual_decoder": 218_388_234_240,
        "recon_generation_net": 1_137_330_101_504,
        "bit_estimator_z": 0,
        "bit_estimator_z_mv": 0,
    },
    INTRA: {
        "hyper_dec": 10_058_342_400,
        "y_prior_fusion": 64_975_011_840,
        "y_spatial_prior": 73_096_888_320,
        "dec": 744_605_614_080,
        "refine": 341_553_319_072,
        "bit_estimator_z": 0,
    },
}
ENCODER_MACS = {
    VIDEO: {
        "optic_flow": 665_589_657_600,
        "mv_encoder": 83_458_129_920,
        "mv_hyper_prior_encoder": 770_826_240,
        "contextual_encoder": 128_897_187_840,
        "contextual_hyper_prior_encoder": 545_218_560,
    },
    INTRA: {"enc": 748_115_066_880, "hyper_enc": 6_937_436_160},
}
TOTAL_MACS = {VIDEO: 2_585_664_560_384, INTRA: 1_234_289_175_712}


@both_codecs
def test_every_module_of_the_decoder_takes_the_macs_of_the_official_one(name):
    found = decoder_macs(official(name), 1088, 1920)
    assert found.by_module == DECODER_MACS[name]
    assert found.total == TOTAL_MACS[name]


@both_codecs
def test_every_module_of_the_sender_alone_takes_the_macs_of_the_official_one(name):
    assert encoder_macs(official(name), 1088, 1920).by_module == ENCODER_MACS[name]


@needs_reference
@both_codecs
def test_the_costs_written_down_here_are_those_of_the_reference(name):
    theirs = json.loads((REFERENCE / "macs.json").read_text())["codecs"][name]["modules"]
    for role, ours in (("decoder", DECODER_MACS[name]), ("encoder", ENCODER_MACS[name])):
        modules = {key: entry for key, entry in theirs.items() if entry["role"].startswith(role)}
        macs = {key: entry["macs_1920x1088"] for key, entry in modules.items()}
        if "feature_adaptor_I" in macs:
            assert "replaces feature_adaptor_P" in modules["feature_adaptor_I"]["note"]
            macs["feature_adaptor_I"] = 0
        assert ours == macs
        assert {key: parameters(official(name), (key,)) for key in ours} == {
            key: entry["params"] for key, entry in modules.items()
        }
