"""Probability tables: right to a millionth, and equal to the last unit on every machine."""

import hashlib
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from lvc import tables
from lvc.coder import SymbolWriter
from lvc.indices import levels
from lvc.tables import LEVELS, OFFSETS, PRECISION, scale_table, table_of_masses

FULL = 1 << PRECISION
DISTRIBUTIONS = ("laplace", "normal")
ALL_OFFSETS = range(-8, 8)
EVERY_TABLE = "12c05298e22511bdb8e17b06096592ae809d4ee22a5407ab4fed40eca54f2c80"
each_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def scale_of(level):
    return 0.25 * 2 ** (level / 8) - 0.2


def tail(distribution, scale, x):
    """Probability beyond `x` of a distribution of mean zero."""
    if distribution == "normal":
        return math.erfc(x / scale / math.sqrt(2)) / 2
    return math.exp(-x / scale) / 2 if x >= 0 else 1 - math.exp(x / scale) / 2


def mass(distribution, scale, low, high):
    """Probability from `low` to `high`, from the tails of the nearer side."""
    if low + high < 0:
        low, high = -high, -low
    return tail(distribution, scale, low) - tail(distribution, scale, high)


def each_table(distribution, offsets=ALL_OFFSETS):
    for level in range(LEVELS):
        for offset in offsets:
            yield level, offset, scale_table(distribution, level, offset)


def fingerprint():
    """SHA-256 of all tables: first symbol and frequencies, as little-endian int64."""
    digest = hashlib.sha256()
    for distribution in DISTRIBUTIONS:
        for _, _, table in each_table(distribution):
            digest.update(np.array([table.first, *table.frequencies]).astype("<i8").tobytes())
    return digest.hexdigest()


def forget_all():
    tables.scale_table.cache_clear()
    tables._tail.cache_clear()


# ---------------------------------------------------------------------- what a table is


@each_distribution
def test_frequencies_are_positive_and_add_up(distribution):
    for _, _, table in each_table(distribution):
        assert table.frequencies.min() >= 1
        assert table.frequencies.sum() == FULL


@each_distribution
def test_the_escape_is_the_last_entry_and_stands_for_all_that_is_further(distribution):
    for level, offset, table in each_table(distribution):
        assert table.escape == len(table.frequencies) - 1
        last = table.first + table.escape - 1
        assert last == -table.first, "as many symbols on either side"
        mean, scale = offset / OFFSETS, scale_of(level)
        beyond = tail(distribution, scale, last + 0.5 - mean)
        beyond += tail(distribution, scale, 0.5 - table.first + mean)
        assert table.frequencies[-1] / FULL == pytest.approx(beyond, abs=1e-6)


@each_distribution
def test_frequencies_are_the_masses_to_a_millionth(distribution):
    """The most probable symbol takes what rounding leaves over, half a unit for each symbol."""
    for level, offset, table in each_table(distribution, (-8, -3, 0, 5)):
        mean, scale = offset / OFFSETS, scale_of(level)
        symbols = table.first + np.arange(table.escape)
        truth = [mass(distribution, scale, s - 0.5 - mean, s + 0.5 - mean) for s in symbols]
        errors = np.abs(table.frequencies[:-1] / FULL - truth)
        largest = np.argmax(table.frequencies)
        assert errors[largest] < 1e-6 + len(truth) / FULL
        errors[largest] = 0
        assert errors.max() < 1e-6


@each_distribution
def test_the_table_of_an_opposite_offset_is_the_mirror_image(distribution):
    for level, offset, table in each_table(distribution, range(-7, 8)):
        opposite = scale_table(distribution, level, -offset)
        assert table.first == opposite.first
        assert (table.frequencies[:-1] == opposite.frequencies[-2::-1]).all()
        assert table.frequencies[-1] == opposite.frequencies[-1]


@each_distribution
@pytest.mark.parametrize(("level", "offset"), [(-1, 0), (LEVELS, 0), (0, -9), (0, 8)])
def test_levels_and_offsets_out_of_range_are_refused(distribution, level, offset):
    with pytest.raises(ValueError, match=f"level {level}, offset {offset}"):
        scale_table(distribution, level, offset)


# ---------------------------------------------------------------------- equal everywhere


def test_all_tables_are_the_ones_that_every_other_machine_makes():
    assert fingerprint() == EVERY_TABLE


def test_denormals_that_count_as_zero_make_no_other_tables():
    """Whoever has opened a session of onnxruntime computes that way from then on."""
    forget_all()
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot count denormals as zero")
        assert fingerprint() == EVERY_TABLE
    finally:
        torch.set_flush_denormal(False)
        forget_all()


