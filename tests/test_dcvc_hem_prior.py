"""The entropy model of DCVC-HEM: two steps over a checkerboard, and three factors of a step."""

import math

import pytest
import torch
from hem import INTRA, VIDEO, both_codecs, lively, record
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_fill import picture
from torch import nn

import lvc.rates
import vcodecs
from lvc.rates import SMALLEST_SCALE
from vcodecs import Reference, UserError
from vcodecs.dcvc_hem.prior import (
    SMALLEST_STEP,
    Parameters,
    first_half,
    parameters,
    quantise,
    quantiser,
    rate_factor,
    second_parameters,
)
from vcodecs.layers import Bound

QUICK = settings(max_examples=30, deadline=None, derandomize=True)


class Known(nn.Module):
    """A spatial prior that knows scale and mean from the start, and keeps what it was told."""

    def __init__(self, scale, mean):
        super().__init__()
        self.scale, self.mean = scale, mean

    def forward(self, told):
        self.told = told
        (scale_a, scale_b), (mean_a, mean_b) = self.scale.chunk(2, 1), self.mean.chunk(2, 1)
        return torch.cat((scale_a, mean_a, scale_b, mean_b), dim=1)


@st.composite
def cases(draw):
    """A latent, its prior, and a network that predicts otherwise for the second step."""
    shape = [draw(st.integers(1, 2)), 2 * draw(st.integers(1, 3))]
    shape += [draw(st.integers(1, 6)), draw(st.integers(1, 6))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def noise():
        return torch.randn(shape, generator=generator)

    step = noise().abs() + SMALLEST_STEP
    prior = Parameters(step=step, scale=noise().exp(), mean=noise())
    return 5 * noise(), prior, Known(scale=noise().exp(), mean=noise())


# ---------------------------------------------------------------------- the two steps


@QUICK
@given(half=st.integers(1, 4), height=st.integers(1, 9), width=st.integers(1, 9))
def test_the_first_step_takes_white_fields_of_one_half_and_black_ones_of_the_other(
    half, height, width
):
    fields = first_half(torch.zeros(2, 2 * half, height, width))
    assert fields.shape == (2 * half, height, width)
    for channel in range(2 * half):
        for row in range(height):
            for column in range(width):
                white = (row + column) % 2 == 0
                assert fields[channel, row, column] == (white == (channel < half))


@QUICK
@given(case=cases())
def test_every_element_is_coded_in_exactly_one_step_with_the_mean_and_scale_of_that_step(case):
    latent, prior, network = case
    coded = quantise(latent, prior, network, training=False)
    first = first_half(latent).bool().expand_as(latent)
    mean = torch.where(first, prior.mean, network.mean)
    symbols = (latent / prior.step - mean).round()
    assert torch.equal(coded.symbols, symbols)
    assert torch.equal(coded.scale, torch.where(first, prior.scale, network.scale))
    assert torch.equal(coded.latent, (symbols + mean) * prior.step)


@QUICK
@given(case=cases())
def test_the_second_step_is_told_what_the_first_has_brought_and_what_was_expected(case):
    latent, prior, network = case
    coded = quantise(latent, prior, network, training=False)
    first, mean, scale, step = network.told.chunk(4, 1)
    fields = first_half(latent)
    torch.testing.assert_close(first, coded.latent / prior.step * fields)
    assert torch.equal(mean, prior.mean)
    assert torch.equal(scale, prior.scale)
    assert torch.equal(step, prior.step)


@QUICK
@given(case=cases())
def test_the_second_step_is_told_nothing_of_its_own_fields(case):
    latent, prior, network = case
    quantise(latent, prior, network, training=False)
    told = network.told
    quantise(latent + 100 * (1 - first_half(latent)), prior, network, training=False)
    assert torch.equal(network.told, told)


def test_the_second_parameters_come_from_four_slices():
    like = torch.rand(4, 1, 4, 2, 2)
    scale_a, mean_a, scale_b, mean_b = torch.rand(4, 1, 2, 2, 2)
    network = nn.Module()
    network.forward = lambda told: torch.cat((scale_a, mean_a, scale_b, mean_b), dim=1)
    scale, mean = second_parameters(network, like[0], Parameters(*like[1:]))
    assert torch.equal(scale, torch.cat((scale_a, scale_b), dim=1))
    assert torch.equal(mean, torch.cat((mean_a, mean_b), dim=1))


# ---------------------------------------------------------------------- error and steps


@QUICK
@given(case=cases())
def test_what_is_decoded_is_at_most_half_a_step_away(case):
    latent, prior, network = case
    error = (quantise(latent, prior, network, training=False).latent - latent).abs()
    assert (error <= prior.step / 2 + 1e-5).all()


@QUICK
@given(case=cases())
def test_training_decodes_what_eval_does_and_charges_the_residual_with_noise(case):
    latent, prior, network = case
    real = quantise(latent, prior, network, training=False)
    drawn = quantise(latent, prior, network, training=True)
    assert torch.equal(drawn.latent, real.latent)
    assert torch.equal(drawn.scale, real.scale)
    first = first_half(latent).bool().expand_as(latent)
    residual = latent / prior.step - torch.where(first, prior.mean, network.mean)
    assert ((drawn.symbols - residual).abs() <= 0.5 + 1e-5).all()
    assert not torch.equal(drawn.symbols, residual)


def test_the_gradient_of_what_is_decoded_passes_through_the_rounding():
    latent = torch.randn(1, 4, 4, 4, requires_grad=True)
    prior = Parameters(*(torch.rand(3, 1, 4, 4, 4) + 1))
    network = Known(torch.ones(1, 4, 4, 4), torch.zeros(1, 4, 4, 4))
    quantise(latent, prior, network, training=True).latent.sum().backward()
    torch.testing.assert_close(latent.grad, torch.ones_like(latent))


@QUICK
@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 100))
def test_no_step_is_below_a_half(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    fused = spread * torch.randn(2, 9, 4, 4, generator=generator)
    prior = parameters(fused, Bound(SMALLEST_STEP))
    assert prior.step.min() >= 0.5
    assert torch.equal(prior.step, fused[:, :3].clamp(min=0.5))
    assert torch.equal(prior.scale, fused[:, 3:6])
    assert torch.equal(prior.mean, fused[:, 6:])


def test_a_step_that_fell_below_the_bound_can_come_back_but_sinks_no_deeper():
    for slope, moved in ((-1.0, True), (1.0, False)):  # descent raises where the slope is negative
        fused = torch.full((1, 3, 2, 2), 0.2, requires_grad=True)
        (slope * parameters(fused, Bound(SMALLEST_STEP)).step.sum()).backward()
        assert fused.grad[:, :1].any() == moved


@both_codecs
def test_the_bounds_hold_in_the_whole_codec(name):
    codec = lively(name)
    with torch.no_grad():
        for prior in (n for n, _ in codec.named_children() if n.endswith("prior_fusion")):
            codec.get_submodule(prior)[-1].bias[::2] -= 1
        for basic in (p for n, p in codec.named_parameters() if n.endswith("q_basic")):
            basic.flatten()[0] = -3
    seen = record(codec, picture(64, 64, 1.0), Reference(picture(64, 64)), 3.0)
    for prior in {"y_spatial_prior", "mv_y_spatial_prior"} & set(seen.inputs):
        steps = seen.inputs[prior][0].chunk(4, 1)[3]
        assert steps.min() == 0.5 and steps.max() > 0.5, prior
    assert seen.coded.frame.isfinite().all()


# ---------------------------------------------------------------------- rates

SCALES = torch.tensor([1.41, 0.93, 0.78, 0.52]).reshape(4, 1, 1, 1)
RATES = st.floats(0, 3, allow_subnormal=False)


@pytest.mark.parametrize("rate", [0, 1, 2, 3])
def test_a_whole_rate_has_exactly_the_stored_factor(rate):
    stored = SCALES[rate : rate + 1]
    assert torch.equal(rate_factor(SCALES, rate), stored)
    assert torch.equal(rate_factor(SCALES, float(rate)), stored)
    assert torch.equal(rate_factor(SCALES, torch.tensor([float(rate)])), stored)


@QUICK
@given(rate=RATES)
def test_between_two_rate_points_the_factor_is_log_linear(rate):
    lower = min(int(rate), 2)
    low, high = (math.log(float(SCALES[i])) for i in (lower, lower + 1))
    expected = math.exp(low + (high - low) * (rate - lower))
    assert float(rate_factor(SCALES, rate)) == pytest.approx(expected, rel=1e-5)


@QUICK
@given(rates=st.tuples(RATES, RATES).map(sorted))
def test_where_stored_factors_fall_a_higher_rate_never_has_the_larger_one(rates):
    low, high = rates
    larger, smaller = float(rate_factor(SCALES, low)), float(rate_factor(SCALES, high))
    assert larger >= smaller * (1 - 1e-6)
    if high - low > 1e-3:
        assert larger > smaller


@QUICK
@given(rates=st.lists(RATES, min_size=1, max_size=5))
def test_every_clip_of_a_batch_may_have_a_rate_of_its_own(rates):
    factors = rate_factor(SCALES, torch.tensor(rates))
    assert factors.shape == (len(rates), 1, 1, 1)
    single = [float(rate_factor(SCALES, rate)) for rate in rates]
    assert factors.flatten().tolist() == pytest.approx(single, rel=1e-6)


@QUICK
@given(rate=RATES)
def test_a_receiver_without_torch_has_the_same_factor(rate):
    received = lvc.rates.rate_factor(SCALES.numpy(), rate).item()
    assert received == pytest.approx(float(rate_factor(SCALES, rate)), rel=3e-7)
    if rate == int(rate):
        assert received == float(SCALES[int(rate)])


def test_no_factor_is_below_what_a_bitstream_can_say():
    fallen = torch.tensor([1.0, 0.5, 0.001, -1.0]).reshape(4, 1, 1, 1)
    assert rate_factor(fallen, torch.tensor([2.0, 2.5, 3.0])).flatten().tolist() == pytest.approx(
        3 * [SMALLEST_SCALE]
    )


@both_codecs
def test_a_codec_of_many_rates_cannot_code_without_one(name):
    frame = picture(64, 64)
    with pytest.raises(UserError, match="give one from 0 to 3"):
        lively(name)(frame, Reference(frame))


@pytest.mark.parametrize("rates", [[0.0, -5.0], [9.0, 1.0], [float("nan"), 1.0]])
def test_a_batch_with_a_rate_out_of_range_is_refused(rates):
    with pytest.raises(UserError, match="out of range: give one from 0 to 3"):
        rate_factor(torch.ones(4, 1, 1, 1), torch.tensor(rates))


@both_codecs
@pytest.mark.parametrize("rate", [-0.1, 3.01, 4, -1, math.nan, math.inf])
def test_a_rate_out_of_range_is_refused(name, rate):
    frame = picture(64, 64)
    with pytest.raises(UserError, match=f"rate {rate:g} is out of range: give one from 0 to 3"):
        lively(name)(frame, Reference(frame), rate)


@both_codecs
def test_the_rates_of_a_codec_are_the_points_whose_factors_it_stores(name):
    codec = lively(name)
    assert codec.rates() == (0, 1, 2, 3)
    stored = [p for n, p in codec.named_parameters() if n.endswith("q_scale")]
    assert [len(points) for points in stored] == {VIDEO: [4, 4], INTRA: [4]}[name]


# ---------------------------------------------------------------------- the divisor


@QUICK
@given(rate=RATES, seed=st.integers(0, 1000))
def test_the_divisor_is_a_channels_factor_of_at_least_a_half_times_the_rates(rate, seed):
    basic = torch.randn(1, 5, 1, 1, generator=torch.Generator().manual_seed(seed))
    divisor = quantiser(basic, SCALES, rate, Bound(SMALLEST_STEP))
    assert divisor.shape == (1, 5, 1, 1)
    assert torch.equal(divisor, basic.clamp(min=0.5) * rate_factor(SCALES, rate))


@both_codecs
@pytest.mark.parametrize("preset", ["tiny", "small", "official"])
def test_a_fresh_codec_divides_by_more_at_a_lower_rate(name, preset):
    codec = vcodecs.create(name, preset)
    parameters = dict(codec.named_parameters())
    rates = torch.linspace(0, 3, 13)
    for key in (key for key in parameters if key.endswith("q_scale")):
        basic = parameters[key.replace("q_scale", "q_basic")]
        divisors = quantiser(basic, parameters[key], rates, codec.step_bound)
        assert (divisors[:-1] > divisors[1:]).all(), key
