"""DCVC-HEM's receiver: frames rebuilt from symbols alone.

The receiver below is a copy without the encoder. It has the decoder graphs, the quantisers and
`first_half`, and what an entropy decoder hands it: the symbols of a field once it has predicted
their scales.
"""

import copy

import pytest
import torch
from hem import INTRA, VIDEO, both_codecs, lively, record
from reference_fill import picture

import vcodecs
from vcodecs import Reference
from vcodecs.contract import REFERENCE_FIELDS, pad
from vcodecs.dcvc_hem.prior import first_half, quantiser
from vcodecs.dcvc_hem.video import ENCODER_ONLY
from vcodecs.layers import fold


class Stream:
    """What an entropy decoder gives for one latent: hyper symbols, then symbols field by field.

    The scales that it is asked with have to be those that the sender used, unless it is `deaf`.
    """

    def __init__(self, hyper, symbols, scales, deaf):
        self.hyper, self.symbols, self.scales, self.deaf = hyper, symbols, scales, deaf

    def read(self, scale, fields):
        assert self.deaf or torch.equal(scale * fields, self.scales * fields)
        return self.symbols * fields


def streams(seen, deaf=False):
    """All that the sender has written of this frame, by latent."""
    if "hyper_dec" in seen.inputs:
        hypers = {"latent": seen.inputs["hyper_dec"][0]}
    else:
        hypers = {
            "motion": seen.inputs["mv_hyper_prior_decoder"][0],
            "latent": seen.inputs["contextual_hyper_prior_decoder"][0],
        }
    latents = zip(hypers.items(), seen.symbols, seen.scales, strict=True)
    return {name: Stream(hyper, *sent, deaf) for (name, hyper), *sent in latents}


class Receiver:
    """Decodes frames of one size, one after the other, at any rates."""

    def __init__(self, codec, height, width):
        self.codec = copy.deepcopy(codec)
        for name in {name for name, _ in codec.named_children()} - set(codec.decoder_modules()):
            if name != "step_bound":  # arithmetic, which is part of the quantisers
                delattr(self.codec, name)
        self.graphs = {graph.name: graph for graph in self.codec.decoder_graphs(height, width)}

    @torch.no_grad()
    def intra(self, rate, sent):
        """Tensors of an I frame, by the names of the graphs' inputs and outputs."""
        known = {"latent_hyper": sent["latent"].hyper}
        self._run("latent_parameters", known)
        self._latent("latent", "latent", known, sent, self._quantiser("", rate))
        self._run("reconstruction", known)
        return known

    @torch.no_grad()
    def inter(self, rate, sent, before):
        """Tensors of a P frame; `before` are those of the frame before, or its picture alone."""
        motion, latent = sent["motion"], sent["latent"]
        known = {
            "motion_hyper": motion.hyper,
            "latent_hyper": latent.hyper,
            "reference": before["frame"],
            "previous_feature": before.get("feature"),
            # Behind an I frame there is no latent to look back to.
            "previous_motion_latent": before.get("motion_latent", 0 * motion.symbols),
            "previous_latent": before.get("latent", 0 * latent.symbols),
        }
        self._run("motion_parameters", known)
        self._latent("motion", "motion_latent", known, sent, self._quantiser("mv_y_", rate))
        self._run("context" if "feature" in before else "context_after_intra", known)
        self._run("latent_parameters", known)
        self._latent("latent", "latent", known, sent, self._quantiser("y_", rate))
        self._run("reconstruction", known)
        return known

    def _latent(self, of, name, known, sent, divisor):
        step, scale, mean = (known[f"{of}_{part}"] for part in ("step", "scale", "mean"))
        now = first_half(step)
        first = sent[of].read(scale, now) + mean * now
        known[f"{of}_first"] = first
        self._run(f"{of}_second_parameters", known)
        later = 1 - now
        second = sent[of].read(known[f"{of}_second_scale"], later)
        second = second + known[f"{of}_second_mean"] * later
        known[name] = (first + second) * step * divisor

    def _run(self, name, known):
        graph = self.graphs[name]
        made = graph(*(known[key] for key in graph.inputs))
        known |= zip(graph.outputs, made if isinstance(made, tuple) else (made,), strict=True)

    def _quantiser(self, of, rate):
        basic, scales = getattr(self.codec, f"{of}q_basic"), getattr(self.codec, f"{of}q_scale")
        return quantiser(basic, scales, rate, self.codec.step_bound)


def assert_kept(decoded, reference):
    """What the receiver keeps is what the sender keeps."""
    for field, value in reference.tensors().items():
        assert torch.equal(decoded[field], value), field


# ---------------------------------------------------------------------- from symbols alone

SIZES = pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 100)])


