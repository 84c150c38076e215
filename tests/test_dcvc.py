"""DCVC: the official network to the last tensor, and a receiver that needs nothing of the encoder.

The comparisons with outputs of the official network read a folder of reference data, the
environment variable LEANVC_REFERENCE or else `shared/reference` beside the repository; they are
skipped where there is none. The facts that must hold everywhere are written down here.
"""

import copy
import json
import zlib

import numpy as np
import pytest
import torch
from reference_fill import REFERENCE, fill, fill_codec, needs, picture

import vcodecs
from prune.evaluation.coding_loop import RealLoop
from vcodecs import Reference
from vcodecs.dcvc.video import ENCODER_ONLY
from vcodecs.layers import fold
from vcodecs.motion import warp

needs_reference = needs("dcvc_parity.npz")


def lively(preset="tiny"):
    """A codec with latents, motion and pictures that are far from zero."""
    return fill_codec(vcodecs.create("dcvc", preset)).eval()


def record(codec, frame, reference):
    """Code one frame: the result, and what went in and out of every module and Laplace model."""
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            seen.setdefault(name, []).append((*inputs, output))

        return hook

    hooks = [child.register_forward_hook(keep(name)) for name, child in codec.named_children()]
    with torch.no_grad():
        coded = codec(frame, reference)
    for hook in hooks:
        hook.remove()
    return coded, seen


# ---------------------------------------------------------------------- the official network


OFFICIAL_SHAPES = {
    "opticFlow.moduleBasic.3.conv2.weight": (64, 32, 7, 7),
    "mvEncoder.1.gamma": (128, 128),
    "mvpriorDecoder.2.weight": (64, 96, 5, 5),
    "auto_regressive_mv.mask": (256, 128, 5, 5),
    "entropy_parameters_mv.0.weight": (426, 512, 1, 1),
    "mvDecoder_part2.12.weight": (2, 64, 3, 3),
    "contextualEncoder.0.weight": (64, 67, 5, 5),
    "temporalPriorEncoder.6.weight": (96, 64, 5, 5),
    "contextualDecoder_part1.0.0.weight": (256, 96, 3, 3),
    "bitEstimator_z_mv.f4.h": (1, 64, 1, 1),
}


def test_the_official_preset_has_the_published_size():
    codec = vcodecs.create("dcvc")
    state = codec.state_dict()
    assert sum(value.numel() for value in codec.parameters()) == 7_944_448
    assert len(state) == 228
    assert {value.dtype for value in state.values()} == {torch.float32}
    for name, shape in OFFICIAL_SHAPES.items():
        assert tuple(state[name].shape) == shape, name


def test_the_official_preset_has_the_published_names_and_shapes():
    state = vcodecs.create("dcvc").state_dict()
    listing = "\n".join(f"{name} {tuple(state[name].shape)}" for name in sorted(state))
    assert f"{zlib.crc32(listing.encode()):08x}" == "db7f39c7"


def test_made_up_weights_are_the_same_everywhere():
    weight = fill("contextualEncoder.0.weight", (64, 67, 5, 5))
    assert f"{zlib.crc32(weight.astype('<f4').tobytes()):08x}" == "b69d373c"
    gamma = fill("mvEncoder.1.gamma", (128, 128))
    assert f"{zlib.crc32(gamma.astype('<f4').tobytes()):08x}" == "f445ac86"


def test_the_official_preset_computes_what_it_did_when_it_was_compared_with_the_official_code():
    codec = lively("official")
    # At phase 1.1 every latent stays 2.7e-4 away from a rounding tie.
    coded, _ = record(codec, picture(64, 64, 1.1), Reference(picture(64, 64)))
    bits = {"motion": 7755.18, "motion_hyper": 221.85, "latent": 5023.46, "latent_hyper": 224.02}
    assert {name: float(value) for name, value in coded.bits.items()} == pytest.approx(bits, 1e-4)
    assert float(coded.frame.mean()) == pytest.approx(0.213819, abs=1e-5)
    assert float(coded.frame.std()) == pytest.approx(0.133102, abs=1e-5)


