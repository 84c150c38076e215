"""The ways to train under masks, and how beta is annealed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.recipe.schema import BetaSection
from prune.sparsify.gradient_decay import beta_at, factors

M = torch.tensor([1.0, 0.0])


@pytest.mark.parametrize(
    "method, forward, backward",
    [
        ("gradient-decay", [1, 0], [1, 0.25]),
        ("straight-through", [1, 0], [1, 1]),
        ("mask-decay", [1, 0.25], [1, 0.25]),
        ("one-shot", [1, 0], [1, 0]),
    ],
)
def test_factors_of_kept_and_masked_weights_at_a_quarter(method, forward, backward):
    found = factors(method, M, 0.25)
    assert [part.tolist() for part in found] == [forward, backward]


def test_gradient_decay_ends_as_plain_masking_and_begins_as_straight_through():
    for beta, same in ((0.0, "one-shot"), (1.0, "straight-through")):
        for a, b in zip(factors("gradient-decay", M, beta), factors(same, M, beta), strict=True):
            assert torch.equal(a, b)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="no method 'magic'"):
        factors("magic", M, 0.5)


def test_beta_runs_from_one_to_zero_over_the_middle_of_the_run():
    section = BetaSection()
    assert beta_at(section, 0) == beta_at(section, 0.1) == 1
    assert beta_at(section, 0.9) == beta_at(section, 1) == pytest.approx(0)
    assert beta_at(section, 0.5) == pytest.approx(0.5)


def test_the_cosine_is_slow_at_both_ends():
    cosine = BetaSection(begin=0, finish=1, shape="cosine")
    linear = BetaSection(begin=0, finish=1, shape="linear")
    assert beta_at(linear, 0.25) == pytest.approx(0.75)
    assert beta_at(cosine, 0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert beta_at(cosine, 0.05) > beta_at(linear, 0.05)
    assert beta_at(cosine, 0.95) < beta_at(linear, 0.95)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    ends=st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted),
    shape=st.sampled_from(["linear", "cosine"]),
    times=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
)
def test_beta_goes_one_way_and_stays_between_its_ends(start, end, ends, shape, times):
    section = BetaSection(start=start, end=end, shape=shape, begin=ends[0], finish=ends[1])
    early, late = (beta_at(section, t) for t in times)
    low, high = min(start, end), max(start, end)
    assert low - 1e-9 <= early <= high + 1e-9
    assert (late - early) * (end - start) >= -1e-9
    assert beta_at(section, 0) == pytest.approx(start)
    assert beta_at(section, 1) == pytest.approx(end)