@SIZES
def test_behind_an_i_frame_the_receiver_has_the_senders_picture_feature_and_latents(height, width):
    codec, previous = lively(VIDEO), picture(height, width)
    seen = record(codec, picture(height, width, 1.0), Reference(previous), 1.5)
    receiver = Receiver(codec, height, width)
    decoded = receiver.inter(1.5, streams(seen), {"frame": pad(previous)})
    assert torch.equal(decoded["frame"][..., :height, :width], seen.coded.frame)
    assert_kept(decoded, seen.coded.reference)


@SIZES
def test_behind_p_frames_the_receiver_follows_the_sender_at_the_rate_of_each(height, width):
    codec, previous = lively(VIDEO), picture(height, width)
    receiver = Receiver(codec, height, width)
    reference, decoded = Reference(previous), {"frame": pad(previous)}
    for t, rate in enumerate((0.0, 1.3, 3.0), start=1):
        seen = record(codec, picture(height, width, float(t)), reference, rate)
        decoded = receiver.inter(rate, streams(seen), decoded)
        reference = seen.coded.reference
        assert list(reference.tensors()) == [*REFERENCE_FIELDS]
        assert_kept(decoded, reference)


@SIZES
@pytest.mark.parametrize("rate", [0.0, 2.6])
def test_the_receiver_has_the_senders_i_frame(height, width, rate):
    codec = lively(INTRA)
    seen = record(codec, picture(height, width), Reference(picture(height, width, 9.0)), rate)
    decoded = Receiver(codec, height, width).intra(rate, streams(seen))
    assert torch.equal(decoded["frame"][..., :height, :width], seen.coded.frame)
    assert torch.equal(decoded["frame"], seen.coded.reference.frame)


def test_a_clip_is_decoded_from_symbols_alone():
    intra, video = lively(INTRA), lively(VIDEO)
    seen = record(intra, picture(70, 64), Reference(torch.zeros(1, 3, 70, 64)), 2.0)
    decoded = {"frame": Receiver(intra, 70, 64).intra(2.0, streams(seen))["frame"]}
    receiver = Receiver(video, 70, 64)
    for t in (1, 2):
        seen = record(video, picture(70, 64, float(t)), seen.coded.reference, 2.0)
        decoded = receiver.inter(2.0, streams(seen), decoded)
        assert torch.equal(decoded["frame"][..., :70, :], seen.coded.frame), t


@both_codecs
def test_the_frames_of_these_tests_have_something_to_say(name):
    seen = record(lively(name), picture(64, 64, 1.0), Reference(picture(64, 64)), 1.5)
    now = first_half(seen.symbols[0])
    for stream in streams(seen).values():
        assert torch.equal(stream.symbols, stream.symbols.round())
        assert stream.hyper.abs().max() >= 1
        assert (stream.symbols * now).any() and (stream.symbols * (1 - now)).any()


@pytest.mark.parametrize("of", ["motion", "latent"])
@pytest.mark.parametrize("part", ["first fields", "second fields", "hyper"])
def test_no_symbol_is_sent_for_nothing(of, part):
    codec, previous = lively(VIDEO), picture(64, 64)
    seen = record(codec, picture(64, 64, 1.0), Reference(previous), 1.5)
    sent = streams(seen, deaf=True)  # wrong symbols, other scales
    stream = sent[of]
    now = first_half(stream.symbols)
    if part == "hyper":
        stream.hyper = stream.hyper + 1
    else:
        stream.symbols = stream.symbols + (now if part == "first fields" else 1 - now)
    decoded = Receiver(codec, 64, 64).inter(1.5, sent, {"frame": previous})
    assert not torch.allclose(decoded["frame"], seen.coded.frame, rtol=0, atol=1e-5)


def test_the_rate_is_no_matter_of_the_graphs_but_of_the_quantisers():
    codec, previous = lively(VIDEO), picture(64, 64)
    seen = record(codec, picture(64, 64, 1.0), Reference(previous), 0.0)
    decoded = Receiver(codec, 64, 64).inter(0.0, streams(seen), {"frame": previous})
    other = Receiver(codec, 64, 64).inter(3.0, streams(seen, deaf=True), {"frame": previous})
    quotient = quantiser(codec.mv_y_q_basic, codec.mv_y_q_scale, 3.0, codec.step_bound)
    quotient = quotient / quantiser(codec.mv_y_q_basic, codec.mv_y_q_scale, 0.0, codec.step_bound)
    assert torch.equal(decoded["motion_step"], other["motion_step"])
    torch.testing.assert_close(other["motion_latent"], decoded["motion_latent"] * quotient)


# ---------------------------------------------------------------------- the graphs themselves


