"""I frames by a learned picture codec, in evaluation and in training."""

import numpy as np
import pytest
import torch
from training import SETTINGS

import vcodecs
from prune.data import open_source
from prune.evaluation.rate_distortion import evaluate, evaluate_clip
from prune.training.tradeoff import Tradeoff
from prune.training.trainer import Phase, Trainer
from vcodecs import Reference, Stage, UserError, VideoCodec, checkpoints
from vcodecs.coding import TorchNetworks, compress
from vcodecs.contract import pad
from vcodecs.dcvc_hem import DCVCHEMIntra
from vcodecs.intra import CodedPicture, IntraCodec, create_intra


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A fresh intra network and a P-frame network, saved."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in ("dcvc_hem_intra", "dcvc"):
        checkpoints.save(vcodecs.create(name, "tiny"), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def network(weights):
    return create_intra(f"network:checkpoint={weights / 'dcvc_hem_intra.safetensors'}")


def pictures(count=1, height=64, width=64):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


class Rated(IntraCodec):
    """Shows grey of the rate's level, for as many bits."""

    name, rated = "rated", True

    def __init__(self):
        self.asked = []

    def encode(self, frame, rate=None):
        self.asked.append(rate)
        return CodedPicture(torch.full_like(frame, rate / 4), 100 * rate)


# ---------------------------------------------------------------------- the network


def test_a_picture_is_coded_as_the_network_codes_it(weights, network):
    codec = vcodecs.create("dcvc_hem_intra", "tiny", weights / "dcvc_hem_intra.safetensors").eval()
    frame = pictures(1, 50, 70)
    with torch.no_grad():
        expected = codec(frame, Reference(torch.zeros_like(frame)), 2.5)
    coded = network.encode(frame, 2.5)
    torch.testing.assert_close(coded.frame, expected.frame)
    payload = compress(TorchNetworks(codec), pad(frame), {}, 2.5).payload
    assert coded.payload == payload and coded.bits == 8 * len(payload)


def test_its_name_says_what_it_is(network):
    assert "dcvc_hem_intra tiny" in network.name and "estimated" not in network.name


class Silent(DCVCHEMIntra):
    """Does not say how its pictures become bits."""

    coding = VideoCodec.coding


def test_a_codec_without_real_bits_counts_its_estimates_and_says_so(weights, monkeypatch):
    file = weights / "dcvc_hem_intra.safetensors"
    monkeypatch.setattr(vcodecs, "create", lambda name, preset, path, key=None: Silent(preset))
    silent, frame = create_intra(f"network:checkpoint={file}"), pictures(1, 50, 70)
    coded = silent.encode(frame, 2.5)
    with torch.no_grad():
        expected = silent.network(frame, Reference(frame), 2.5)
    assert torch.equal(coded.frame, expected.frame)
    assert coded.bits == float(expected.total_bits())
    assert silent.name.endswith("estimated bits")
    with pytest.raises(UserError, match=r"estimated bits: an .lvc file cannot hold"):
        silent.said()


def test_a_batch_of_pictures_is_coded_each_at_its_own_rate(network):
    frames, rates = pictures(3), torch.tensor([0.0, 1.5, 3.0])
    together = network.pictures(frames, rates)
    for frame, rate, picture in zip(frames, rates.tolist(), together, strict=True):
        torch.testing.assert_close(picture[None], network.encode(frame[None], rate).frame)


def test_a_conventional_codec_codes_a_batch_too():
    intra = create_intra("hevc:qp=30")
    frames = pictures(2)
    single = [intra.encode(frame[None]).frame for frame in frames]
    assert torch.equal(intra.pictures(frames), torch.cat(single))


def test_a_rate_of_its_own_overrides_that_of_the_p_frames(weights):
    file = weights / "dcvc_hem_intra.safetensors"
    fixed = create_intra(f"network:checkpoint={file},rate=1")
    free = create_intra(f"network:checkpoint={file}")
    frame = pictures()
    assert torch.equal(fixed.encode(frame, 3.0).frame, free.encode(frame, 1.0).frame)
    assert torch.equal(fixed.encode(frame).frame, free.encode(frame, 1.0).frame)
    assert "rate 1" in fixed.name


def test_without_any_rate_a_network_of_many_rates_says_what_to_do(network):
    with pytest.raises(UserError, match="give rate="):
        network.encode(pictures())


def test_a_network_that_reads_its_reference_is_refused(weights):
    with pytest.raises(UserError, match="dcvc codes P frames"):
        create_intra(f"network:checkpoint={weights / 'dcvc.safetensors'}")


@pytest.mark.parametrize(
    "options, words",
    [
        ("", "checkpoint=... is needed"),
        (":checkpoint=nowhere", "no such file"),
        (":checkpoint={},rate=7", "rate 7 is out of range"),
        (":checkpoint={},rate=high", "not a number"),
        (":checkpoint={},codec=nothing", "no codec is called 'nothing'"),
        (":checkpoint={},size=3", "option 'size=3' is unknown"),
    ],
)
def test_wrong_options_are_named(weights, options, words):
    spec = "network" + options.format(weights / "dcvc_hem_intra.safetensors")
    with pytest.raises(UserError, match=r"intra codec .network") as caught:
        create_intra(spec)
    assert words in str(caught.value)


def test_official_weights_do_not_say_their_codec_so_the_options_do(weights):
    codec = vcodecs.create("dcvc_hem_intra", "tiny")
    torch.save({"state_dict": codec.state_dict()}, weights / "official.pth.tar")
    with pytest.raises(UserError, match="give codec="):
        create_intra(f"network:checkpoint={weights / 'official.pth.tar'}")
    spec = f"network:checkpoint={weights / 'official.pth.tar'},codec=dcvc_hem_intra,preset=tiny"
    frame = pictures()
    with torch.no_grad():
        expected = codec.eval()(frame, Reference(frame), 0.0).frame
    torch.testing.assert_close(create_intra(spec).encode(frame, 0.0).frame, expected)


# ---------------------------------------------------------------------- in evaluation


def test_i_frames_are_coded_at_the_rate_of_the_p_frames():
    codec = vcodecs.create("dcvc_hem", "tiny")
    clip = np.full((2, 3, 64, 64), 200, np.uint8)
    for rate in (0.0, 3.0):
        result = evaluate_clip(codec, clip, Rated(), rate, 2)
        assert result.frame_bpp[0] == 100 * rate / 64**2
        error = (200 / 255 - rate / 4) ** 2
        assert result.frame_psnr[0] == pytest.approx(-10 * np.log10(error), abs=1e-3)


def test_a_sweep_codes_the_i_frames_once_for_each_rate():
    intra = Rated()
    codecs = {"dense": vcodecs.create("dcvc_hem", "tiny")}
    source = open_source("procedural")
    evaluate(codecs, source, intra, (0.0, 1.0, 3.0), frames=2, gop=2, clips=1)
    assert intra.asked == [0.0, 1.0, 3.0]


# ---------------------------------------------------------------------- in training


def test_training_starts_from_what_the_intra_codec_shows_at_the_clips_rate(tmp_path):
    """Behind a grey I frame of the rate's level the first reference is grey, without noise."""
    seen = []

    class Spy(type(vcodecs.create("dcvc_hem", "tiny"))):
        def forward(self, frame, reference, rate=None, upto=None):
            seen.append((reference.frame.clone(), rate.clone()))
            return super().forward(frame, reference, rate, upto)

    settings = {**vars(SETTINGS), "tradeoff": Tradeoff((0.0, 1.0, 2.0, 3.0), (85, 170, 380, 840))}
    settings |= {"intra": Rated(), "intra_noise": 0.0}
    stage = Stage("flow", ("optic_flow",), picture="flow", streams=())
    phase = Phase("1 flow", stage, steps=2, learning_rate=1e-4, batch=2, crop=64)
    sources = [(open_source("procedural"), 1.0)]
    Trainer(Spy("tiny"), [phase], sources, type(SETTINGS)(**settings), tmp_path).run()
    assert len(seen) == 2
    for reference, rates in seen:
        assert len(set(rates.tolist())) == 2
        expected = (rates / 4).reshape(-1, 1, 1, 1).expand_as(reference)
        torch.testing.assert_close(reference, expected)
