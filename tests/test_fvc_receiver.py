"""FVC's receiver: frames rebuilt from symbols alone.

The receiver below is a copy without the encoder. It has the decoder graphs, and what an entropy
decoder hands it: the symbols of a latent once it knows their means and deviations.
"""

import copy

import pytest
import torch
from fvc import lively, picture, pictures, record

from vcodecs import Reference
from vcodecs.contract import pad
from vcodecs.fvc import FVC
from vcodecs.fvc.video import ENCODER_ONLY
from vcodecs.layers import fold

LATENTS = {
    "motion": ("OffsetPriorDecoder", "aligner.offset_decoder"),
    "latent": ("resPriorDecoder", "resDecoder"),
}
presets = pytest.mark.parametrize("preset", ["tiny", "fusion"])


def sent_of(seen):
    """All that the sender has written of this frame."""
    sent = {}
    for stream, (hyper, latent) in LATENTS.items():
        sent[f"{stream}_hyper"] = seen.into(hyper)
        sent[stream] = seen.into(latent)
    return sent


class Receiver:
    """Decodes frames of one size, one after the other."""

    def __init__(self, codec, height, width):
        self.codec = copy.deepcopy(codec)
        for name in set(codec.parts()) - set(codec.decoder_modules()):
            parent, _, child = name.rpartition(".")
            delattr(self.codec.get_submodule(parent), child)
        self.graphs = {graph.name: graph for graph in self.codec.decoder_graphs(height, width)}

    @torch.no_grad()
    def decode(self, sent, before):
        """Tensors by the graphs' names; `before` are those of the frame before, or its picture."""
        first = before["frame"]
        known = {
            "motion_hyper": sent["motion_hyper"],
            "latent_hyper": sent["latent_hyper"],
            "reference": first,
            "previous_feature": before.get("feature", torch.cat((first, first), dim=1)),
        }
        self._run("motion_parameters", known)
        known["motion_latent"] = sent["motion"]
        self._run("alignment", known)
        self._run("latent_parameters", known)
        known["latent"] = sent["latent"]
        self._run("reconstruction", known)
        return known

    def _run(self, name, known):
        graph = self.graphs[name]
        made = graph(*(known[key] for key in graph.inputs))
        known |= zip(graph.outputs, made if isinstance(made, tuple) else (made,), strict=True)


# ---------------------------------------------------------------------- from symbols alone


@presets
@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 100)])
def test_the_receiver_follows_the_sender_from_frame_to_frame(preset, height, width):
    codec = lively(preset)
    records, first = pictures(codec, height, width, 4 if preset == "fusion" else 2)
    receiver, decoded = Receiver(codec, height, width), {"frame": pad(first)}
    for seen in records:
        decoded = receiver.decode(sent_of(seen), decoded)
        assert torch.equal(decoded["frame"][..., :height, :width], seen.coded.frame)
        assert torch.equal(decoded["frame"], seen.coded.reference.frame)
        if preset == "fusion":
            assert torch.equal(decoded["feature"], seen.coded.reference.feature)


def test_the_receiver_expects_of_every_symbol_what_the_sender_paid_for():
    codec = lively()
    (seen,), first = pictures(codec, 64, 64, 1)
    decoded = Receiver(codec, 64, 64).decode(sent_of(seen), {"frame": first})
    for stream, (_, mean, deviation) in zip(LATENTS, seen.inputs["normal"], strict=True):
        assert torch.equal(decoded[f"{stream}_mean"], mean)
        assert torch.equal(decoded[f"{stream}_scale"], deviation)
        assert (deviation >= 0).all()


def test_the_frames_of_these_tests_have_something_to_say():
    for preset in ("tiny", "fusion"):
        (seen,), _ = pictures(lively(preset), 64, 64, 1)
        for name, symbols in sent_of(seen).items():
            assert torch.equal(symbols, symbols.round())
            assert symbols.abs().max() >= 1, (preset, name)


@pytest.mark.parametrize("stream", ["motion", "latent"])
def test_no_symbol_is_sent_for_nothing(stream):
    codec = lively()
    (seen,), first = pictures(codec, 64, 64, 1)
    sent = sent_of(seen)
    receiver = Receiver(codec, 64, 64)
    other = receiver.decode(sent | {stream: sent[stream] + 1}, {"frame": first})
    assert not torch.allclose(other["frame"], seen.coded.frame, atol=1e-3)
    hyper = f"{stream}_hyper"
    other = receiver.decode(sent | {hyper: sent[hyper] + 1}, {"frame": first})
    assert torch.equal(other["frame"], seen.coded.frame)
    (_, mean, _) = seen.inputs["normal"][list(LATENTS).index(stream)]
    assert not torch.allclose(other[f"{stream}_mean"], mean, atol=1e-3)


# ---------------------------------------------------------------------- the graphs themselves


@presets
def test_the_graphs_use_all_modules_of_the_decoder_and_no_other(preset):
    codec, ran = lively(preset), set()
    hooks = [
        codec.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.add(name))
        for name in codec.parts()
    ]
    for graph in codec.decoder_graphs(64, 64):
        with torch.no_grad():
            outputs = graph(*(torch.zeros(shape) for shape in graph.input_shapes().values()))
        assert (len(outputs) if isinstance(outputs, tuple) else 1) == len(graph.outputs)
    for hook in hooks:
        hook.remove()
    # The estimators of hyper latents give the coder its tables and run for no frame.
    tables = {"EntropyCoding_offsetz", "EntropyCoding_residualz"}
    assert ran == set(codec.decoder_modules()) - tables
    assert not ran & set(ENCODER_ONLY)


@pytest.mark.parametrize("preset", ["tiny", "small", "fusion"])
@pytest.mark.parametrize(
    ("size", "padded"), [((64, 64), (64, 64)), ((1080, 1920), (1088, 1920))], ids=str
)
def test_the_graphs_tell_their_input_shapes(preset, size, padded):
    (h, w), widths = padded, FVC.presets[preset]
    shapes = {}
    for graph in FVC(preset).decoder_graphs(*size):
        assert tuple(graph.input_shapes()) == tuple(graph.inputs)
        shapes |= graph.input_shapes()
    more = {
        "reference_feature": (1, widths.feature, h // 2, w // 2),
        "previous_feature": (1, 6, h, w),
    }
    assert shapes == {
        "motion_hyper": (1, widths.hyper, h // 64, w // 64),
        "motion_latent": (1, widths.motion, h // 16, w // 16),
        "reference": (1, 3, h, w),
        "latent_hyper": (1, widths.hyper, h // 64, w // 64),
        "latent": (1, widths.latent, h // 16, w // 16),
        "aligned": (1, widths.feature, h // 2, w // 2),
        **(more if widths.fusion else {}),
    }


def test_a_folded_codec_is_the_same_codec():
    codec, frame = lively(), picture(64, 64, 1.0)
    reference = Reference(picture(64, 64))
    seen = record(codec, frame, reference)
    with torch.no_grad():
        folded = fold(codec)(frame, reference)
    assert torch.equal(folded.frame, seen.coded.frame)
    assert torch.equal(folded.total_bits(), seen.coded.total_bits())
