"""DCVC-HEM and its intra codec compute what the official networks do, to the last tensor.

Most of it reads the reference data, see `test_dcvc_hem`.
"""

from functools import cache

import numpy as np
import pytest
import torch
from hem import INTRA, VIDEO, both_codecs, needs_reference, official, record
from reference_fill import REFERENCE, extracts, picture

from vcodecs import Reference

pytestmark = pytest.mark.parity

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
        named = _named(VIDEO, seen)
        named["me_mse"] = (moved - frame).square().sum(1).mean().numpy()  # its colours add up
        ours |= {f"p{t}/{key}": value for key, value in named.items()}
        reference = seen.coded.reference
    return ours


def _named(name, seen):
    tensors, features = (_of_the_i_frame if name == INTRA else _of_a_p_frame)(seen)
    named = {key: value[0].numpy() for key, value in tensors.items()}
    named |= extracts(features)
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