def described(distribution, level, offset):
    """First symbol and frequencies by section 6.4 of docs/bitstream.md, number by number."""
    with localcontext() as context:
        context.prec = 40
        scale = Decimal("0.25") * Decimal(2) ** (Decimal(level) / 8) - Decimal("0.2")
        if distribution == "laplace":
            ratio, beyond = float((-1 / (16 * scale)).exp()), [0.5]
            while len(beyond) < 8225:
                beyond.append(beyond[-1] * ratio)
        else:
            m = 2 * (int(8 / (16 * scale)) + 1)
            h = 1 / (16 * m * scale)
            growth, ratio = float((-h * h / 2).exp()), float((-h * h).exp())
            density = [1.0]
            for _ in range(m * int(min(Decimal(8224), 144 * scale + 16))):
                density.append(density[-1] * growth)
                growth *= ratio
            sums = [0.0]
            for i in reversed(range(0, len(density) - 1, 2)):
                sums.append(sums[-1] + (density[i] + 4 * density[i + 1] + density[i + 2]))
            sums = sums[:0:-1]
            beyond = [s / (2 * sums[0]) for s in sums[:: m // 2]]
            beyond += [0.0] * (8225 - len(beyond))
    reach = next((s for s in range(1, 512) if beyond[16 * s] < 2**-25), 512)
    masses = []
    for symbol in range(-reach, reach + 1):
        low = 16 * symbol - 8 - offset
        a, b = beyond[abs(low)], beyond[abs(low + 16)]
        masses.append(1.0 - a - b if low < 0 < low + 16 else abs(a - b))
    masses.append(max(0.0, 1.0 - in_order(masses)))
    total, room = in_order(masses), FULL - len(masses)
    frequencies = [math.floor(share / total * room) + 1 for share in masses]
    frequencies[frequencies.index(max(frequencies))] += FULL - sum(frequencies)
    return -reach, frequencies


def in_order(numbers):
    """Their sum, one after the other; what `sum` does depends on Python's version."""
    total = 0.0
    for number in numbers:
        total += number
    return total


@each_distribution
@pytest.mark.parametrize("offset", [-8, 0, 5])
def test_tables_are_made_as_the_format_describes_them(distribution, offset):
    for level, _, table in each_table(distribution, [offset]):
        first, frequencies = described(distribution, level, offset)
        assert table.first == first
        assert np.array_equal(table.frequencies, frequencies)


# ---------------------------------------------------------------------- what few levels cost


def information(table, distribution, scale, mean):
    """Mean bits of a symbol: its entropy, and what the table takes, escapes included."""
    entropy = taken = 0.0
    reach = 2 + math.ceil(40 * scale)
    for symbol in range(-reach, reach + 1):
        share = mass(distribution, scale, symbol - 0.5 - mean, symbol + 0.5 - mean)
        if share <= 0:
            continue
        place = symbol - table.first
        own = 0 <= place < table.escape
        bits = PRECISION - math.log2(table.frequencies[place if own else table.escape])
        if not own:
            bits += 5 + (2 * abs(symbol) - (symbol > 0) + 1).bit_length() - 1
        entropy -= share * math.log2(share)
        taken += share * bits
    return entropy, taken


@pytest.fixture(scope="module", params=[(d, o) for d in DISTRIBUTIONS for o in (-8, 0, 5)], ids=str)
def costs(request):
    """(scales, 2): entropy and, with the nearest level's table, bits of scales from 0.05 to 63."""
    distribution, offset = request.param
    scales = np.geomspace(0.05, 63, 101)
    nearest = levels(SymbolWriter(), scales, 2.0**-12)
    assert nearest[0] == 0 and nearest[-1] == LEVELS - 1
    pairs = zip(scales.tolist(), nearest.tolist(), strict=True)
    return np.array(
        [
            information(scale_table(distribution, n, offset), distribution, s, offset / OFFSETS)
            for s, n in pairs
        ]
    )


def test_over_all_scales_the_nearest_level_costs_a_thousandth_at_most(costs):
    entropy, taken = costs.mean(axis=0)
    assert entropy < taken < 1.001 * entropy


def test_at_no_scale_does_the_nearest_level_cost_more_than_a_hundredth_of_a_bit(costs):
    """It is most halfway between two levels, where scales are a few tenths."""
    entropy, taken = costs.T
    assert (taken <= entropy + 0.01).all()
    assert (taken >= entropy - 1e-6).all(), "no code is shorter than the entropy"


# ---------------------------------------------------------------------- tables of any masses


def test_what_the_masses_leave_over_is_the_escape():
    table = table_of_masses(np.array([0.25, 0.5, 0.125]), -1)
    assert table.first == -1
    assert table.frequencies / FULL == pytest.approx([0.25, 0.5, 0.125, 0.125], abs=1e-6)


@pytest.mark.parametrize(
    "masses",
    [
        np.array([1.0]),
        np.array([0.0]),
        np.array([0.5, 0.6]),
        np.array([1.0, -1e-17, 1e-30]),
        np.full(129, 1 / 129),
        np.full(1025, 1e-12),
    ],
    ids=["certain", "impossible", "more than one", "below zero", "even", "hardly any"],
)
def test_any_masses_make_a_table_in_which_everything_can_be_coded(masses):
    table = table_of_masses(masses, 0)
    assert len(table.frequencies) == len(masses) + 1
    assert table.frequencies.min() >= 1
    assert table.frequencies.sum() == FULL
