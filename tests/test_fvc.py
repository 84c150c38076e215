"""FVC: names, sizes, costs, training and fusion.

As in `test_dcvc`, comparisons with the official network read a folder of reference data, the
environment variable LEANVC_REFERENCE or else `shared/reference` beside the repository, and are
skipped where there is none. The facts that must hold everywhere are written down here.
"""

import json
import zlib

import pytest
import torch
from fvc import lively, needs_reference, official, pictures
from reference_fill import REFERENCE, picture
from torch.nn import functional as F

from prune.measure.macs import decoder_macs, encoder_macs, parameters
from prune.training.loss import rate_distortion
from prune.training.trainer import select_modules
from vcodecs import Reference, UserError
from vcodecs.fvc import FVC
from vcodecs.fvc.fusion import Fusion

# ---------------------------------------------------------------------- names, shapes, loading

TENSORS, PARAMETERS = 241, 21_049_427
LISTING = "e14d56ca"


def test_the_official_preset_has_the_published_size():
    state = official().state_dict()
    assert sum(value.numel() for value in official().parameters()) == PARAMETERS
    assert sum(value.numel() for value in state.values()) == PARAMETERS, "no buffers"
    assert len(state) == TENSORS
    assert {value.dtype for value in state.values()} == {torch.float32}
    weights = state["aligner.deformable_convolution.conv_offset.weight"]
    assert weights.shape == (144, 64, 3, 3)
    assert "aligner.deformable_convolution.bias" not in state


def test_the_official_preset_has_the_published_names_and_shapes():
    state = official().state_dict()
    listing = "\n".join(f"{key} {tuple(state[key].shape)}" for key in sorted(state))
    assert f"{zlib.crc32(listing.encode()):08x}" == LISTING


@needs_reference
def test_names_shapes_and_counts_are_those_of_the_official_class():
    theirs = json.loads((REFERENCE / "fvc_params.json").read_text())
    listed = {key: (tuple(shape), dtype) for key, shape, dtype in theirs["state_dict"]}
    assert {
        key: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in official().state_dict().items()
    } == listed
    assert (theirs["num_tensors"], theirs["num_parameters"]) == (TENSORS, PARAMETERS)
    assert theirs["num_buffer_elements"] == 0


@needs_reference
def test_the_weights_of_the_reference_data_can_be_made_again():
    checksums = json.loads((REFERENCE / "fill_checksums.json").read_text())["fvc"]
    state = official().state_dict()
    made = {key: f"{zlib.crc32(value.numpy().tobytes()):08x}" for key, value in state.items()}
    assert made == checksums


def test_loading_takes_all_that_is_known_and_passes_over_modules_that_are_not():
    source, codec = lively().state_dict(), FVC("tiny")
    codec.load_official({f"module.{key}": value for key, value in source.items()})
    assert all(torch.equal(value, source[key]) for key, value in codec.state_dict().items())
    codec.load_official(source | {"warpnet.conv1.weight": torch.zeros(3)})
    bias = "resDecoder.deconv3.bias"
    changed = {
        bias: {key: value for key, value in source.items() if key != bias},
        "resDecoder.deconv4.bias": source | {"resDecoder.deconv4.bias": torch.zeros(1)},
        "Decoder.deconv1.bias": source | {"Decoder.deconv1.bias": torch.zeros(4)},
    }
    for told, wrong in changed.items():
        with pytest.raises(UserError, match=f"does not fit fvc, preset tiny: .*{told}"):
            codec.load_official(wrong)


def test_small_presets_are_small():
    pixels = 1920 * 1088
    assert sum(p.numel() for p in FVC("tiny").parameters()) <= 60_000
    for preset, least in (("small", 100_000), ("fusion", 90_000)):
        codec = FVC(preset)
        assert sum(p.numel() for p in codec.parameters()) <= 2_500_000
        assert least <= decoder_macs(codec, 1088, 1920).total / pixels <= 200_000


