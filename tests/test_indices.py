"""The choice of tables: equal on two machines whose predictions differ by less than the margin."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvc.coder import PayloadError, SymbolReader, SymbolWriter
from lvc.indices import (
    LARGEST_MEAN,
    MARGIN,
    WIDEST_MARGIN,
    levels,
    nearest,
    sixteenths,
    split,
)
from lvc.tables import LEVELS, PER_OCTAVE

QUICK = settings(max_examples=50, deadline=None, derandomize=True)
margins = st.sampled_from([MARGIN, 2.0**-20, 0.01, 0.2])
seeds = st.integers(0, 2**32)
NOT_NUMBERS = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1e-45])


def told(rule, written, read, margin):
    """What `rule` finds on the writer's side, and on a reader's that has predicted `read`."""
    writer = SymbolWriter()
    found = rule(writer, written, margin)
    reader = SymbolReader(writer.finish())
    again = rule(reader, read, margin)
    reader.finish()
    return found, again


def drifts(generator, count, margin):
    """Differences of less than `margin`, many of them nearly that."""
    share = generator.choice([0.0, 0.5, 0.999, -0.999, -1e-9], count)
    return margin * np.where(generator.random(count) < 0.5, share, generator.uniform(-1, 1, count))


def scales_at(place):
    """Scales that lie at these places of the levels' grid."""
    return 0.25 * 2 ** (place / PER_OCTAVE) - 0.2


def places_at(generator, count, low, high, margin):
    """Places of a grid: anywhere, on a border of two steps, and a margin beside one."""
    anywhere = generator.uniform(low, high, count)
    border = np.floor(anywhere) + 0.5
    beside = border + margin * generator.choice([-1.0, 1.0, -0.5, 0.5, 1.0001], count)
    kind = generator.integers(0, 3, count)
    return np.choose(kind, [anywhere, border, beside])


# ---------------------------------------------------------------------- both sides agree


@QUICK
@given(seed=seeds, margin=margins)
def test_levels_are_equal_for_any_drift_below_the_margin(seed, margin):
    generator = np.random.default_rng(seed)
    place = places_at(generator, 200, -0.5, LEVELS, margin)
    drifted = scales_at(place + drifts(generator, 200, margin))
    found, again = told(levels, scales_at(place), drifted, margin)
    assert (found == again).all()
    assert (np.abs(found - np.clip(place, 0, LEVELS - 1)) <= 0.5 + margin + 1e-6).all()


@QUICK
@given(seed=seeds, margin=margins, reach=st.sampled_from([1, 40, 1e4, 16 * LARGEST_MEAN]))
def test_sixteenths_are_equal_for_any_drift_below_the_margin(seed, margin, reach):
    generator = np.random.default_rng(seed)
    place = places_at(generator, 200, -reach, reach, margin)
    drifted = (place + drifts(generator, 200, margin)) / 16
    found, again = told(sixteenths, place / 16, drifted, margin)
    assert (found == again).all()
    limited = np.clip(place, -16 * LARGEST_MEAN, 16 * LARGEST_MEAN)
    assert (np.abs(found - limited) <= 0.5 + max(margin, WIDEST_MARGIN) + 1e-6).all()


@QUICK
@given(values=st.lists(st.floats(width=32), max_size=30))
def test_any_float32_gives_the_same_choice_where_it_is_predicted_again(values):
    values = np.array(values, np.float32)
    for rule in (levels, sixteenths):
        found, again = told(rule, values, values.copy(), MARGIN)
        assert found.dtype == again.dtype == np.int64
        assert (found == again).all()


def test_no_values_give_no_choice():
    found, again = told(levels, np.zeros(0, np.float32), np.zeros(0, np.float32), MARGIN)
    assert found.shape == again.shape == (0,)


def test_a_value_on_a_border_is_told_to_be_above_it():
    place = np.array([0.5, 7.5, 31.5])
    found, again = told(levels, scales_at(place), scales_at(place - 0.9 * MARGIN), MARGIN)
    assert found.tolist() == again.tolist() == [1, 8, 32]
    border = np.array([-0.5, 0.5, 1000.5])
    found, again = told(sixteenths, border / 16, (border - 0.9 * MARGIN) / 16, MARGIN)
    assert found.tolist() == again.tolist() == [0, 1, 1001]


