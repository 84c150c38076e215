"""DCVC-HEM and its intra codec: the official networks to the last tensor.

As in `test_dcvc`, comparisons with outputs of the official networks read a folder of reference
data, the environment variable LEANVC_REFERENCE or else `shared/reference` beside the repository,
and are skipped where there is none. The facts that must hold everywhere are written down here.
"""

import json
import os
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hem import INTRA, VIDEO, lively, picture, record
from reference_fill import fill

import vcodecs
from prune.macs import decoder_macs, encoder_macs, parameters
from vcodecs import Reference, UserError

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "reference"
REFERENCE = Path(os.environ.get("LEANVC_REFERENCE", BESIDE))
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "dcvc_hem_parity.npz").exists(),
    reason=f"no reference data in {REFERENCE}: set LEANVC_REFERENCE to their folder",
)
both_codecs = pytest.mark.parametrize("name", [VIDEO, INTRA])


@cache
def official(name):
    """The official preset with made-up weights. Nobody changes it."""
    return lively(name, "official")


# ---------------------------------------------------------------------- names, shapes, loading

TENSORS = {VIDEO: 406, INTRA: 175}
PARAMETERS = {VIDEO: 17_523_323, INTRA: 31_168_967}
LISTINGS = {VIDEO: "20fe953", INTRA: "1a59efd3"}
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


# ---------------------------------------------------------------------- outputs

COMPARED = {
    VIDEO: (
        {"motion": 3600.07, "motion_hyper": 228.887, "latent": 8528.12, "latent_hyper": 234.662},
        (0.486011, 0.110469),
    ),
    INTRA: ({"latent": 19273.3, "latent_hyper": 684.814}, (0.487613, 0.185101)),
}


@both_codecs
def test_the_official_preset_computes_what_it_did_when_it_was_compared_with_the_official_code(name):
    # At phase 1.1 every latent and every symbol stays 2e-4 away from a rounding tie.
    reference = Reference(picture(64, 64))
    coded = record(official(name), picture(64, 64, 1.1), reference, 1.5).coded
    bits, moments = COMPARED[name]
    assert {key: float(value) for key, value in coded.bits.items()} == pytest.approx(bits, 1e-4)
    assert (float(coded.frame.mean()), float(coded.frame.std())) == pytest.approx(moments, abs=1e-5)


@cache
def official_arrays(name):
    with np.load(REFERENCE / f"{name}_parity.npz") as arrays:
        return dict(arrays)


@cache
def our_arrays(name):
    """What our network makes of the frames of the reference data, under the same names."""
    theirs, codec = official_arrays(name), official(name)
    frames = torch.from_numpy(theirs["frames_u8"]).float() / 255
    rate = float(theirs["rate_index"])
    if name == INTRA:
        return _named(INTRA, record(codec, frames, Reference(frames), rate))
    ours, reference = {}, Reference(frames[:1])
    for t in (1, 2):
        frame = frames[t : t + 1]
        seen = record(codec, frame, reference, rate)
        with torch.no_grad():
            moved = codec(frame, reference, rate, upto="motion").frame
        named = _named(VIDEO, seen) | {"me_mse": (moved - frame).square().mean().numpy()}
        ours |= {f"p{t}/{key}": value for key, value in named.items()}
        reference = seen.coded.reference
    return ours


def _named(name, seen):
    tensors, features = (_of_the_i_frame if name == INTRA else _of_a_p_frame)(seen)
    named = {key: value[0].numpy() for key, value in tensors.items()}
    for key, value in features.items():
        feature = value[0].numpy()
        row, column = feature.shape[1] // 2 - 6, feature.shape[2] // 2 - 6
        named[f"{key}.crop"] = feature[:, row : row + 12, column : column + 12]
        named[f"{key}.channel_mean"] = feature.mean((1, 2))
        named[f"{key}.channel_std"] = feature.std((1, 2))
    streams = {"motion": "mv_y", "motion_hyper": "mv_z", "latent": "y", "latent_hyper": "z"}
    for stream, bits in seen.coded.bits.items():
        named[f"bits_{streams[stream]}"] = bits.numpy()[0]
    named["bpp"] = seen.coded.total_bits().numpy()[0] / seen.coded.frame[0, 0].numel()
    for module, made in seen.outputs.items():
        parts = [x for x in made if x is not None] if isinstance(made, tuple) else [made]
        for i, part in enumerate(parts):
            key = module if len(parts) == 1 else f"{module}[{i}]"
            named[f"trace/{key}"] = part.numpy().ravel()
    return named


def _of_a_p_frame(seen):
    into, out = seen.inputs, seen.outputs
    feature, shown = out["recon_generation_net"]
    tensors = {
        "est_flow": out["optic_flow"][0],
        "mv_y": into["mv_hyper_prior_encoder"][0],
        "mv_quant_step": into["mv_y_spatial_prior"][0].chunk(4, 1)[3],
        "mv_y_q": seen.symbols[0],
        "mv_scales_hat": seen.scales[0],
        "mv_z": out["mv_hyper_prior_encoder"],
        "mv_z_hat": into["mv_hyper_prior_decoder"][0],
        "mv_y_hat": into["mv_decoder"][0],
        "mv_hat": out["mv_decoder"],
        "y": into["contextual_hyper_prior_encoder"][0],
        "quant_step": into["y_spatial_prior"][0].chunk(4, 1)[3],
        "y_q": seen.symbols[1],
        "scales_hat": seen.scales[1],
        "z": out["contextual_hyper_prior_encoder"],
        "z_hat": into["contextual_hyper_prior_decoder"][0],
        "temporal_prior": out["temporal_prior_encoder"],
        "y_hat": into["contextual_decoder"][0],
        "recon_unclamped": shown,
    }
    contexts = {f"context{i + 1}": x for i, x in enumerate(out["context_fusion_net"])}
    return tensors, contexts | {"dec_feature": out["contextual_decoder"], "feature": feature}


