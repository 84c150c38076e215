"""Frames to bytes and back: every codec, dense and shrunk, with torch and with onnxruntime."""

import elf
import fvc
import hem
import numpy as np
import pytest
import sdd
import torch
from reference_fill import picture
from toys import shaken

import vcodecs
from lvc.bundle import BundleNetworks
from lvc.coder import PayloadError
from lvc.program import decompress
from lvc.runtimes import Setting
from prune.groups.find import find_groups
from prune.groups.shrink import masked_copy, shrunk_copy
from prune.onnx_export.bundle import Size, export_bundle
from vcodecs import UserError
from vcodecs.coding import TorchNetworks, compress, entropy_of, identity

SIZE, LARGE = (128, 192), (256, 448)
CODECS = ("dcvc", "dcvc_hem", "dcvc_hem_intra", "dcvc_sdd", "elf_vc", "fvc", "fvc with fusion")


def make(name):
    """A tiny codec whose latents, motion and pictures are far from zero."""
    if name == "dcvc":
        codec = shaken(vcodecs.create("dcvc", "tiny"))
        with torch.no_grad():
            for part in (codec.mvDecoder_part1, codec.mvDecoder_part2):
                part[-1].weight.mul_(0.1)
            codec.contextualDecoder_part2[-1].weight.mul_(0.1)
        return codec.eval()
    if name.startswith("fvc"):
        return fvc.lively("fusion" if "fusion" in name else "tiny").eval()
    if name == elf.NAME:
        return elf.lively()
    return sdd.lively() if name == sdd.NAME else hem.lively(name)


def shrunk(codec):
    channels = find_groups(codec)
    kept = {g.name: list(range(i % 2, g.size, 2)) for i, g in enumerate(channels.groups)}
    return shrunk_copy(masked_copy(codec, channels, kept), kept)


KINDS = [(name, kind) for name in CODECS for kind in ("dense", "shrunk")]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def codec(request):
    name, kind = request.param
    made = make(name)
    return made if kind == "dense" else shrunk(made).eval()


@pytest.fixture(scope="module")
def networks(codec):
    return TorchNetworks(codec)


@pytest.fixture(scope="module")
def coded(codec, networks):
    """Three frames, coded one after the other; the last one's rate is another one."""
    before = {} if codec.name.endswith("intra") else {"reference": picture(*SIZE).numpy()}
    frames = []
    for i, rate in enumerate(rates(codec)):
        made = compress(networks, picture(*SIZE, phase=0.1 * (i + 1)), before, rate)
        frames.append((made, before, rate))
        before = made.following if before else {}
    return frames


def rates(codec):
    return (None,) * 3 if len(codec.rates()) == 1 else (0.0, 1.5, 3.0)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_receiver_has_what_the_sender_has_to_the_bit(codec, networks, coded):
    before = coded[0][1]
    for made, _, rate in coded:
        got = decompress(networks, made.payload, before, SIZE, rate)
        assert equal(got.symbols, made.symbols)
        assert equal(got.following, made.following)
        before = got.following if before else {}


def test_onnxruntime_reads_the_same_symbols_and_shows_the_same_picture(codec, coded, tmp_path):
    export_bundle(codec, tmp_path, Size(*SIZE))
    networks = BundleNetworks(tmp_path, setting=Setting(threads=1))
    assert networks.identity == identity(codec)
    before = coded[0][1]
    for made, _, rate in coded:
        got = decompress(networks, made.payload, before, SIZE, rate)
        assert equal(got.symbols, made.symbols)
        for name, value in made.following.items():
            assert np.abs(got.following[name] - value).max() <= 1e-4 * max(1, np.abs(value).max())
        before = got.following if before else {}
    torch.set_flush_denormal(False)


def test_real_bits_are_near_what_the_distributions_promise(coded):
    for made, _, _ in coded:
        # Made-up weights leave many symbols far from what is expected; tables give those of less
        # than 2^-24 a little more than they deserve.
        assert 0.99 * made.estimate / 8 - 16 <= len(made.payload) <= 1.1 * made.estimate / 8 + 64


@pytest.mark.parametrize(("weights", "rate"), [("dcvc_small", None), ("dcvc_hem_small", 0.5)])
def test_real_bits_of_trained_weights_are_within_a_hundredth_and_64_bytes(weights, rate):
    networks = TorchNetworks(vcodecs.create(weights.removesuffix("_small"), "small", weights))
    before = {"reference": picture(*SIZE).numpy()}
    for i in range(2):
        made = compress(networks, picture(*SIZE, phase=0.1 * (i + 1)), before, rate)
        assert made.estimate / 8 <= len(made.payload) <= 1.01 * made.estimate / 8 + 64
        before = made.following


class Shaky(TorchNetworks):
    """Networks of another machine: every value is off by about a millionth."""

    noise = np.random.default_rng(0)

    def run(self, graph, inputs):
        made = super().run(graph, inputs)
        return {
            k: v * (1 + 1e-6 * self.noise.standard_normal(v.shape, "f4")) for k, v in made.items()
        }


@pytest.mark.parametrize(
    ("weights", "rate"), [("dcvc_small", None), ("dcvc_hem_small", 0.5), ("fvc_small", None)]
)
def test_networks_that_are_off_by_a_millionth_read_the_same_symbols(weights, rate):
    codec = vcodecs.create(weights.removesuffix("_small"), "small", weights)
    networks, shaky = TorchNetworks(codec), Shaky(codec)
    here = there = {"reference": picture(*LARGE).numpy()}
    for i in range(2):
        made = compress(networks, picture(*LARGE, phase=0.1 * (i + 1)), here, rate)
        got = decompress(shaky, made.payload, there, LARGE, rate)
        assert equal(got.symbols, made.symbols)
        assert not equal(got.following, made.following)
        here, there = made.following, got.following


def test_symbols_say_something(coded):
    made = coded[0][0]
    assert any(value.any() for value in made.symbols.values())
    assert len(made.payload) > 50


def test_a_cut_payload_is_an_error_or_other_symbols_but_nothing_else(networks, coded):
    made, before, rate = coded[0]
    for length in (0, 1, 5, len(made.payload) // 8 * 4 + 1):
        try:
            got = decompress(networks, made.payload[:length], before, SIZE, rate)
        except PayloadError:
            continue
        assert not equal(got.symbols, made.symbols)


def test_the_estimate_is_near_the_official_one_where_both_round_alike():
    codec = make("dcvc_hem")
    frame, reference = picture(*SIZE, phase=0.1), vcodecs.Reference(picture(*SIZE))
    with torch.no_grad():
        official = codec(frame, reference, 1.0)
    made = compress(TorchNetworks(codec), frame, {"reference": reference.frame.numpy()}, 1.0)
    assert made.estimate == pytest.approx(float(official.total_bits()), rel=0.01)
    assert np.abs(made.following["reference"] - official.frame.numpy()).max() < 1e-5


def test_a_codec_without_a_program_is_told():
    class Silent(vcodecs.VideoCodec):
        name, presets = "silent", {}
        code = decoder_modules = stages = decoder_graphs = remap_official = None

    with pytest.raises(UserError, match="silent has no `coding`"):
        Silent().coding()


def test_identity_changes_with_a_weight():
    codec = make("dcvc_hem")
    before = identity(codec)
    with torch.no_grad():
        codec.y_prior_fusion[0].bias[0] += 1e-3
    assert identity(codec) != before
    assert entropy_of(codec) == entropy_of(make("dcvc_hem"))
