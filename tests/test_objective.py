"""The rate-distortion loss, on a fake codec whose every result is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prune.training.loss import rate_distortion
from vcodecs import CodedFrame, Reference, Stage

LAGRANGIAN = 100.0
SIDE = 8
PIXELS = SIDE * SIDE


class Fake(nn.Module):
    """Shows the reference times `gain`, leaves that plus 0.125 as the next one; bits by clip."""

    def __init__(self, gain=1.0, auxiliary=None):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.auxiliary = auxiliary
        self.calls = []

    def forward(self, frame, reference, rate=None, upto=None):
        picture = self.gain * reference.frame
        coded = CodedFrame(
            picture,
            Reference(picture + 0.125),
            {
                "motion": 64 * frame[:, 0, 0, 0],
                "latent": 640 * torch.ones(frame.shape[0]),
            },
            self.auxiliary,
        )
        self.calls.append((frame, reference, rate, upto, coded))
        return coded


def clip(*values, batch=1):
    """A clip of flat frames of these values."""
    frames = torch.tensor(values).reshape(1, -1, 1, 1, 1)
    return frames.expand(batch, -1, 3, SIDE, SIDE).clone()


def stage(**settings):
    return Stage("joint", ("gain",), **settings)


def test_the_loss_is_lambda_times_the_squared_error_plus_bits_per_pixel():
    outcome = rate_distortion(Fake(), clip(0.5, 0.75), stage(), LAGRANGIAN)
    bpp = (64 * 0.75 + 640) / PIXELS
    assert outcome.loss.item() == pytest.approx(LAGRANGIAN * 0.25**2 + bpp)
    assert outcome.bpp.item() == pytest.approx(bpp)
    assert outcome.mse.item() == pytest.approx(0.25**2)


@pytest.mark.parametrize(
    ("streams", "bits"),
    [(None, 64 * 0.75 + 640), (("motion",), 64 * 0.75), (("latent",), 640), ((), 0)],
)
def test_only_the_streams_of_the_stage_are_charged(streams, bits):
    outcome = rate_distortion(Fake(), clip(0.75, 0.75), stage(streams=streams), LAGRANGIAN)
    assert outcome.bpp.item() == pytest.approx(bits / PIXELS)
    assert outcome.loss.item() == pytest.approx(bits / PIXELS)


def test_loss_rate_and_error_are_means_over_the_p_frames():
    # References 0.5, 0.625, 0.75 against originals 0.5, 0.5, 1.
    outcome = rate_distortion(
        Fake(), clip(0.5, 0.5, 0.5, 1.0), stage(streams=("motion",), frames=3), LAGRANGIAN
    )
    error = (0 + 0.125**2 + 0.25**2) / 3
    bpp = 64 * (0.5 + 0.5 + 1) / 3 / PIXELS
    assert outcome.mse.item() == pytest.approx(error)
    assert outcome.bpp.item() == pytest.approx(bpp)
    assert outcome.loss.item() == pytest.approx(LAGRANGIAN * error + bpp)


def test_every_p_frame_builds_on_what_the_codec_kept_of_the_one_before():
    codec = Fake()
    video = clip(0.1, 0.2, 0.3, 0.4)
    rate_distortion(codec, video, stage(frames=3), LAGRANGIAN)
    assert len(codec.calls) == 3
    assert torch.equal(codec.calls[0][1].frame, video[:, 0])
    for before, after in zip(codec.calls, codec.calls[1:], strict=False):
        assert after[1] is before[4].reference
    for t, (frame, *_) in enumerate(codec.calls, start=1):
        assert torch.equal(frame, video[:, t])


def test_frames_beyond_the_stages_are_left_alone():
    codec = Fake()
    rate_distortion(codec, clip(0.1, 0.2, 0.3, 0.4), stage(frames=1), LAGRANGIAN)
    assert len(codec.calls) == 1


def test_the_gradient_of_a_late_frame_reaches_the_weights_through_the_frames_before():
    codec = Fake(gain=1.0)
    # First frame: error 0. Second: gain * (gain * 0.5 + 0.125) against 0.5, slope 1.125.
    video = clip(0.5, 0.5, 0.5)
    rate_distortion(codec, video, stage(frames=2, streams=()), LAGRANGIAN).loss.backward()
    expected = LAGRANGIAN * 2 * (0.625 - 0.5) * 1.125 / 2
    assert codec.gain.grad.item() == pytest.approx(expected)


@pytest.mark.parametrize(("picture", "upto"), [("frame", None), ("motion", "motion")])
def test_a_stage_with_a_prediction_for_its_picture_stops_the_codec_there(picture, upto):
    codec = Fake()
    rate_distortion(codec, clip(0.1, 0.2), stage(picture=picture), LAGRANGIAN)
    assert codec.calls[0][3] == upto


def test_the_rate_point_reaches_the_codec():
    codec = Fake()
    rate_distortion(codec, clip(0.1, 0.2, 0.3), stage(frames=2), LAGRANGIAN, rate=2.5)
    assert [call[2] for call in codec.calls] == [2.5, 2.5]


def test_errors_of_intermediate_predictions_count_as_distortion_but_are_not_shown():
    plain = rate_distortion(Fake(), clip(0.5, 0.75), stage(), LAGRANGIAN)
    more = rate_distortion(Fake(auxiliary=torch.tensor(0.25)), clip(0.5, 0.75), stage(), LAGRANGIAN)
    assert (more.loss - plain.loss).item() == pytest.approx(LAGRANGIAN * 0.25)
    assert torch.equal(more.mse, plain.mse)
    assert torch.equal(more.bpp, plain.bpp)


def test_noise_stands_for_the_i_frames_loss_and_is_on_the_first_reference_alone():
    codec = Fake()
    video = clip(0.5, 0.5, 0.5, batch=4)
    rate_distortion(codec, video, stage(frames=2), LAGRANGIAN, intra_noise=0.05)
    noise = codec.calls[0][1].frame - 0.5
    assert 0 < noise.std().item() < 0.05
    assert torch.equal(codec.calls[1][1].frame, codec.calls[0][4].reference.frame)
    assert all((call[0] == 0.5).all() for call in codec.calls)
    assert (video == 0.5).all()


def test_every_clip_of_a_batch_has_noise_of_its_own_strength():
    codec = Fake()
    rate_distortion(codec, clip(0.5, 0.5, batch=8), stage(), LAGRANGIAN, intra_noise=0.1)
    strengths = (codec.calls[0][1].frame - 0.5).flatten(1).std(1)
    assert strengths.max() > 2 * strengths.min()


def test_a_noisy_reference_is_still_a_picture():
    codec = Fake()
    video = torch.cat((clip(0.0, 0.0, batch=4), clip(1.0, 1.0, batch=4)))
    rate_distortion(codec, video, stage(), LAGRANGIAN, intra_noise=0.2)
    first = codec.calls[0][1].frame
    assert 0 <= first.min() < first.max() <= 1


def test_without_noise_the_first_reference_is_the_frame_itself():
    codec = Fake()
    video = torch.rand(2, 2, 3, SIDE, SIDE)
    rate_distortion(codec, video, stage(), LAGRANGIAN)
    assert torch.equal(codec.calls[0][1].frame, video[:, 0])


def test_the_shown_error_is_that_of_the_clamped_picture_and_the_loss_that_of_the_raw_one():
    outcome = rate_distortion(Fake(gain=2.0), clip(0.75, 1.0), stage(streams=()), LAGRANGIAN)
    assert outcome.mse.item() == 0
    assert outcome.loss.item() == pytest.approx(LAGRANGIAN * 0.25)
    assert not outcome.mse.requires_grad
    assert not outcome.bpp.requires_grad
    assert outcome.loss.requires_grad


def test_a_picture_in_half_precision_is_compared_in_full():
    class Half(Fake):
        def forward(self, frame, reference, rate=None, upto=None):
            coded = super().forward(frame, reference, rate, upto)
            return CodedFrame(coded.frame.bfloat16(), coded.reference, coded.bits)

    outcome = rate_distortion(Half(), clip(0.5, 0.501), stage(streams=()), LAGRANGIAN)
    assert outcome.loss.dtype == torch.float32
    assert outcome.loss.item() == pytest.approx(LAGRANGIAN * 0.001**2, rel=1e-3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4),
    frames=st.integers(1, 3),
    lagrangian=st.floats(0.1, 4096),
    seed=st.integers(0, 100),
)
def test_the_loss_of_a_batch_is_the_mean_of_its_clips_losses(batch, frames, lagrangian, seed):
    video = torch.rand(
        batch, frames + 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)
    )
    codec = Fake(gain=0.9)
    whole = rate_distortion(codec, video, stage(frames=frames), lagrangian).loss
    parts = [
        rate_distortion(codec, one[None], stage(frames=frames), lagrangian).loss for one in video
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
