"""SlimVC: five widths of one set of weights, and each of them alone."""

import numpy as np
import pytest
import torch
from reference_fill import fill_codec, picture

import vcodecs
from lvc.levels import open_networks
from lvc.program import decompress
from lvc.runtimes import Setting
from prune.groups.find import find_groups
from prune.groups.shrink import masked_copy, shrunk_copy
from prune.measure.macs import decoder_macs, encoder_macs
from prune.onnx_export.bit_parity import check_bundle, check_decodes
from prune.onnx_export.bundle import Size, export_bundle
from vcodecs import Reference, UserError
from vcodecs.coding import TorchNetworks, compress
from vcodecs.contract import pad
from vcodecs.slimvc.presets import PRESETS

WIDTHS = (0.25, 0.375, 0.5, 0.75, 1.0)
CLIP = torch.cat([picture(96, 100, 0.1 * i) for i in range(4)])

# The paper's table 2, in GMAC at 1920x1080.
RECEIVER = (69, 113, 168, 279, 416)


def on_shapes(preset):
    with torch.device("meta"):
        return vcodecs.create("slimvc", preset)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return vcodecs.create("slimvc", "tiny").eval()


def coded(codec, rate, frames=CLIP):
    reference, found = Reference(frames[:1]), []
    with torch.no_grad():
        for frame in frames[1:]:
            found.append(codec(frame[None], reference, rate))
            reference = found[-1].reference
    return found


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("module", "millions"),
    [
        ("encoder", 2.0),
        ("decoder", 2.0),
        ("hyper_encoder", 4.2),
        ("hyper_decoder", 4.8),
        ("temporal_prior", 16.2),
        ("entropy_parameters", 4.6),
    ],
)
def test_modules_have_the_papers_size_at_full_width(module, millions):
    part = on_shapes("full_interfaces@1").get_submodule(module)
    assert sum(p.numel() for p in part.parameters()) / 1e6 == pytest.approx(millions, rel=0.012)


def test_all_widths_share_one_set_of_weights_but_for_normalisations_and_priors():
    whole = sum(p.numel() for p in on_shapes("full_interfaces").parameters())
    widest = sum(p.numel() for p in on_shapes("full_interfaces@1").parameters())
    assert 0 < whole - widest < 0.3e6


def as_the_paper_counts(size):
    """GMAC of the receiver at 1920x1080, with the columns that are zero in narrow networks."""
    full = PRESETS["full_interfaces"].at(1.0)
    grid, hyper_grid = 160 * 90, 40 * 22.5
    c, h, (t1, t2), (p1, p2) = size.latent, size.hyper, size.temporal, size.parameters
    normalised = 21 * grid * full.latent * c
    decoder = 25 * 5 * grid * c * c + 81 * 16 * grid * c * 3 + normalised
    temporal = 25 * grid * (full.latent * t1 + t1 * t2 + t2 * size.prior)
    parameters = grid * (2 * size.prior * p1 + p1 * p2 + p2 * 2 * full.latent)
    hyper = 25 * hyper_grid * h * (size.hyper_latent + 4 * h) + 9 * grid * h * size.prior
    return (decoder + temporal + parameters + hyper) / 1e9


@pytest.mark.parametrize("number", range(5))
def test_macs_by_width_are_the_papers(number):
    size = PRESETS["full_interfaces"].at(WIDTHS[number])
    assert as_the_paper_counts(size) == pytest.approx(RECEIVER[number], rel=0.05)


def test_macs_that_are_executed_leave_out_what_is_zero():
    """At full width nothing is; frames of 1080 rows are padded to 1104."""
    found = [
        decoder_macs(on_shapes(f"full_interfaces@{width:g}"), 1080, 1920).total / 1e9
        for width in WIDTHS
    ]
    padded = 1104 / 1080
    assert found[-1] == pytest.approx(padded * RECEIVER[-1], rel=0.005)
    assert all(a < padded * b for a, b in zip(found[:-1], RECEIVER[:-1], strict=True))


# ---------------------------------------------------------------------- widths


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_an_extracted_width_codes_bit_for_bit_alike(preset):
    torch.manual_seed(1)
    codec = vcodecs.create("slimvc", preset).eval()
    for rate, width in enumerate(WIDTHS):
        alone = codec.extract(width)
        for one, other in zip(coded(codec, float(rate)), coded(alone, None), strict=True):
            assert torch.equal(one.frame, other.frame)
            assert all(torch.equal(one.bits[key], other.bits[key]) for key in one.bits)