@pytest.mark.parametrize("rule", [levels, sixteenths])
def test_a_drift_of_more_than_the_margin_can_make_another_choice(rule):
    place = 3.5 + np.array([-1.1, 1.1]) * MARGIN
    written, drifted = (
        scales_at(p) if rule is levels else p / 16 for p in (place, place[::-1].copy())
    )
    found, again = told(rule, written, drifted, MARGIN)
    assert found.tolist() == [3, 4]
    assert again.tolist() == [4, 3]


def test_without_marks_the_least_drift_across_a_border_would_make_another_choice():
    value, drifted = np.array([2.5 - 1e-9]), np.array([2.5 + 1e-9])
    found, again = told(nearest, value, drifted, 1e-12)
    assert (found, again) == (2, 3)
    found, again = told(nearest, value, drifted, MARGIN)
    assert found == again


# ---------------------------------------------------------------------- what is chosen


def test_the_levels_of_the_grid_s_own_scales_are_their_numbers():
    scales = scales_at(np.arange(LEVELS)).astype(np.float32)
    assert levels(SymbolWriter(), scales, MARGIN).tolist() == list(range(LEVELS))


def test_scales_beyond_the_ends_of_the_grid_take_its_ends():
    scales = np.array([-1e30, -0.2, 0, 1e-9, 0.03, 66, 1e3, 1e30], np.float32)
    assert levels(SymbolWriter(), scales, MARGIN).tolist() == [0] * 5 + [LEVELS - 1] * 3


def test_what_is_no_number_is_the_least_scale_and_a_mean_of_zero():
    found = levels(SymbolWriter(), NOT_NUMBERS, MARGIN).tolist()
    assert found == [0, LEVELS - 1, 0, LEVELS - 1, 0, 0, 0, 0]
    found = sixteenths(SymbolWriter(), NOT_NUMBERS, MARGIN).tolist()
    most = int(16 * LARGEST_MEAN)
    assert found == [0, most, -most, most, -most, 0, 0, 0]


@QUICK
@given(whole=st.integers(-(2**20), 2**20), offset=st.integers(-8, 7))
def test_a_mean_of_sixteenths_is_split_into_its_nearest_whole_number_and_the_rest(whole, offset):
    found = split(np.array([16 * whole + offset]))
    assert tuple(int(part[0]) for part in found) == (whole, offset)


def test_splitting_loses_nothing_and_offsets_are_minus_eight_to_seven():
    sixteenth = np.arange(-1000, 1000)
    whole, offset = split(sixteenth)
    assert (16 * whole + offset == sixteenth).all()
    assert set(offset.tolist()) == set(range(-8, 8))


# ---------------------------------------------------------------------- what marks cost


def entropy(share):
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


@pytest.mark.parametrize("margin", [2.0**-12, 2.0**-9, 2.0**-6])
def test_marks_cost_the_entropy_of_two_margins_in_each_step_of_the_grid(margin):
    count = 400_000
    writer = SymbolWriter()
    nearest(writer, np.random.default_rng(0).uniform(0, 30, count), margin)
    taken = 8 * len(writer.finish()) / count
    assert taken == pytest.approx(entropy(2 * margin), rel=0.1)


def test_at_the_usual_margin_marks_cost_less_than_a_hundredth_of_a_bit_each():
    assert entropy(2 * MARGIN) < 0.01


def test_predictions_that_are_clear_of_every_border_cost_nothing():
    writer = SymbolWriter()
    levels(writer, scales_at(np.arange(10) + 0.4), MARGIN)
    levels(writer, NOT_NUMBERS, MARGIN)
    levels(writer, np.array([0, 0.0499, 64, 1e9]), MARGIN)
    sixteenths(writer, np.arange(-40, 40) / 16, MARGIN)
    assert writer.finish() == b"\0"


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("scale", [0.0, 0.05, 1.0, 60.0, 63.8, 1e30, np.nan, np.inf])
def test_marks_that_nobody_wrote_lead_to_no_level_without_a_table(scale):
    """A damaged payload may mark a scale that lies beside no border."""
    writer = SymbolWriter()
    writer.side_flags(np.ones(3, bool), 3)
    try:
        found = levels(SymbolReader(writer.finish()), np.full(3, scale, np.float32), MARGIN)
    except PayloadError:
        return
    assert ((found >= 0) & (found < LEVELS)).all()