def _of_the_i_frame(seen):
    into, out = seen.inputs, seen.outputs
    tensors = {
        "y": into["hyper_enc"][0],
        "quant_step": into["y_spatial_prior"][0].chunk(4, 1)[3],
        "y_q": seen.symbols[0],
        "scales_hat": seen.scales[0],
        "z": out["hyper_enc"],
        "z_hat": into["hyper_dec"][0],
        "y_hat": into["dec"][0],
        "x_hat_unclamped": out["refine"],
    }
    return tensors, {"dec_feature": out["dec"]}


def _parts(*features):
    return [f"{key}.{part}" for key in features for part in ("crop", "channel_mean", "channel_std")]


FEATURES = {
    VIDEO: [
        *("est_flow", "mv_y", "mv_quant_step", "mv_scales_hat", "mv_z", "mv_y_hat", "mv_hat"),
        *("y", "quant_step", "scales_hat", "z", "temporal_prior", "y_hat"),
        *_parts("context1", "context2", "context3", "dec_feature", "feature"),
    ],
    INTRA: ["y", "quant_step", "scales_hat", "z", "y_hat", *_parts("dec_feature")],
}
INTEGERS = {VIDEO: ["mv_y_q", "mv_z_hat", "y_q", "z_hat"], INTRA: ["y_q", "z_hat"]}
PICTURES = {VIDEO: ["recon_unclamped"], INTRA: ["x_hat_unclamped"]}
FIGURES = {
    VIDEO: ["bits_mv_y", "bits_mv_z", "bits_y", "bits_z", "bpp", "me_mse"],
    INTRA: ["bits_y", "bits_z", "bpp"],
}
FRAMES = [(VIDEO, "p1/"), (VIDEO, "p2/"), (INTRA, "")]


def every(tensors):
    """Each of these tensors of each frame."""
    cases = [(name, frame + key) for name, frame in FRAMES for key in tensors[name]]
    return pytest.mark.parametrize(("name", "key"), cases)


@needs_reference
@every(INTEGERS)
def test_the_symbols_are_those_of_the_official_network(name, key):
    assert np.array_equal(our_arrays(name)[key], official_arrays(name)[key])


@needs_reference
@every(FEATURES)
def test_the_features_are_those_of_the_official_network(name, key):
    theirs = official_arrays(name)[key]
    difference = np.abs(our_arrays(name)[key] - theirs)
    assert difference.shape == theirs.shape
    assert difference.max() <= 2e-4
    assert difference.mean() <= 1e-4 * theirs.std()


@needs_reference
@every(PICTURES)
def test_the_decoded_picture_is_that_of_the_official_network(name, key):
    ours, theirs = our_arrays(name)[key], official_arrays(name)[key]
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2e-5


@needs_reference
@every(FIGURES)
def test_estimated_bits_and_errors_are_those_of_the_official_network(name, key):
    theirs = float(official_arrays(name)[key])
    assert float(our_arrays(name)[key]) == pytest.approx(theirs, rel=1e-5)


@needs_reference
@pytest.mark.parametrize(("name", "frame"), FRAMES)
def test_every_module_puts_out_what_the_official_one_does(name, frame):
    theirs = {key: official_arrays(name)[f"{frame}trace.{key}"] for key in TRACE}
    for module, probe, (mean, std) in zip(*theirs.values(), strict=True):
        ours = our_arrays(name)[f"{frame}trace/{module}"]
        places = np.arange(64) * (ours.size - 1) // 63
        assert np.abs(ours[places] - probe).max() <= 2e-4, module
        assert ours.mean(dtype=np.float64) == pytest.approx(mean, abs=2e-5), module
        assert ours.std(dtype=np.float64) == pytest.approx(std, rel=1e-4), module


TRACE = ("names", "probe", "mean_std")


@needs_reference
@both_codecs
def test_a_whole_rate_is_the_official_rate_point_of_that_number(name):
    arrays, state = official_arrays(name), official(name).state_dict()
    for key in ("q_scale",) if name == INTRA else ("y_q_scale", "mv_y_q_scale"):
        assert state[key].flatten()[int(arrays["rate_index"])] == float(arrays[key])


@needs_reference
@pytest.mark.parametrize(("name", "frame"), FRAMES)
def test_nothing_in_the_reference_data_is_left_uncompared(name, frame):
    compared = {*FEATURES[name], *INTEGERS[name], *PICTURES[name], *FIGURES[name]}
    about = ("trace.", "tie_margin", "frame", "rate_index")
    held = {key.removeprefix(frame) for key in official_arrays(name) if key.startswith(frame)}
    assert {key for key in held if not key.startswith(about) and "q_scale" not in key} == compared