def test_what_is_beyond_a_width_has_no_say_in_it(codec):
    before = codec.extract(0.5)
    changed = vcodecs.create("slimvc", "tiny").eval()
    changed.load_state_dict(codec.state_dict())
    with torch.no_grad():
        changed.encoder[2].weight[8:].add_(1)
        changed.temporal_prior[0].weight[:, 8:].add_(1)
    after = changed.extract(0.5)
    same = zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_batch_may_hold_frames_of_several_widths(codec):
    rates = torch.tensor([0.0, 4.0, 2.0])
    frames = CLIP[1:]
    with torch.no_grad():
        together = codec(frames, Reference(CLIP[:1].repeat(3, 1, 1, 1)), rates)
        for i, rate in enumerate(rates.tolist()):
            alone = codec(frames[i : i + 1], Reference(CLIP[:1]), rate)
            assert torch.allclose(together.frame[i], alone.frame[0], atol=1e-5)
            assert float(together.bits["latent"][i]) == pytest.approx(
                float(alone.bits["latent"]), rel=1e-4
            )


def test_a_change_of_width_starts_from_the_picture_alone(codec):
    first = coded(codec, 0.0, CLIP[:2])[0]
    with torch.no_grad():
        changed = codec(CLIP[2:3], first.reference, 3.0)
        anew = codec(CLIP[2:3], Reference(first.reference.frame), 3.0)
    assert torch.equal(changed.frame, anew.frame)


def test_errors_do_not_add_up(codec):
    """The latent is within a rounding of the encoder's own, whatever was before."""
    alone = codec.extract(1.0)
    for frame, found in zip(CLIP[1:], coded(alone, None), strict=True):
        with torch.no_grad():
            latent = alone.encoder(pad(frame[None], multiple=48))
        assert float((latent - found.reference.latent).abs().max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("rate", [None, -0.1, 4.1])
def test_a_rate_is_needed_and_has_to_be_within_range(codec, rate):
    with pytest.raises(UserError, match="rate"):
        coded(codec, rate, CLIP[:2])


def test_graphs_are_those_of_one_width(codec):
    with pytest.raises(UserError, match=r"slimvc tiny has 5 widths.*tiny@1"):
        codec.decoder_graphs(96, 96)
    with pytest.raises(UserError, match=r"there are 0\.25, 0\.375"):
        codec.extract(0.3)


def test_frames_are_padded_to_multiples_of_48(codec):
    alone = codec.extract(1.0)
    graph = alone.decoder_graphs(50, 97)[0]
    assert graph.size == (96, 144)
    reference = coded(alone, None, CLIP[:2])[0].reference
    assert reference.frame.shape[2:] == (96, 144)
    assert reference.latent.shape[2:] == (8, 12)


# ---------------------------------------------------------------------- pruning, bits, bundles


def test_one_width_is_pruned_like_any_codec(codec):
    alone = codec.extract(1.0)
    channels = find_groups(alone)
    made = {m.layer for group in channels.groups for m in group.producers()}
    assert {"temporal_prior.0", "entropy_parameters.0", "hyper_decoder.0", "decoder.1"} <= made
    kept = {g.name: list(range(0, g.size, 2)) for g in channels.groups}
    masked = masked_copy(alone, channels, kept)
    receiver = TorchNetworks(shrunk_copy(masked, kept))
    assert check_decodes(masked, receiver, CLIP, "the shrunk codec") == 2


def test_the_rate_of_each_frame_selects_its_width_in_torch_and_in_bundles(codec, tmp_path):
    export_bundle(codec, tmp_path, Size(96, 144))
    assert check_bundle(codec, tmp_path, CLIP) == 10
    sender, receiver = TorchNetworks(codec), open_networks(tmp_path, setting=Setting(threads=1))
    here = there = {"reference": pad(CLIP[:1], multiple=48).numpy()}
    for frame, rate in zip(CLIP[1:], (4.0, 1.0, 1.2), strict=True):
        sent = compress(sender, pad(frame[None], multiple=48), here, rate)
        got = decompress(receiver, sent.payload, there, (96, 144), rate)
        assert all(np.array_equal(got.symbols[name], sent.symbols[name]) for name in sent.symbols)
        here, there = sent.following, got.following
    assert here["level"] == there["level"] == 1


def test_the_senders_work_is_what_its_own_modules_take():
    alone = on_shapes("tiny@1")
    assert set(encoder_macs(alone, 96, 96).by_module) >= {"hyper_encoder"}


def test_weights_load_strictly(tmp_path):
    codec = fill_codec(vcodecs.create("slimvc", "tiny@0.5")).eval()
    path = tmp_path / "half.safetensors"
    vcodecs.checkpoints.save(codec, path)
    again = vcodecs.create("slimvc", checkpoint=path)
    assert again.preset == "tiny@0.5"
    with pytest.raises(UserError, match="made for preset"):
        vcodecs.create("slimvc", "tiny", path)


def test_a_width_takes_its_weights_out_of_those_of_all_widths(codec, tmp_path):
    path = tmp_path / "all.safetensors"
    vcodecs.checkpoints.save(codec, path)
    half = vcodecs.create("slimvc", "tiny@0.5", path).eval()
    for one, other in zip(coded(half, None), coded(codec, 2.0), strict=True):
        assert torch.equal(one.frame, other.frame)
    with pytest.raises(UserError, match=r"made for preset tiny, not small@0\.5"):
        vcodecs.create("slimvc", "small@0.5", path)