def modules_that_run(codec, run):
    """Names of the children that `run` calls."""
    ran = set()
    hooks = [
        child.register_forward_hook(lambda *_, name=name: ran.add(name))
        for name, child in codec.named_children()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return ran


@both_codecs
def test_the_graphs_use_all_modules_of_the_decoder_and_no_other(name):
    codec, ran = lively(name), set()
    for graph in codec.decoder_graphs(64, 64):
        inputs = [torch.zeros(shape) for shape in graph.input_shapes().values()]
        ran |= modules_that_run(codec, lambda graph=graph, inputs=inputs: graph(*inputs))
    # The estimators of hyper latents give the coder its tables and run for no frame.
    expected = {name for name in codec.decoder_modules() if not name.startswith("bit_estimator")}
    assert ran - {"step_bound"} == expected
    assert not ran & {*ENCODER_ONLY, "enc", "hyper_enc"}


def test_one_graph_takes_the_place_of_another_behind_an_i_frame():
    graphs = {graph.name: graph for graph in lively(VIDEO).decoder_graphs(64, 64)}
    assert [name for name, graph in graphs.items() if graph.after_intra] == ["context_after_intra"]
    assert graphs["context_after_intra"].outputs == graphs["context"].outputs
    ran = {}
    for name in ("context", "context_after_intra"):
        graph = graphs[name]
        inputs = [torch.zeros(shape) for shape in graph.input_shapes().values()]
        ran[name] = modules_that_run(graph.codec, lambda graph=graph, i=inputs: graph(*i))
    assert ran["context"] ^ ran["context_after_intra"] == {"feature_adaptor_P", "feature_adaptor_I"}
    assert not any(graph.after_intra for graph in lively(INTRA).decoder_graphs(64, 64))


def told_shapes(codec, height, width):
    shapes = {}
    for graph in codec.decoder_graphs(height, width):
        assert tuple(graph.input_shapes()) == tuple(graph.inputs)
        shapes |= graph.input_shapes()
    return shapes


PADDED = {(64, 64): (64, 64), (100, 130): (128, 192), (1080, 1920): (1088, 1920)}
KNOWN = ("first", "step", "scale", "mean")


@pytest.mark.parametrize("preset", ["tiny", "small", "official"])
def test_the_graphs_of_p_frames_tell_their_input_shapes(preset):
    codec = vcodecs.create(VIDEO, preset)
    widths = codec.presets[preset]
    for size, (h, w) in PADDED.items():
        motion, latent = (1, widths.motion, h // 16, w // 16), (1, widths.latent, h // 16, w // 16)
        assert told_shapes(codec, *size) == {
            "motion_hyper": (1, widths.hyper, h // 64, w // 64),
            "previous_motion_latent": motion,
            **{f"motion_{part}": motion for part in KNOWN},
            "motion_latent": motion,
            "reference": (1, 3, h, w),
            "previous_feature": (1, widths.feature, h, w),
            "latent_hyper": (1, widths.hyper, h // 64, w // 64),
            "temporal_prior": (1, 2 * widths.latent, h // 16, w // 16),
            "previous_latent": latent,
            **{f"latent_{part}": latent for part in KNOWN},
            "latent": latent,
            "context": (1, widths.feature, h, w),
            "half_context": (1, widths.feature, h // 2, w // 2),
            "quarter_context": (1, widths.feature, h // 4, w // 4),
        }


@pytest.mark.parametrize("preset", ["tiny", "small", "official"])
def test_the_graphs_of_i_frames_tell_their_input_shapes(preset):
    codec = vcodecs.create(INTRA, preset)
    widths = codec.presets[preset]
    for size, (h, w) in PADDED.items():
        latent = (1, widths.latent, h // 16, w // 16)
        assert told_shapes(codec, *size) == {
            "latent_hyper": (1, widths.hyper, h // 64, w // 64),
            **{f"latent_{part}": latent for part in KNOWN},
            "latent": latent,
        }


@both_codecs
def test_tensors_of_the_told_shapes_fit_into_the_graphs(name):
    codec = vcodecs.create(name, "tiny").eval()
    for graph in codec.decoder_graphs(70, 64):
        with torch.no_grad():
            outputs = graph(*(torch.zeros(shape) for shape in graph.input_shapes().values()))
        assert (len(outputs) if isinstance(outputs, tuple) else 1) == len(graph.outputs)


@both_codecs
def test_a_folded_codec_is_the_same_codec(name):
    codec = lively(name)
    frame, reference = picture(64, 64, 1.0), Reference(picture(64, 64))
    with torch.no_grad():
        trained, folded = codec(frame, reference, 0.7), fold(codec)(frame, reference, 0.7)
    assert torch.allclose(trained.frame, folded.frame, rtol=0, atol=1e-5)
    for stream, bits in trained.bits.items():
        assert float(folded.bits[stream]) == pytest.approx(float(bits), rel=1e-5)
