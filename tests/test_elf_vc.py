"""ELF-VC: sizes, levels, scale space, the flow predictor, and what a receiver makes of it."""

import elf
import numpy as np
import pytest
import torch
from reference_fill import picture
from torch.nn import functional as F

import vcodecs
from lvc.bundle import BundleNetworks
from lvc.program import decompress
from lvc.rates import RateError, level_weights
from lvc.runtimes import Setting
from prune.groups.find import find_groups
from prune.groups.shrink import largest_difference, masked_copy, shrunk_copy
from prune.measure.macs import decoder_macs, encoder_macs
from prune.onnx_export.bit_parity import check_bundle, check_decodes
from prune.onnx_export.bundle import Size, export_bundle
from prune.sparsify.cost import CostModel
from vcodecs import Reference, UserError
from vcodecs.coding import TorchNetworks, compress
from vcodecs.contract import pad
from vcodecs.elf_vc.blocks import DelayedMerge, level_vector, to_cells, to_pixels
from vcodecs.elf_vc.scale_space import BLURRED, scale_space_warp, volume
from vcodecs.motion import warp

CLIP = torch.cat([picture(100, 130, 0.1 * i) for i in range(4)])

# Of the specification, which fits the totals of the paper's ablations.
MODULES = {
    "flow_predictor": 1_115_808,
    "flow_encoder": 11_569_600,
    "flow_hyper_encoder": 2_175_552,
    "flow_hyper_decoder": 3_300_192,
    "flow_decoder": 687_120,
    "residue_encoder": 11_385_280,
    "residue_hyper_encoder": 2_175_552,
    "residue_hyper_decoder": 3_300_192,
    "residue_decoder": 2_251_632,
}
# Millions: all, and of the receiver alone (table 3 of the paper).
PAPER = {"official": (38, 11), "no_predictor": (37, 10)}


def size(codec, names):
    return sum(p.numel() for name in names for p in codec.get_submodule(name).parameters())


def coded(codec, rates, frames=CLIP):
    reference, found = Reference(frames[:1]), []
    with torch.no_grad():
        for frame, rate in zip(frames[1:], rates, strict=False):
            found.append(codec(frame[None], reference, rate))
            reference = found[-1].reference
    return found


@pytest.fixture(scope="module")
def codec():
    return elf.lively()


@pytest.fixture(scope="module")
def channels(codec):
    return find_groups(codec)


# ---------------------------------------------------------------------- sizes


def test_modules_have_the_parameters_of_the_specification():
    codec = elf.on_shapes("official")
    assert {name: size(codec, [name]) for name in MODULES} == MODULES


@pytest.mark.parametrize("preset", PAPER)
def test_totals_are_the_papers(preset):
    codec = elf.on_shapes(preset)
    everything, receiver = PAPER[preset]
    assert size(codec, codec.parts()) / 1e6 == pytest.approx(everything, abs=0.5)
    assert size(codec, codec.decoder_modules()) / 1e6 == pytest.approx(receiver, abs=0.5)


def test_a_predictor_is_a_thirtieth_of_the_codec_as_in_the_paper():
    with_one, without = (elf.on_shapes(preset) for preset in PAPER)
    more = size(with_one, with_one.parts()) - size(without, without.parts())
    assert more / 1e6 == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize(
    ("height", "width", "receiver", "sender"),
    [(1088, 1920, 284.9, 1020.6), (768, 1280, 134.1, 480.3), (512, 640, 44.7, 160.1)],
)
def test_macs_are_those_of_the_specification(height, width, receiver, sender):
    codec = elf.on_shapes("official")
    assert decoder_macs(codec, height, width).total / 1e9 == pytest.approx(receiver, abs=0.05)
    assert encoder_macs(codec, height, width).total / 1e9 == pytest.approx(sender, abs=0.06)


