"""DCVC-HEM and its intra codec at work: predictions, rates by clip, gradients, fresh codecs."""

import pytest
import torch
from hem import INTRA, VIDEO, both_codecs, lively, record
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_fill import picture

import vcodecs
from vcodecs import Reference
from vcodecs.dcvc_hem.video import ENCODER_ONLY
from vcodecs.motion import warp


def psnr(a, b):
    return float(-10 * (a - b).square().mean().log10())


# ---------------------------------------------------------------------- frames


@both_codecs
@settings(max_examples=6, deadline=None, derandomize=True)
@given(height=st.integers(16, 130), width=st.integers(16, 130), rate=st.floats(0, 3))
def test_frames_of_any_size_are_coded_at_any_rate(name, height, width, rate):
    codec, reference = lively(name), Reference(picture(height, width))
    with torch.no_grad():
        for t in (1, 2):
            coded = codec(picture(height, width, float(t)), reference, rate)
            reference = coded.reference
            assert coded.frame.shape == (1, 3, height, width)
            assert coded.frame.isfinite().all() and coded.frame.min() >= 0
            assert all(bits.isfinite().all() and bits > 0 for bits in coded.bits.values())


@both_codecs
def test_every_clip_of_a_batch_is_coded_at_its_own_rate(name):
    codec, rates = lively(name), (0.3, 2.6)
    frames = torch.cat((picture(64, 80, 1.0), picture(64, 80, 2.0)))
    previous = torch.cat((picture(64, 80), picture(64, 80, 1.5)))
    with torch.no_grad():
        together = codec(frames, Reference(previous), torch.tensor(rates))
        for n, rate in enumerate(rates):
            alone = codec(frames[n : n + 1], Reference(previous[n : n + 1]), rate)
            assert torch.allclose(together.frame[n], alone.frame[0], rtol=0, atol=1e-5)
            for stream, bits in alone.bits.items():
                assert torch.allclose(together.bits[stream][n], bits[0], rtol=1e-4)
        swapped = codec(frames, Reference(previous), torch.tensor(rates[::-1]))
    assert not torch.allclose(swapped.frame, together.frame, atol=1e-3)


def test_the_intra_codec_reads_nothing_of_its_reference():
    codec, frame = lively(INTRA), picture(64, 64)
    nothing = Reference(torch.full((1, 3, 64, 64), torch.nan))
    with torch.no_grad():
        coded, again = codec(frame, Reference(frame), 1.0), codec(frame, nothing, 1.0)
    assert torch.equal(coded.frame, again.frame)
    assert torch.equal(coded.reference.frame, again.reference.frame)
    assert all(torch.equal(coded.bits[stream], again.bits[stream]) for stream in coded.bits)
    assert set(coded.bits) == {"latent", "latent_hyper"}
    assert codec.tied_channels() == ()


@pytest.mark.parametrize(
    ("upto", "streams", "last"),
    [("flow", set(), "optic_flow"), ("motion", {"motion", "motion_hyper"}, "mv_decoder")],
)
def test_a_prediction_is_the_warped_reference_and_nothing_behind_it_runs(upto, streams, last):
    codec = lively(VIDEO)
    frame, reference = picture(64, 64, 1.0), Reference(picture(64, 64))
    outputs = record(codec, frame, reference, 1.0).outputs
    motion = {"flow": outputs["optic_flow"][0], "motion": outputs["mv_decoder"]}[upto]
    ran = []
    for name, child in codec.named_children():
        child.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        coded = codec(frame, reference, 1.0, upto)
    assert torch.equal(coded.frame, warp(reference.frame, motion).clamp(0, 1))
    assert set(coded.bits) == streams
    assert last in ran
    assert not {"feature_extractor", "contextual_encoder", "y_prior_fusion"} & set(ran)


# ---------------------------------------------------------------------- gradients

# Gates of the tiny preset have a single hidden channel, which may be off for all pictures.
GATE = ".fc."


@both_codecs
def test_in_training_every_parameter_has_a_gradient_at_every_rate_point(name):
    codec = lively(name).train()
    rates = torch.tensor([0.5, 2.5])  # between them they need all four rate points
    frames = torch.cat((picture(64, 64), picture(64, 64, 4.0)))
    reference, loss = Reference(frames), 0
    for t in (1.0, 2.0):  # the first P frame adapts the picture, the second the feature
        coded = codec(frames + 0.05 * t, reference, rates)
        loss = loss + 100 * coded.frame.square().mean() + coded.total_bits().sum()
        reference = coded.reference
    loss.backward()
    for key, parameter in codec.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any() or GATE in key, key
        if key.endswith("q_scale"):
            assert parameter.grad.all(), key