# ---------------------------------------------------------------------- cost

DECODER_MACS = {
    "Encoder": 118_017_884_160,
    "OffsetPriorDecoder": 5_071_994_880,
    "EntropyCoding_offsetf": 17_112_760_320,
    "EntropyCoding_offsetz": 0,
    "aligner.offset_decoder": 187_839_283_200,
    "aligner.deformable_convolution": 62_568_529_920,  # without the fetching
    "aligner.refine_conv1": 38_503_710_720,
    "aligner.refine_conv2": 19_251_855_360,
    "resPriorDecoder": 5_071_994_880,
    "EntropyCoding_residualf": 17_112_760_320,
    "EntropyCoding_residualz": 0,
    "resDecoder": 187_839_283_200,
    "Decoder": 118_017_884_160,
}
ENCODER_MACS = {
    "aligner.offset_conv1": 38_503_710_720,
    "aligner.offset_conv3": 19_251_855_360,
    "aligner.offset_encoder": 187_839_283_200,
    "OffsetPriorEncoder": 2_247_720_960,
    "resEncoder": 187_839_283_200,
    "resPriorEncoder": 2_247_720_960,
}
FETCHING = 4 * 9 * 64 * (1920 // 2) * (1088 // 2)


def test_every_module_of_the_decoder_takes_the_macs_of_the_official_one_and_the_fetching():
    expected = dict(DECODER_MACS)
    expected["aligner.deformable_convolution"] += FETCHING
    found = decoder_macs(official(), 1088, 1920)
    assert found.by_module == expected
    offsets = found.by_layer["aligner.deformable_convolution.conv_offset"]
    assert offsets == 9 * 64 * 144 * (1920 // 2) * (1088 // 2), "in no other layer's figure"


def test_every_module_of_the_sender_alone_takes_the_macs_of_the_official_one():
    assert encoder_macs(official(), 1088, 1920).by_module == ENCODER_MACS


@needs_reference
def test_the_costs_written_down_here_are_those_of_the_reference():
    theirs = json.loads((REFERENCE / "macs.json").read_text())["codecs"]["fvc"]["modules"]
    for role, ours in (("decoder", DECODER_MACS), ("encoder", ENCODER_MACS)):
        modules = {key: entry for key, entry in theirs.items() if entry["role"].startswith(role)}
        assert ours == {key: entry["macs_1920x1088"] for key, entry in modules.items()}
        assert {key: parameters(official(), (key,)) for key in ours} == {
            key: entry["params"] for key, entry in modules.items()
        }


# ---------------------------------------------------------------------- training


def test_parts_are_the_halves_of_what_the_receiver_runs_only_in_part():
    codec = FVC("tiny")
    parts = codec.parts()
    assert "aligner" not in parts and "aligner.offset_conv1" in parts
    assert "aligner.deformable_convolution" in parts and "Encoder" in parts
    assert set(codec.decoder_modules()) < set(parts)
    held = [p for name in parts for p in codec.get_submodule(name).parameters()]
    assert len(held) == len(set(held)) == len(list(codec.parameters()))
    trained = {name for stage in codec.stages() for name in stage.modules}
    assert trained == {name for name in parts if list(codec.get_submodule(name).parameters())}


def test_a_stage_trains_parts_of_a_child():
    codec = FVC("tiny")
    select_modules(codec, ("aligner.refine_conv1", "Decoder"))
    free = {name for name, p in codec.named_parameters() if p.requires_grad}
    decoder = {f"Decoder.{name}" for name, _ in codec.Decoder.named_parameters()}
    assert free == decoder | {"aligner.refine_conv1.weight", "aligner.refine_conv1.bias"}


@pytest.mark.parametrize("preset", ["tiny", "fusion"])
def test_every_stage_has_gradients_for_all_that_it_trains(preset):
    codec = FVC(preset).train()
    for stage in codec.stages():
        codec.zero_grad()
        clip = torch.stack([picture(64, 64, 0.3 * t) for t in range(stage.frames + 1)], dim=1)
        rate_distortion(codec, clip, stage, 100).loss.backward()
        for module in stage.modules:
            for name, p in codec.get_submodule(module).named_parameters():
                assert p.grad is not None and p.grad.isfinite().all(), (stage.name, module, name)


@pytest.mark.parametrize("preset", ["small", "fusion"])
def test_small_presets_start_as_codecs_of_differences(preset):
    torch.manual_seed(0)
    codec, frame, previous = FVC(preset).eval(), picture(64, 64, 0.3), picture(64, 64)
    with torch.no_grad():
        coded = codec(frame, Reference(previous))
    moved = (frame - previous).square().mean()
    assert (coded.frame - frame).square().mean() < 0.1 * moved


def test_in_training_the_autoencoder_alone_counts_a_tenth():
    codec, frame = lively().train(), picture(64, 64, 1.0)
    coded = codec(frame, Reference(picture(64, 64)), upto="aligned")
    alone = F.mse_loss(codec.Decoder(codec.Encoder(frame)), frame)
    assert coded.auxiliary.item() == pytest.approx(0.1 * alone.item(), rel=1e-5)
    assert set(coded.bits) == {"motion", "motion_hyper"}
    assert codec.eval()(frame, Reference(picture(64, 64))).auxiliary is None


# ---------------------------------------------------------------------- fusion


def test_fusion_looks_at_three_pictures_and_keeps_two_of_them():
    codec = lively("fusion")
    records, first = pictures(codec, 64, 64, 3)
    shown = [first, *(seen.coded.frame for seen in records)]
    kept = [seen.coded.reference.feature for seen in records]
    for t, earlier in ((0, (0, 0)), (1, (1, 0)), (2, (2, 1))):
        assert torch.equal(kept[t], torch.cat([shown[i] for i in earlier], dim=1))


def test_behind_an_i_frame_its_picture_stands_in_for_those_before():
    codec, first, frame = lively("fusion"), picture(64, 64), picture(64, 64, 1.0)
    with torch.no_grad():
        alone = codec(frame, Reference(first))
        twice = codec(frame, Reference(first, torch.cat((first, first), dim=1)))
        other = codec(frame, Reference(first, torch.cat((first, frame), dim=1)))
    assert torch.equal(alone.frame, twice.frame)
    assert not torch.allclose(alone.frame, other.frame, atol=1e-4)


def test_each_position_takes_a_mixture_of_its_neighbourhood():
    fusion = Fusion(16)
    feature = torch.rand(1, 16, 6, 7)
    query = torch.zeros(1, 4, 6, 7)
    with torch.no_grad():
        values = fusion.value(feature)
        mean = F.avg_pool2d(F.pad(values, [1] * 4, mode="replicate"), 3, 1)
        assert torch.allclose(fusion._attend(query, feature), mean, atol=1e-5)
        # The neighbour that is most like the query takes it all.
        strong = 1e4 * fusion.key(feature)
        found = fusion._attend(strong, feature)
    rows, columns = values.shape[-2:]
    assert found.shape == (1, 4, rows, columns)
    for channel in range(4):
        near = F.max_pool2d(F.pad(values[:, channel], [1] * 4, mode="replicate"), 3, 1)
        assert (found[:, channel] <= near + 1e-5).all()


@pytest.mark.parametrize("preset", ["tiny", "fusion"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (65, 17), (100, 130)])
def test_frames_of_any_size_come_back_in_their_size(preset, height, width):
    codec, clip = lively(preset), torch.rand(3, 1, 3, height, width)
    reference = Reference(clip[0])
    for frame in clip[1:]:
        with torch.no_grad():
            coded = codec(frame, reference)
        reference = coded.reference
        assert coded.frame.shape == frame.shape and coded.frame.isfinite().all()
        assert all(bits.shape == (1,) and bits.isfinite().all() for bits in coded.bits.values())