def test_no_layer_runs_at_more_than_a_quarter_of_the_size(codec):
    seen = []
    layers = [m for m in codec.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks = [
        m.register_forward_hook(lambda _m, given, made: seen.append((given[0], made)))
        for m in layers
    ]
    coded(codec, [3.0], CLIP[:2])
    for hook in hooks:
        hook.remove()
    assert seen and max(max(x.shape[2], y.shape[2]) for x, y in seen) == 128 // 4


# ---------------------------------------------------------------------- levels


def test_a_whole_level_is_one_of_eight_and_what_is_between_is_shared():
    like = torch.zeros(1)
    whole, between = (level_vector(rate, like).flatten().tolist() for rate in (3.0, 2.5))
    assert whole == [0, 0, 0, 1, 0, 0, 0, 0]
    assert between == [0, 0, 0.5, 0.5, 0, 0, 0, 0]
    several = level_vector(torch.tensor([0.0, 7.0, 0.25]), like)
    assert several.shape == (3, 8, 1, 1) and torch.equal(several.sum(1).flatten(), torch.ones(3))


@pytest.mark.parametrize("rate", [0.0, 0.1, 2.5, 6.9999, 7.0])
def test_a_receiver_without_torch_has_the_same_vector(rate):
    found = level_weights(8, rate)
    assert np.array_equal(found, level_vector(rate, torch.zeros(1)).numpy())
    assert found.dtype == np.float32


@pytest.mark.parametrize("rate", [None, -0.1, 7.1, float("nan")])
def test_a_rate_is_needed_and_has_to_be_within_range(codec, rate):
    with pytest.raises(UserError, match="0 to 7"):
        coded(codec, [rate])
    with pytest.raises(RateError, match="0 to 7"):
        level_weights(8, rate)


def test_frames_of_a_batch_have_levels_of_their_own(codec):
    rates, frames = torch.tensor([0.0, 4.5, 7.0]), CLIP[1:]
    with torch.no_grad():
        together = codec(frames, Reference(CLIP[:1].repeat(3, 1, 1, 1)), rates)
        for i, rate in enumerate(rates.tolist()):
            alone = codec(frames[i : i + 1], Reference(CLIP[:1]), rate)
            assert torch.allclose(together.frame[i], alone.frame[0], atol=1e-4)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_before_training_small_codecs_are_classical_ones_whose_bits_rise_with_the_level(preset):
    torch.manual_seed(0)
    codec, frames = vcodecs.create("elf_vc", preset).eval(), CLIP[::3]
    bits = [float(coded(codec, [rate], frames)[0].bits["latent"]) for rate in range(8)]
    assert bits == sorted(bits) and bits[-1] > 2 * bits[0]
    errors = [
        float((coded(codec, [rate], frames)[0].frame - frames[1:]).square().mean())
        for rate in (0.0, 7.0)
    ]
    assert errors[1] < errors[0] < 0.7 * float((frames[0] - frames[1]).square().mean())


def test_a_paper_preset_copies_the_reference_before_training():
    codec = vcodecs.create("elf_vc", "no_predictor").eval()
    codec.flow_decoder.head.bias.data[32:48] = -30  # as sharp as can be
    found = coded(codec, [3.0], CLIP[:2])[0]
    assert torch.allclose(found.frame, CLIP[:1], atol=1e-5)


# ---------------------------------------------------------------------- blocks


def test_cells_are_pixels_in_another_order():
    assert torch.equal(to_pixels(to_cells(CLIP[:1, :, :64, :64])), CLIP[:1, :, :64, :64])


@torch.no_grad()
def test_a_delayed_merge_adds_up_and_joins_once():
    block, x = DelayedMerge(3, 4, 5), torch.randn(1, 3, 6, 6)
    made = [F.leaky_relu(block.convs[0](x), 0.1)]
    for layer in list(block.convs)[1:]:
        made.append(made[-1] + F.leaky_relu(layer(made[-1]), 0.1))
    assert len(made) == 4
    assert torch.allclose(block(x), block.merge(torch.cat(made, 1)), atol=1e-6)


def test_slices_are_those_of_compressai():
    models = pytest.importorskip("compressai.models.video.google")
    x = torch.rand(1, 3, 64, 96)
    theirs = models.ScaleSpaceFlow.gaussian_volume(x, 1.5, BLURRED)
    ours = torch.stack(volume(x), dim=2)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_sharp_warp_is_a_plain_one_and_whole_displacements_are_exact():
    x = torch.rand(1, 3, 64, 64)
    sharp = torch.zeros(1, 1, 64, 64)
    flow = 3 * torch.randn(1, 2, 64, 64)
    assert torch.allclose(scale_space_warp(x, flow, sharp), warp(x, flow), atol=1e-6)
    moved = scale_space_warp(x, torch.tensor([2.0, 1.0]).view(1, 2, 1, 1) + 0 * flow, sharp)
    assert torch.allclose(moved[..., :-1, :-2], x[..., 1:, 2:], atol=1e-4)


def test_the_blend_of_moved_slices_is_trilinear_sampling_of_the_volume():
    x, flow = torch.rand(2, 3, 64, 64), 4 * torch.randn(2, 2, 64, 64)
    depth = BLURRED * torch.rand(2, 1, 64, 64)
    slices = torch.stack(volume(x), dim=2)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    grid = torch.stack(
        (
            (columns + flow[:, 0]) * 2 / 63 - 1,
            (rows + flow[:, 1]) * 2 / 63 - 1,
            depth[:, 0] * 2 / BLURRED - 1,
        ),
        dim=-1,
    ).unsqueeze(1)
    sampled = F.grid_sample(slices, grid, padding_mode="border", align_corners=True)[:, :, 0]
    assert torch.allclose(scale_space_warp(x, flow, depth), sampled, atol=1e-5)


# ---------------------------------------------------------------------- P frames


def test_what_is_kept_has_the_sizes_of_the_specification(codec):
    reference = coded(codec, [1.0], CLIP[:2])[0].reference
    shapes = {name: tuple(value.shape[1:]) for name, value in reference.tensors().items()}
    whole = (3, 128, 192)
    assert shapes == {"frame": whole, "flow": whole, "earlier": whole, "feature": (16, 32, 48)}


def test_the_predictor_knows_two_pictures_and_the_last_flow(codec):
    seen = []
    hook = codec.flow_predictor.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    first, second = coded(codec, [1.0, 1.0])[:2]
    hook.remove()
    intra = pad(CLIP[:1])
    assert torch.equal(seen[0][0], to_cells(intra)) and torch.equal(seen[0][0], seen[0][1])
    assert not seen[0][2].any()
    assert torch.equal(seen[1][0], to_cells(first.reference.frame))
    assert torch.equal(seen[1][1], to_cells(intra))
    assert torch.equal(seen[1][2], to_cells(first.reference.state["flow"]))
    assert torch.equal(second.reference.state["earlier"], first.reference.frame)


def test_a_closed_mask_leaves_what_the_codec_without_predictor_does(codec):
    level, x = level_vector(2.0, CLIP), pad(CLIP[:1])
    latent, state = torch.randn(1, 16, 8, 12), torch.randn(1, 16, 32, 48)
    closed = elf.lively()
    closed.flow_decoder.head.bias.data[48:] = -1e4
    with torch.no_grad():
        prediction = torch.randn(1, 2, 128, 192)
        masked = closed.compensate(latent, prediction, x, state, level)
        without = closed.compensate(latent, torch.zeros_like(prediction), x, state, level)
    for one, other in zip(masked, without, strict=True):
        assert torch.equal(one, other)


def test_training_reaches_every_weight_of_each_stage():
    codec = elf.lively().train()
    for stage in codec.stages():
        codec.zero_grad()
        reference, loss = Reference(CLIP[:1]), torch.zeros(())
        upto = None if stage.picture == "frame" else stage.picture
        for t in range(1, stage.frames + 1):
            made = codec(CLIP[t : t + 1], reference, torch.tensor([3.4]), upto)
            loss = loss + (made.frame - CLIP[t : t + 1]).square().mean()
            loss = loss + 1e-5 * made.total_bits(stage.streams).mean()
            reference = made.reference
        loss.backward()
        for name in stage.modules:
            for inner, parameter in codec.get_submodule(name).named_parameters():
                assert parameter.grad is not None and parameter.grad.any(), f"{name}.{inner}"


# ---------------------------------------------------------------------- pruning, bits, bundles


def test_every_layer_of_the_decoder_is_in_a_group_or_says_why_it_stays(codec, channels):
    reasons = ("motion vector", "result of the decoder", "reference frame", "no convolution")
    assert all(any(part in reason for part in reasons) for reason in channels.fixed.values())
    known = {m.layer for g in channels.groups for m in g.producers()} | channels.fixed.keys()
    for name in codec.decoder_modules():
        for inner, layer in codec.get_submodule(name).named_modules():
            full = f"{name}.{inner}" if inner else name
            if any(True for _ in layer.parameters(recurse=False)):
                assert any(full == k or full.startswith(f"{k}.") for k in known), full


def test_convolutions_that_add_up_are_one_group_and_the_state_is_another(channels):
    made = [{m.layer for m in group.producers()} for group in channels.groups]
    assert {f"residue_decoder.blocks.2.convs.{i}" for i in range(4)} in made
    state = next(g for g in channels.groups if "residue_decoder.last.merge" in
                 {m.layer for m in g.producers()})  # fmt: skip
    read = {m.layer for m in state.members}
    assert {"flow_decoder.last.convs.0", "flow_encoder.blocks.0.convs.0"} <= read


def test_shrunk_codes_as_masked_does_and_costs_what_the_model_says(codec, channels):
    kept = {g.name: [c for c in range(g.size) if c % 3 != 1] for g in channels.groups}
    masked, shrunk = masked_copy(codec, channels, kept), shrunk_copy(codec, kept, channels)
    assert largest_difference(masked, shrunk, [CLIP]) < 1e-4
    assert check_decodes(masked, TorchNetworks(shrunk), CLIP, "the shrunk codec") == 2
    model = CostModel(codec, channels, 128, 128)
    counts = model.sizes.new_tensor([len(kept[g.name]) for g in channels.groups])
    assert float(model.total(counts)) == pytest.approx(decoder_macs(shrunk, 128, 128).total)


@pytest.mark.parametrize("preset", ["tiny", "small_no_predictor"])
def test_a_bundle_reads_what_torch_codes_at_levels_that_change_with_every_frame(preset, tmp_path):
    codec = elf.lively(preset)
    export_bundle(codec, tmp_path, Size(128, 192))
    assert check_bundle(codec, tmp_path, CLIP) >= 2
    sender, receiver = TorchNetworks(codec), BundleNetworks(tmp_path, setting=Setting(threads=1))
    here = there = {"reference": pad(CLIP[:1]).numpy()}
    for frame, rate in zip(CLIP[1:], (7.0, 0.3, 4.5), strict=True):
        sent = compress(sender, pad(frame[None]), here, rate)
        got = decompress(receiver, sent.payload, there, (128, 192), rate)
        assert all(np.array_equal(got.symbols[name], sent.symbols[name]) for name in sent.symbols)
        assert np.abs(got.following["reference"] - sent.following["reference"]).max() < 1e-3
        here, there = sent.following, got.following


def test_the_receiver_has_the_senders_pictures_state_and_flow_over_sixteen_frames(codec):
    networks = TorchNetworks(codec)
    here = there = {"reference": picture(64, 64).numpy()}
    for t in range(1, 17):
        rate = float(np.float32(7 * ((t * 5) % 16) / 15))
        sent = compress(networks, picture(64, 64, 0.1 * t), here, rate)
        got = decompress(networks, sent.payload, there, (64, 64), rate)
        here, there = sent.following, got.following
        assert here.keys() == there.keys()
        assert {"previous_feature", "previous_flow", "previous_earlier"} <= here.keys()
        assert all(np.array_equal(here[name], there[name]) for name in here)