@pytest.mark.parametrize("stage", [0, 1])
def test_a_prediction_in_training_reaches_all_that_its_stage_trains(stage):
    codec = lively(VIDEO).train()
    stage = codec.stages()[stage]
    frame, reference = picture(64, 64, 1.0), Reference(picture(64, 64))
    coded = codec(frame, reference, 1.5, stage.picture)
    loss = (coded.frame - frame).square().mean() + coded.total_bits(stage.streams).sum()
    (loss + (0 if coded.auxiliary is None else coded.auxiliary)).backward()
    for name, parameter in codec.named_parameters():
        if name.split(".")[0] in stage.modules:
            assert parameter.grad is not None and parameter.grad.any(), (stage.name, name)


def test_gradients_of_a_later_frame_reach_the_first_through_all_that_is_kept():
    codec = lively(VIDEO).train()
    first = codec(picture(64, 64, 1.0), Reference(picture(64, 64)), 1.5).reference
    kept = first.tensors()
    for value in kept.values():
        value.retain_grad()
    second = codec(picture(64, 64, 2.0), first, 1.5)
    (second.frame.square().mean() + second.total_bits().sum()).backward()
    for field, value in kept.items():
        assert value.grad is not None and value.grad.any(), field
    assert not any(value.requires_grad for value in first.detached().tensors().values())


@both_codecs
def test_training_shows_the_same_picture_as_eval_but_draws_its_bits_with_noise(name):
    codec = lively(name)
    frame, reference = picture(64, 64, 1.0), Reference(picture(64, 64))
    with torch.no_grad():
        real, again = codec(frame, reference, 1.5), codec(frame, reference, 1.5)
        codec.train()
        drawn, other = codec(frame, reference, 1.5), codec(frame, reference, 1.5)
    assert torch.equal(drawn.frame.clamp(0, 1), real.frame)
    assert torch.equal(drawn.frame, other.frame)
    for stream in real.bits:
        assert torch.equal(real.bits[stream], again.bits[stream])
        assert not torch.equal(drawn.bits[stream], other.bits[stream])
        assert float(drawn.bits[stream]) == pytest.approx(float(real.bits[stream]), rel=0.2)


@both_codecs
def test_the_stages_train_all_modules_and_charge_streams_that_exist(name):
    codec = lively(name)
    coded = record(codec, picture(64, 64, 1.0), Reference(picture(64, 64)), 1.0).coded
    children = {child for child, module in codec.named_children() if list(module.parameters())}
    own = {parameter for parameter, _ in codec.named_parameters(recurse=False)}
    for stage in codec.stages():
        assert set(stage.modules) <= children | own, stage.name
        assert set(stage.streams or ()) <= set(coded.bits), stage.name
    assert {name for stage in codec.stages() for name in stage.modules} == children | own
    encoder = set(ENCODER_ONLY) if name == VIDEO else {"enc", "hyper_enc"}
    assert children - set(codec.decoder_modules()) == encoder


# ---------------------------------------------------------------------- fresh codecs


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("rate", [0.0, 1.5, 3.0])
def test_a_fresh_small_codec_is_as_good_as_repeating_the_i_frame(preset, rate):
    for seed in range(3):
        torch.manual_seed(seed)
        codec = vcodecs.create(VIDEO, preset).eval()
        shown = picture(64, 64, seed)
        reference = Reference(shown)
        for t in (1, 2):
            frame = picture(64, 64, seed + 0.2 * t)
            with torch.no_grad():
                coded = codec(frame, reference, rate)
            reference = coded.reference
            assert psnr(coded.frame, frame) > psnr(shown, frame) - 0.2, (seed, t)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_a_fresh_small_intra_codec_shows_the_picture(preset):
    for seed in range(3):
        torch.manual_seed(seed)
        codec = vcodecs.create(INTRA, preset).eval()
        frame = picture(64, 64, seed)
        with torch.no_grad():
            coded = codec(frame, Reference(frame), 1.5)
        assert psnr(coded.frame, frame) > {"tiny": 10, "small": 25}[preset]


# Fresh hyper latents all round to zero: what multiplies nothing but them waits for the encoder.
READERS_OF_ZEROS = {
    *("mv_hyper_prior_decoder.0.weight", "contextual_hyper_prior_decoder.0.weight"),
    "hyper_dec.0.weight",
}


@both_codecs
def test_no_part_of_a_fresh_small_codec_stays_without_gradient(name):
    codec = vcodecs.create(name, "tiny").train()
    reached = set()
    optimizer = torch.optim.Adam(codec.parameters(), 1e-3)
    for step in range(4):
        reference, loss = Reference(picture(64, 64, step)), 0
        for t in (1.0, 2.0):
            frame = picture(64, 64, step + t)
            coded = codec(frame, reference, step * 1.0)
            loss = loss + 1000 * (coded.frame - frame).square().mean()
            loss = loss + coded.total_bits().mean() / 64**2
            reference = coded.reference
        optimizer.zero_grad()
        loss.backward()
        reached |= {key for key, p in codec.named_parameters() if p.grad.any()}
        optimizer.step()
    missed = {key for key, _ in codec.named_parameters()} - reached
    assert not {key for key in missed - READERS_OF_ZEROS if GATE not in key}
