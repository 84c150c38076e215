"""The order of wavefronts: nothing is read before what its prediction looks at."""

import itertools

import numpy as np
import torch

from lvc.wavefront import waves
from vcodecs.layers import MaskedConv

SIZES = list(itertools.product(range(1, 13), range(1, 18)))
SEEN = [(y, x) for y in (-2, -1) for x in range(-2, 3)] + [(0, -2), (0, -1)]
"""What a masked 5x5 convolution of type A looks at, as (rows down, columns to the right)."""


def number_of_wave(height, width):
    """(height, width): which wave reads a position; -1 where none does."""
    found = np.full((height, width), -1)
    for number, (rows, columns) in enumerate(waves(height, width)):
        found[rows, columns] = number
    return found


def shifted(around, height, width, down, right):
    """What lies `down` and `right` of each position, in a grid padded by two."""
    return around[2 + down : 2 + down + height, 2 + right : 2 + right + width]


def test_these_are_the_positions_that_a_masked_convolution_sees():
    layer = MaskedConv(1, 1)
    torch.nn.init.ones_(layer.weight)
    picture = torch.zeros(1, 1, 9, 9, requires_grad=True)
    layer(picture)[0, 0, 4, 4].backward()
    seen = (picture.grad[0, 0].nonzero() - 4).tolist()
    assert sorted(map(tuple, seen)) == sorted(SEEN)


def test_every_position_is_read_exactly_once():
    for height, width in SIZES:
        times = np.zeros((height, width), int)
        for rows, columns in waves(height, width):
            np.add.at(times, (rows, columns), 1)
        assert (times == 1).all()


def test_what_a_prediction_looks_at_lies_in_earlier_waves():
    for height, width in SIZES:
        wave = number_of_wave(height, width)
        around = np.pad(wave, ((2, 0), (2, 2)), constant_values=-1)  # nothing outside is waited for
        for down, right in SEEN:
            before = shifted(around, height, width, down, right)
            assert (before < wave).all(), (height, width, down, right)


def test_there_are_as_many_waves_as_columns_and_three_for_each_further_row():
    for height, width in SIZES:
        if width >= 3:
            assert len(list(waves(height, width))) == width + 3 * (height - 1)


def test_in_grids_narrower_than_the_slope_waves_without_positions_are_left_out():
    assert [len(list(waves(5, width))) for width in (1, 2)] == [5, 10]


def test_a_wave_is_as_wide_as_a_third_of_the_columns_or_all_rows():
    for height, width in SIZES:
        widest = max(len(rows) for rows, _ in waves(height, width))
        assert widest == min(-(-width // 3), height)


def test_a_wave_runs_from_the_top_down():
    for height, width in ((4, 4), (12, 17)):
        for rows, columns in waves(height, width):
            assert (np.diff(rows) == 1).all()
            assert (np.diff(columns) == -3).all()


def test_every_position_waits_for_one_of_the_wave_before():
    """So no order of fewer waves reads everything."""
    for height, width in SIZES:
        if width >= 3:
            wave = number_of_wave(height, width)
            around = np.pad(wave, ((2, 0), (2, 2)), constant_values=-1)
            latest = np.max([shifted(around, height, width, *place) for place in SEEN], axis=0)
            assert (latest == wave - 1).all()
