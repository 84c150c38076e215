"""Estimated bits are what the formulas say: of rounded symbols in eval, with noise in training."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vcodecs.entropy import BitEstimator, LaplaceBits, NormalBits, information, noisy, rounded

DEAREST = -math.log2(1e-5)  # 16.61 bits


def one(value):
    return torch.tensor(float(value)).view(1, 1, 1, 1)


def laplace_bits(symbol, scale):
    """Closed form: the mass of a zero-mean Laplace distribution within 0.5 of `symbol`."""
    scale = max(scale, 1e-5)
    near, far = abs(symbol) - 0.5, abs(symbol) + 0.5
    if near >= 0:
        mass = 0.5 * math.exp(-near / scale) * -math.expm1(-1 / scale)
    else:
        mass = 1 - 0.5 * math.exp(near / scale) - 0.5 * math.exp(-far / scale)
    return min(max(-math.log2(mass + 1e-5), 0), 50)


symbols = st.integers(-40, 40)
scales = st.floats(1e-6, 200.0)


# ---------------------------------------------------------------------- rounding


@given(st.floats(-1e4, 1e4, width=32))
@settings(deadline=None, derandomize=True)
def test_rounding_gives_the_nearest_integer_exactly_and_lets_gradients_through(value):
    x = torch.tensor([value], requires_grad=True)
    y = rounded(x)
    assert float(y.detach()) == round(value)
    (3 * y).sum().backward()
    assert x.grad.item() == 3


def test_noise_is_uniform_within_half_a_step_and_lets_gradients_through():
    x = torch.full((200, 500), 7.0, requires_grad=True)
    y = noisy(x)
    noise = (y - x).detach()
    assert noise.min() >= -0.5 and noise.max() <= 0.5
    assert noise.mean().abs() < 0.01
    assert noise.var().item() == pytest.approx(1 / 12, rel=0.02)
    assert not torch.equal(noisy(x), y)
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


# ---------------------------------------------------------------------- Laplace


@given(symbol=symbols, scale=scales, mean=st.integers(-20, 20))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_laplace_bits_are_those_of_the_closed_form(symbol, scale, mean):
    model = LaplaceBits().eval()
    bits = float(model(one(symbol + mean), one(mean), one(scale)))
    # float32 CDFs near 1 carry an error of 1e-7, small beside the 1e-5 that is added.
    assert bits == pytest.approx(laplace_bits(symbol, scale), abs=0.03)


@given(symbol=st.floats(-1e6, 1e6, width=32), mean=st.floats(-100, 100), scale=st.floats(-10, 1e12))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_symbol_costs_less_than_nothing_or_more_than_16_61_bits(symbol, mean, scale):
    for mode in (True, False):
        bits = float(LaplaceBits().train(mode)(one(symbol), one(mean), one(scale)))
        assert 0 <= bits <= DEAREST + 1e-4


def test_the_symbol_is_the_rounded_distance_to_the_mean_not_the_rounded_latent():
    model = LaplaceBits().eval()
    # round(2.4 - 0.7) = 2, while round(2.4) - 0.7 = 1.3 and round(2.4) = 2 less round(0.7) is 1.
    assert float(model(one(2.4), one(0.7), one(1.0))) == pytest.approx(laplace_bits(2, 1.0), 1e-4)
    assert float(model(one(2.6), one(0.9), one(1.0))) == pytest.approx(laplace_bits(2, 1.0), 1e-4)


@given(scale=st.floats(0.3, 4.0))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_probabilities_of_all_symbols_add_up_to_one(scale):
    count = 121
    every = torch.arange(-60.0, 61).view(count, 1, 1, 1)
    bits = LaplaceBits().eval()(every, torch.zeros_like(every), torch.full_like(every, scale))
    mass = (2.0 ** -bits.double()).sum() - count * 1e-5
    assert float(mass) == pytest.approx(1, abs=1e-4)


@given(symbol=symbols, scale=st.floats(0.05, 50.0), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_in_training_a_symbol_costs_what_some_value_within_half_a_step_would(symbol, scale, seed):
    torch.manual_seed(seed)
    bits = float(LaplaceBits().train()(one(symbol), one(0), one(scale)))
    nearest = 0 if symbol == 0 else abs(symbol) - 0.5
    lowest, highest = laplace_bits(nearest, scale), laplace_bits(abs(symbol) + 0.5, scale)
    assert lowest - 0.03 <= bits <= highest + 0.03


def test_training_draws_anew_and_eval_does_not():
    latent, mean, scale = torch.randn(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4)
    model = LaplaceBits()
    assert not torch.equal(model.train()(latent, mean, scale), model(latent, mean, scale))
    assert torch.equal(model.eval()(latent, mean, scale), model(latent, mean, scale))


def test_every_picture_of_a_batch_has_its_own_bits():
    latent, mean, scale = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    model = LaplaceBits().eval()
    bits = model(latent, mean, scale)
    assert bits.shape == (3,)
    single = [model(latent[n : n + 1], mean[n : n + 1], scale[n : n + 1]) for n in range(3)]
    assert torch.allclose(bits, torch.cat(single))


def test_a_scale_below_its_bound_counts_as_the_bound():
    model = LaplaceBits().eval()
    for symbol in (0, 1):
        bits = model(one(symbol), one(0), one(-0.5))
        assert torch.equal(bits, model(one(symbol), one(0), one(1e-5)))


def test_training_draws_a_scale_below_its_bound_up_again():
    # Only symbols whose noise brings them to the edge of their neighbour's bin tell: a few of all.
    scale = torch.full((1, 64, 64, 64), -0.5, requires_grad=True)
    LaplaceBits().train()(torch.ones(1, 64, 64, 64), torch.zeros(1), scale).sum().backward()
    assert scale.grad.isfinite().all()
    assert scale.grad.max() == 0 and scale.grad.min() < 0


def test_a_laplace_model_has_nothing_to_save():
    assert not LaplaceBits().state_dict()


def test_bits_are_computed_in_float32_also_from_half_precision():
    latent = torch.randn(1, 4, 8, 8)
    model = LaplaceBits().eval()
    full = model(latent.half().float(), torch.zeros_like(latent), torch.ones_like(latent))
    half = model(latent.half(), torch.zeros_like(latent).half(), torch.ones_like(latent).half())
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


def test_information_is_the_sum_of_negative_logarithms():
    likelihood = torch.tensor([[0.5, 0.25], [1.0, 0.0]]).view(2, 2, 1, 1)
    expected = torch.tensor([3.0, DEAREST])
    assert torch.allclose(information(likelihood), expected, atol=1e-4)


# ---------------------------------------------------------------------- factorised prior


def estimator(channels, seed, spread=1.0):
    """A bit estimator with weights as far from zero as training leaves them, and farther."""
    torch.manual_seed(seed)
    model = BitEstimator(channels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread)
    return model


@given(seed=st.integers(0, 10**6), channels=st.integers(1, 4), spread=st.floats(0.01, 0.7))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_distribution_function_rises_within_zero_and_one(seed, channels, spread):
    model = estimator(channels, seed, spread)
    # Farther out double precision itself ends at 1.
    x = torch.linspace(-6, 6, 300).view(1, 1, 1, 300).expand(1, channels, 1, 300)
    with torch.no_grad():
        values = model.double().cdf(x.double())
    assert values.shape == x.shape
    assert (values > 0).all() and (values < 1).all()
    assert (values.diff(dim=-1) > 0).all()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_distribution_function_is_the_published_chain(seed):
    model = estimator(2, seed)
    x = torch.randn(3, 2, 4, 4)
    expected = x
    for stage in (model.f1, model.f2, model.f3):
        expected = expected * F.softplus(stage.h) + stage.b
        expected = expected + torch.tanh(expected) * torch.tanh(stage.a)
    expected = torch.sigmoid(expected * F.softplus(model.f4.h) + model.f4.b)
    assert torch.allclose(model.cdf(x), expected)


def test_its_parameters_have_the_published_names_and_start_near_zero():
    model = BitEstimator(500)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    names = [f"f{i}.{p}" for i in range(1, 5) for p in ("h", "b", "a")][:-1]
    assert shapes == dict.fromkeys(names, (1, 500, 1, 1))
    for name, value in model.named_parameters():
        assert value.std().item() == pytest.approx(0.01, rel=0.15), name


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_its_bits_are_those_of_the_difference_of_two_values(seed):
    model = estimator(2, seed, 0.5)
    symbols = torch.randint(-6, 7, (3, 2, 4, 4)).float()
    with torch.no_grad():
        bits = model(symbols)
        mass = model.double().cdf(symbols.double() + 0.5) - model.cdf(symbols.double() - 0.5)
    expected = -torch.log2(mass + 1e-5).clamp(max=DEAREST)
    assert bits.shape == (3,)
    assert torch.allclose(bits.double(), expected.flatten(1).sum(1), rtol=1e-3)


def test_it_learns_where_its_symbols_are():
    model = BitEstimator(1)
    symbols = torch.randint(2, 5, (1, 1, 16, 16)).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    before = float(model(symbols).detach())
    for _ in range(30):
        optimizer.zero_grad()
        model(symbols).sum().backward()
        optimizer.step()
    assert float(model(symbols).detach()) < 0.7 * before


# ---------------------------------------------------------------------- normal, not floored


def normal_bits(symbol, mean, deviation):
    """Closed form: the mass of a normal distribution within 0.5 of `symbol`."""
    near, far = (abs(symbol - mean) + side for side in (-0.5, 0.5))
    factor = 1 / (max(deviation, 1e-5) * math.sqrt(2))
    mass = 0.5 * (math.erfc(near * factor) - math.erfc(far * factor))
    return min(-math.log2(mass), 50) if mass > 0 else 50.0


@given(latent=st.floats(-20, 20), mean=st.floats(-3, 3), deviation=st.floats(6, 50))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_normal_bits_are_those_of_the_rounded_latent_around_a_mean_that_is_not(
    latent, mean, deviation
):
    bits = float(NormalBits().eval()(one(latent), one(mean), one(deviation)))
    # float32 CDFs carry an error of 1e-7, small beside masses of 1e-5 and more.
    expected = normal_bits(float(torch.tensor(latent).round()), mean, deviation)
    assert bits == pytest.approx(expected, abs=0.05)


def test_without_a_floor_a_symbol_of_no_probability_costs_50_bits_and_in_training_16_61():
    model = NormalBits()
    assert float(model.eval()(one(30), one(0), one(1.0))) == 50
    assert float(model.train()(one(30), one(0), one(1.0))) == pytest.approx(DEAREST, 1e-5)
    assert float(model.eval()(one(0), one(0), one(-1.0))) == 0, "deviations are at least 1e-5"


def test_likelihoods_that_noise_makes_negative_are_none():
    assert information(one(-1e-9), floor=0.0).item() == 50


def test_hyper_latents_too_can_be_charged_without_a_floor():
    far = one(1e4)
    assert float(BitEstimator(1, floored=False).eval()(far)) == 50
    assert float(BitEstimator(1).eval()(far)) == pytest.approx(DEAREST, 1e-5)
    assert float(BitEstimator(1, floored=False).train()(far)) == pytest.approx(DEAREST, 1e-5)
