"""Rates of clips, and the lambdas that belong to them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.training.tradeoff import Tradeoff, interpolated

POINTS, LAGRANGIANS = (0.0, 1.0, 2.0, 3.0), (85.0, 170.0, 380.0, 840.0)
MANY = Tradeoff(POINTS, LAGRANGIANS)
QUICK = settings(max_examples=50, deadline=None, derandomize=True)


@st.composite
def tradeoffs(draw):
    """Rising rate points that are not crowded, with a lambda each."""
    gaps = draw(st.lists(st.floats(0.1, 5), min_size=1, max_size=5))
    first = draw(st.floats(-5, 5, allow_subnormal=False))
    points = [first + sum(gaps[:i]) for i in range(len(gaps) + 1)]
    lagrangian = st.floats(0.1, 1e5)
    lagrangians = draw(st.lists(lagrangian, min_size=len(points), max_size=len(points)))
    return Tradeoff(tuple(points), tuple(lagrangians))


# ---------------------------------------------------------------------- lambdas of rates


def test_between_two_points_lambda_is_log_linear():
    rates = torch.tensor([0.5, 1.25, 2.9])
    expected = [
        math.sqrt(85 * 170),
        170 * (380 / 170) ** 0.25,
        380 * (840 / 380) ** 0.9,
    ]
    assert interpolated(POINTS, LAGRANGIANS, rates).tolist() == pytest.approx(expected, rel=1e-5)


@QUICK
@given(tradeoff=tradeoffs())
def test_at_a_point_lambda_is_the_one_given_for_it(tradeoff):
    rates = torch.tensor(tradeoff.points)
    found = interpolated(tradeoff.points, tradeoff.lagrangians, rates)
    assert found.tolist() == pytest.approx(tradeoff.lagrangians, rel=3e-6)


@QUICK
@given(tradeoff=tradeoffs(), data=st.data())
def test_lambda_lies_between_those_of_the_points_around(tradeoff, data):
    lower = data.draw(st.integers(0, len(tradeoff.points) - 2))
    part = data.draw(st.floats(0, 1, allow_subnormal=False))
    start, end = tradeoff.points[lower : lower + 2]
    rate = torch.tensor([start + part * (end - start)])
    around = tradeoff.lagrangians[lower : lower + 2]
    (found,) = interpolated(tradeoff.points, tradeoff.lagrangians, rate).tolist()
    assert min(around) * (1 - 1e-4) <= found <= max(around) * (1 + 1e-4)


@QUICK
@given(rates=st.lists(st.floats(0, 3, allow_subnormal=False), min_size=2, max_size=8).map(sorted))
def test_rising_lambdas_rise_with_the_rate(rates):
    found = interpolated(POINTS, LAGRANGIANS, torch.tensor(rates))
    assert (found[1:] >= found[:-1] * (1 - 1e-6)).all()


def test_every_rate_has_the_lambda_that_it_would_have_alone():
    rates = torch.linspace(0, 3, 31)
    together = interpolated(POINTS, LAGRANGIANS, rates)
    alone = torch.cat([interpolated(POINTS, LAGRANGIANS, rate[None]) for rate in rates])
    assert torch.equal(together, alone)


# ---------------------------------------------------------------------- drawing


@pytest.mark.parametrize("count", [1, 4, 64])
def test_a_codec_of_one_lambda_has_no_rates_and_this_lambda_for_every_clip(count):
    rates, lagrangians = Tradeoff((None,), (512,)).draw(count)
    assert rates is None
    assert lagrangians.tolist() == count * [512]


def test_a_codec_of_one_lambda_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    Tradeoff((None,), (512,)).draw(8)
    assert torch.equal(torch.get_rng_state(), before)


@QUICK
@given(tradeoff=tradeoffs(), count=st.integers(1, 20), seed=st.integers(0, 1000))
def test_rates_lie_within_the_points_and_have_their_lambdas(tradeoff, count, seed):
    torch.manual_seed(seed)
    rates, lagrangians = tradeoff.draw(count)
    assert rates.shape == lagrangians.shape == (count,)
    assert rates.dtype == lagrangians.dtype == torch.float32
    low, high = torch.tensor(tradeoff.points)[[0, -1]]
    assert (low <= rates).all() and (rates <= high).all()
    expected = interpolated(tradeoff.points, tradeoff.lagrangians, rates)
    assert torch.equal(lagrangians, expected)


@QUICK
@given(seed=st.integers(0, 1000))
def test_the_seed_decides_what_is_drawn(seed):
    drawn = []
    for start in (seed, seed, seed + 1):
        torch.manual_seed(start)
        drawn.append(MANY.draw(5)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_rates_are_uniform_from_the_first_point_to_the_last():
    rates, _ = MANY.draw(4000)
    shares = torch.histc(rates, bins=6, min=0, max=3) / 4000
    assert shares.tolist() == pytest.approx(6 * [1 / 6], abs=0.03)
    assert len(rates.unique()) > 3900


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(("points", "lagrangians"), [(POINTS, (512,)), ((None,), LAGRANGIANS)])
def test_there_is_one_lambda_for_each_rate_point(points, lagrangians):
    told = f"{len(lagrangians)} lambdas for {len(points)} rate points"
    with pytest.raises(ValueError, match=told):
        Tradeoff(points, lagrangians)