@needs_reference
def test_the_weights_of_the_reference_data_can_be_made_again():
    checksums = json.loads((REFERENCE / "fill_checksums.json").read_text())["dcvc"]
    state = lively("official").state_dict()
    made = {name: f"{zlib.crc32(value.numpy().tobytes()):08x}" for name, value in state.items()}
    assert made == checksums


@needs_reference
def test_names_shapes_and_counts_are_those_of_the_official_class():
    official = json.loads((REFERENCE / "dcvc_params.json").read_text())
    codec = vcodecs.create("dcvc")
    state = codec.state_dict()
    listed = {name: (tuple(shape), dtype) for name, shape, dtype in official["state_dict"]}
    assert {
        name: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in state.items()
    } == listed
    assert len(state) == official["num_tensors"]
    parameters = sum(value.numel() for value in codec.parameters())
    assert parameters == official["num_parameters"]
    saved = sum(value.numel() for value in state.values())
    assert saved - parameters == official["num_buffer_elements"]


@pytest.fixture(scope="module")
def official_arrays():
    with np.load(REFERENCE / "dcvc_parity.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def our_arrays(official_arrays):
    """What our network makes of the frames of the reference data, under the same names."""
    codec = lively("official")
    frames = torch.from_numpy(official_arrays["frames_u8"]).float() / 255
    ours, reference = {}, Reference(frames[:1])
    for t in (1, 2):
        coded, seen = record(codec, frames[t : t + 1], reference)
        ours |= {f"p{t}/{name}": value for name, value in _named(coded, seen).items()}
        reference = coded.reference
    return ours


def _named(coded, seen):
    once = {name: calls[0] for name, calls in seen.items()}
    (motion, motion_mean, motion_scale, _), (latent, mean, scale, _) = seen["laplace"]
    tensors = {
        "est_flow": once["opticFlow"][-1],
        "mv_y": motion,
        "mv_z": once["mvpriorEncoder"][-1],
        "mv_y_hat": once["auto_regressive_mv"][0],
        "mv_z_hat": once["mvpriorDecoder"][0],
        "mv_means": motion_mean,
        "mv_scales": motion_scale,
        "mv_refined": once["mvDecoder_part1"][-1] + once["mvDecoder_part2"][-1],
        "temporal_prior": once["temporalPriorEncoder"][-1],
        "y": latent,
        "z": once["priorEncoder"][-1],
        "y_hat": once["auto_regressive"][0],
        "z_hat": once["priorDecoder"][0],
        "means": mean,
        "scales": scale,
        "sym_mv_y": (motion - motion_mean).round(),
        "sym_y": (latent - mean).round(),
        "recon_unclamped": once["contextualDecoder_part2"][-1],
    }
    named = {name: value[0].numpy() for name, value in tensors.items()}
    for name, module in (("context", "context_refine"), ("dec_feature", "contextualDecoder_part1")):
        feature = once[module][-1][0].numpy()
        row, column = feature.shape[1] // 2 - 6, feature.shape[2] // 2 - 6
        named[f"{name}.crop"] = feature[:, row : row + 12, column : column + 12]
        named[f"{name}.channel_mean"] = feature.mean((1, 2))
        named[f"{name}.channel_std"] = feature.std((1, 2))
    streams = {"motion": "mv_y", "motion_hyper": "mv_z", "latent": "y", "latent_hyper": "z"}
    for stream, short in streams.items():
        named[f"bits_{short}"] = coded.bits[stream].numpy()[0]
    named["bpp"] = coded.total_bits().numpy()[0] / coded.frame[0, 0].numel()
    for name, call in once.items():
        named[f"trace/{name}"] = call[-1].numpy().ravel()
    return named


FEATURES = [
    *("est_flow", "mv_y", "mv_z", "mv_means", "mv_scales", "mv_refined"),
    *("temporal_prior", "y", "z", "means", "scales"),
    *(f"{name}.{part}" for name in ("context", "dec_feature") for part in ("crop", "channel_mean")),
    *(f"{name}.channel_std" for name in ("context", "dec_feature")),
]
INTEGERS = ["mv_y_hat", "mv_z_hat", "y_hat", "z_hat", "sym_mv_y", "sym_y"]
BITS = ["bits_mv_y", "bits_mv_z", "bits_y", "bits_z", "bpp"]
both_frames = pytest.mark.parametrize("frame", ["p1", "p2"])


@needs_reference
@both_frames
@pytest.mark.parametrize("name", INTEGERS)
def test_the_symbols_are_those_of_the_official_network(frame, name, official_arrays, our_arrays):
    key = f"{frame}/{name}"
    assert np.array_equal(our_arrays[key], official_arrays[key])


@needs_reference
@both_frames
@pytest.mark.parametrize("name", FEATURES)
def test_the_features_are_those_of_the_official_network(frame, name, official_arrays, our_arrays):
    theirs = official_arrays[f"{frame}/{name}"]
    difference = np.abs(our_arrays[f"{frame}/{name}"] - theirs)
    assert difference.shape == theirs.shape
    assert difference.max() <= 2e-4
    assert difference.mean() <= 1e-4 * theirs.std()


@needs_reference
@both_frames
def test_the_decoded_picture_is_that_of_the_official_network(frame, official_arrays, our_arrays):
    key = f"{frame}/recon_unclamped"
    assert our_arrays[key].shape == official_arrays[key].shape
    assert np.abs(our_arrays[key] - official_arrays[key]).max() <= 2e-5


@needs_reference
@both_frames
@pytest.mark.parametrize("name", BITS)
def test_the_estimated_bits_are_those_of_the_official_network(
    frame, name, official_arrays, our_arrays
):
    theirs = float(official_arrays[f"{frame}/{name}"])
    assert float(our_arrays[f"{frame}/{name}"]) == pytest.approx(theirs, rel=1e-5)


@needs_reference
@both_frames
def test_every_module_puts_out_what_the_official_one_does(frame, official_arrays, our_arrays):
    probes = official_arrays[f"{frame}/trace.probe"]
    moments = official_arrays[f"{frame}/trace.mean_std"]
    names = official_arrays[f"{frame}/trace.names"]
    for name, probe, (mean, std) in zip(names, probes, moments, strict=True):
        ours = our_arrays[f"{frame}/trace/{name}"]
        places = np.arange(64) * (ours.size - 1) // 63
        assert np.abs(ours[places] - probe).max() <= 2e-4, name
        assert ours.mean(dtype=np.float64) == pytest.approx(mean, abs=2e-5), name
        assert ours.std(dtype=np.float64) == pytest.approx(std, rel=1e-4), name


@needs_reference
def test_nothing_in_the_reference_data_is_left_uncompared(official_arrays):
    compared = {*FEATURES, *INTEGERS, *BITS, "recon_unclamped"}
    about = ("trace.", "tie_margin")
    held = {key.split("/")[1] for key in official_arrays if "/" in key}
    assert {name for name in held if not name.startswith(about)} == compared


# ---------------------------------------------------------------------- predictions, training


@pytest.mark.parametrize(
    ("upto", "streams", "last"),
    [("flow", set(), "opticFlow"), ("motion", {"motion", "motion_hyper"}, "mvDecoder_part2")],
)
def test_a_prediction_is_the_warped_reference_and_nothing_behind_it_runs(upto, streams, last):
    codec = lively()
    frame, previous = picture(64, 64, 1.0), picture(64, 64)
    with torch.no_grad():
        flow, _ = codec.opticFlow(frame, previous)
    _, whole = record(codec, frame, Reference(previous))
    first, second = whole["mvDecoder_part1"][0][-1], whole["mvDecoder_part2"][0][-1]
    motion = {"flow": flow, "motion": first + second}[upto]

    seen = []
    for name, child in codec.named_children():
        child.register_forward_hook(lambda *_, name=name: seen.append(name))
    with torch.no_grad():
        coded = codec(frame, Reference(previous), upto=upto)
    assert torch.equal(coded.frame, warp(previous, motion).clamp(0, 1))
    assert set(coded.bits) == streams
    assert seen[-1] == last
    assert not {"feature_extract", "contextualEncoder"} & set(seen)


def test_a_prediction_in_training_reaches_all_that_its_stage_trains():
    codec = lively().train()
    for stage in codec.stages()[:2]:
        codec.zero_grad()
        coded = codec(picture(64, 64, 1.0), Reference(picture(64, 64)), upto=stage.picture)
        error = (coded.frame - picture(64, 64, 1.0)).square().mean()
        (error + coded.total_bits(stage.streams).sum()).backward()
        for name in stage.modules:
            gradients = [p.grad for p in codec.get_submodule(name).parameters()]
            assert all(g is not None and g.abs().sum() > 0 for g in gradients), (stage.name, name)


def test_in_training_every_parameter_has_a_gradient():
    codec = lively().train()
    coded = codec(picture(64, 64, 1.0), Reference(picture(64, 64)))
    (coded.frame.square().mean() * 100 + coded.total_bits().sum()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_gradients_of_a_later_frame_reach_the_first_through_the_reference():
    codec = lively().train()
    first = codec(picture(64, 64, 1.0), Reference(picture(64, 64)))
    first.reference.frame.retain_grad()
    codec(picture(64, 64, 2.0), first.reference).frame.mean().backward()
    assert first.reference.frame.grad.any()
    assert not first.reference.detached().frame.requires_grad


def test_training_always_shows_the_same_picture_but_draws_its_bits_with_noise():
    codec = lively()
    frame, reference = picture(64, 64, 1.0), Reference(picture(64, 64))
    with torch.no_grad():
        real, again = codec(frame, reference), codec(frame, reference)
        codec.train()
        drawn, other = codec(frame, reference), codec(frame, reference)
    assert torch.equal(drawn.frame, other.frame)
    for stream in real.bits:
        assert torch.equal(real.bits[stream], again.bits[stream])
        assert not torch.equal(drawn.bits[stream], other.bits[stream])
        assert float(drawn.bits[stream]) == pytest.approx(float(real.bits[stream]), rel=0.2)


def test_training_shows_what_is_coded_rather_than_the_official_estimate():
    codec = lively()
    frame, reference = picture(64, 64, 1.0), picture(64, 64)
    coding = RealLoop(codec)
    coding.start(reference)
    with torch.no_grad():
        coded, _ = coding.code(frame, None)
        estimated = codec(frame, Reference(reference)).frame
        trained = codec.train()(frame, Reference(reference)).frame.clamp(0, 1)
    assert (trained - coded).square().mean() < (estimated - coded).square().mean() / 2


def test_the_stages_train_modules_that_exist_and_charge_streams_that_exist():
    codec = lively()
    coded, _ = record(codec, picture(64, 64, 1.0), Reference(picture(64, 64)))
    children = {name for name, _ in codec.named_children()}
    trained = set()
    for stage in codec.stages():
        trained |= set(stage.modules)
        assert set(stage.modules) <= children, stage.name
        assert set(stage.streams or ()) <= set(coded.bits), stage.name
    assert trained == {name for name, child in codec.named_children() if list(child.parameters())}


@pytest.mark.parametrize(("preset", "gain"), [("tiny", 2), ("small", 4), ("base", 10)])
def test_a_fresh_codec_shows_the_reference_and_what_its_transform_has_of_the_rest(preset, gain):
    for seed in range(3):
        torch.manual_seed(seed)
        codec = vcodecs.create("dcvc", preset).eval()
        reference, frame = picture(64, 64, seed), picture(64, 64, seed + 0.3)
        with torch.no_grad():
            coded = codec(frame, Reference(reference))
        repeated = 10 * torch.log10((reference - frame).square().mean())
        decoded = 10 * torch.log10((coded.frame - frame).square().mean())
        assert repeated - decoded > gain, seed


def test_what_is_trained_is_rounded_around_its_mean_as_it_is_coded():
    codec = vcodecs.create("dcvc", "tiny").train()
    latent = torch.randn(1, 4, 5, 5)
    means = iter((torch.full_like(latent, 0.3), torch.full_like(latent, 0.4)))
    seen = []

    def expected(known):
        seen.append(known)
        return next(means), torch.ones_like(latent)

    decoded, mean, _ = codec._quantised(latent, expected)
    assert torch.equal(seen[0], latent.round())
    torch.testing.assert_close(seen[1], (latent - 0.3).round() + 0.3)
    torch.testing.assert_close(decoded, (latent - 0.4).round() + 0.4)
    assert (mean == 0.4).all()


# Fresh latents all round to zero: what multiplies nothing but them waits for the encoder.
READERS_OF_LATENTS = {
    *("mvDecoder_part1.0.weight", "mvpriorDecoder.0.weight", "auto_regressive_mv.weight"),
    *("contextualDecoder_part1.0.0.weight", "priorDecoder.0.weight", "auto_regressive.weight"),
}


def test_no_part_of_a_fresh_small_codec_stays_without_gradient():
    codec = vcodecs.create("dcvc", "tiny").train()
    reached = set()
    optimizer = torch.optim.Adam(codec.parameters(), 1e-3)
    for step in range(3):
        coded = codec(picture(64, 64, step + 1.0), Reference(picture(64, 64, step)))
        error = (coded.frame - picture(64, 64, step + 1.0)).square().mean()
        optimizer.zero_grad()
        (1000 * error + coded.total_bits().mean() / 64**2).backward()
        reached |= {name for name, p in codec.named_parameters() if p.grad.any()}
        optimizer.step()
    assert reached | READERS_OF_LATENTS == {name for name, _ in codec.named_parameters()}


# ---------------------------------------------------------------------- the receiver


def received(seen):
    """What the entropy decoder hands to the networks: the rounded latents."""
    return {
        "motion_hyper": seen["mvpriorDecoder"][0][0],
        "motion_latent": seen["auto_regressive_mv"][0][0],
        "latent_hyper": seen["priorDecoder"][0][0],
        "latent": seen["auto_regressive"][0][0],
    }


def run_graphs(graphs, tensors):
    """Run the graphs one after the other, wired by the names of their inputs and outputs."""
    tensors = dict(tensors)
    for graph in graphs:
        with torch.no_grad():
            outputs = graph(*(tensors[name] for name in graph.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for name, value in zip(graph.outputs, outputs, strict=True):
            assert name not in tensors, f"{graph.name} overwrites {name}"
            tensors[name] = value
    return tensors


def receiver(codec):
    """A copy that has lost every part that does not run at the receiver."""
    alone = copy.deepcopy(codec)
    for name in {name for name, _ in codec.named_children()} - set(codec.decoder_modules()):
        delattr(alone, name)
    return alone


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 64), (50, 100)])
def test_the_graphs_without_the_encoder_make_the_picture_means_and_scales_of_forward(height, width):
    codec = lively()
    coded, seen = record(codec, picture(height, width, 1.0), Reference(picture(height, width)))
    latents = received(seen)
    assert all(latent.abs().max() >= 1 for latent in latents.values()), "too quiet to prove much"

    graphs = receiver(codec).decoder_graphs(height, width)
    padded = seen["opticFlow"][0][1]
    made = run_graphs(graphs, latents | {"reference": padded})
    assert torch.equal(made["frame"][..., :height, :width], coded.frame)
    assert torch.equal(made["frame"], coded.reference.frame)
    (_, motion_mean, motion_scale, _), (_, mean, scale, _) = seen["laplace"]
    assert torch.equal(made["motion_mean"], motion_mean)
    assert torch.equal(made["motion_scale"], motion_scale)
    assert torch.equal(made["latent_mean"], mean)
    assert torch.equal(made["latent_scale"], scale)


def test_the_graphs_follow_the_encoder_over_several_frames():
    codec = lively()
    alone = receiver(codec)
    reference, shown = Reference(picture(64, 96)), None
    for t in range(1, 4):
        coded, seen = record(codec, picture(64, 96, float(t)), reference)
        shown = seen["opticFlow"][0][1] if shown is None else shown
        made = run_graphs(alone.decoder_graphs(64, 96), received(seen) | {"reference": shown})
        shown, reference = made["frame"], coded.reference
        assert torch.equal(shown, reference.frame), t


def test_the_graphs_use_all_modules_of_the_decoder_and_no_other():
    codec = lively()
    _, seen = record(codec, picture(64, 64, 1.0), Reference(picture(64, 64)))
    ran = set()
    for name, child in codec.named_children():
        child.register_forward_hook(lambda *_, name=name: ran.add(name))
    run_graphs(
        codec.decoder_graphs(64, 64), received(seen) | {"reference": seen["opticFlow"][0][1]}
    )
    tables = {"bitEstimator_z", "bitEstimator_z_mv"}  # give the coder its tables, run no frame
    assert ran == set(codec.decoder_modules()) - tables
    assert not ran & set(ENCODER_ONLY)


@pytest.mark.parametrize(
    ("graph_name", "latent_name", "outputs"),
    [
        ("motion_parameters", "motion_latent", ("motion_mean", "motion_scale")),
        ("latent_parameters", "latent", ("latent_mean", "latent_scale")),
    ],
)
def test_a_receiver_that_decodes_position_by_position_predicts_what_the_encoder_did(
    graph_name, latent_name, outputs
):
    codec = lively()
    _, seen = record(codec, picture(64, 64, 1.0), Reference(picture(64, 64)))
    graphs = codec.decoder_graphs(64, 64)
    made = run_graphs(graphs, received(seen) | {"reference": seen["opticFlow"][0][1]})
    graph = next(graph for graph in graphs if graph.name == graph_name)
    decoded = torch.zeros_like(made[latent_name])
    for row in range(decoded.shape[2]):
        for column in range(decoded.shape[3]):
            known = made | {latent_name: decoded}
            with torch.no_grad():
                predicted = graph(*(known[name] for name in graph.inputs))
            for name, value in zip(outputs, predicted, strict=True):
                here, expected = value[..., row, column], made[name][..., row, column]
                assert torch.allclose(here, expected, rtol=0, atol=1e-6), (row, column)
            decoded[..., row, column] = made[latent_name][..., row, column]


@pytest.mark.parametrize("preset", ["tiny", "small", "official"])
@pytest.mark.parametrize(
    ("height", "width", "padded"),
    [(64, 64, (64, 64)), (100, 130, (128, 192)), (1080, 1920, (1088, 1920))],
)
def test_the_graphs_tell_their_input_shapes(preset, height, width, padded):
    codec = vcodecs.create("dcvc", preset)
    widths = codec.presets[preset]
    h, w = padded
    shapes = {}
    for graph in codec.decoder_graphs(height, width):
        assert tuple(graph.input_shapes()) == tuple(graph.inputs)
        shapes |= graph.input_shapes()
    assert shapes == {
        "motion_hyper": (1, widths.hidden, h // 64, w // 64),
        "motion_prior": (1, 2 * widths.motion, h // 16, w // 16),
        "motion_latent": (1, widths.motion, h // 16, w // 16),
        "reference": (1, 3, h, w),
        "latent_hyper": (1, widths.hidden, h // 64, w // 64),
        "temporal_prior": (1, widths.latent, h // 16, w // 16),
        "latent_prior": (1, widths.latent, h // 16, w // 16),
        "latent": (1, widths.latent, h // 16, w // 16),
        "context": (1, widths.hidden, h, w),
    }


def test_tensors_of_the_told_shapes_fit_into_the_graphs():
    codec = vcodecs.create("dcvc", "tiny").eval()
    for graph in codec.decoder_graphs(70, 64):
        with torch.no_grad():
            outputs = graph(*(torch.zeros(shape) for shape in graph.input_shapes().values()))
        assert (len(outputs) if isinstance(outputs, tuple) else 1) == len(graph.outputs)


def test_a_folded_codec_is_the_same_codec():
    codec = lively()
    frame, reference = picture(64, 64, 1.0), Reference(picture(64, 64))
    with torch.no_grad():
        trained, folded = codec(frame, reference), fold(codec)(frame, reference)
    assert torch.allclose(trained.frame, folded.frame, rtol=0, atol=1e-5)
    for stream, bits in trained.bits.items():
        assert float(folded.bits[stream]) == pytest.approx(float(bits), rel=1e-5)
