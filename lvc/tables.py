"""Integer probability tables: the same on every machine.

A table must be equal to the last unit where a video is encoded and where it is decoded, so none
of it comes from a machine's own exp or erf: constants are rounded correctly by `decimal`, the rest
is sums and products of float64 in a fixed order, which IEEE 754 defines.

Scales are one of `LEVELS` levels, 0.25 * 2 ** (level / 8) - 0.2: from 0.05 on, at first evenly
spaced, since small scales hardly matter and a network's rounding is even, then eight an octave. A
mean is known to 1/16: its whole part shifts the symbols, its rest is one of 16 offsets with a
table each.
"""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from typing import Literal

import numpy as np

Distribution = Literal["laplace", "normal"]

PRECISION = 24
"""Frequencies of a table add up to 2 ** PRECISION."""
LEVELS, PER_OCTAVE = 65, 8
SMALLEST_SCALE, SHIFT = 0.05, 0.2
OFFSETS = 16
WIDEST = 512
"""Largest distance from the mean that has its own symbol; what is further escapes."""
NEGLIGIBLE = 2.0**-25
DIGITS = 40


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies (n,) of the symbols `first`, `first` + 1, ...; the last one is the escape.

    A table equals itself alone, so that what is made of it can be kept by it.
    """

    frequencies: np.ndarray
    first: int

    @property
    def escape(self) -> int:
        return len(self.frequencies) - 1


@cache
def scale_table(distribution: Distribution, level: int, offset: int = 0) -> Table:
    """The table of whole numbers s: the mass of [s - 1/2, s + 1/2] around a mean of offset / 16.

    `level` 0 ... LEVELS - 1, `offset` -8 ... 7.
    """
    if not (0 <= level < LEVELS and -OFFSETS // 2 <= offset < OFFSETS // 2):
        raise ValueError(f"no table of level {level}, offset {offset}")
    beyond = _tail(distribution, level)
    reach = next((s for s in range(1, WIDEST) if beyond[OFFSETS * s] < NEGLIGIBLE), WIDEST)
    edges = OFFSETS * np.arange(-reach, reach + 2) - OFFSETS // 2 - offset
    return table_of_masses(_masses(beyond, edges), -reach)


def table_of_masses(masses: np.ndarray, first: int) -> Table:
    """The table of symbols from `first` on with these probabilities (n,); the rest escapes."""
    full = 1 << PRECISION
    escape = max(0.0, 1.0 - float(np.cumsum(masses)[-1]))
    shares = np.append(np.maximum(masses, 0.0), escape)
    shares = shares / np.cumsum(shares)[-1]
    frequencies = np.floor(shares * (full - len(shares))).astype(np.int64) + 1
    frequencies[np.argmax(frequencies)] += full - int(frequencies.sum())
    return Table(frequencies, first)


def _masses(beyond: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Probability between neighbouring edges (in sixteenths), from the tail beyond each.

    On either side of zero the smaller tails are subtracted, which are exact where 1 - tail is not.
    """
    tails = beyond[np.minimum(np.abs(edges), len(beyond) - 1)]
    low, high = edges[:-1], edges[1:]
    between = np.abs(tails[:-1] - tails[1:])
    return np.where((low < 0) & (high > 0), 1.0 - tails[:-1] - tails[1:], between)


@cache
def _tail(distribution: Distribution, level: int) -> np.ndarray:
    """Probability beyond 0, 1/16, 2/16, ... of a distribution of mean zero."""
    with localcontext() as context:
        context.prec = DIGITS
        smallest, shift = Decimal(str(SMALLEST_SCALE)), Decimal(str(SHIFT))
        scale = (smallest + shift) * Decimal(2) ** (Decimal(level) / PER_OCTAVE) - shift
        count = OFFSETS * (WIDEST + 2)
        if distribution == "laplace":
            ratio = float((-1 / (OFFSETS * scale)).exp())
            return np.cumprod(np.concatenate(([0.5], np.full(count, ratio))))
        # Simpson's rule needs some points a deviation and an even number of them a sixteenth.
        fine = 2 * max(1, int(8 / (OFFSETS * scale)) + 1)
        step = 1 / (Decimal(OFFSETS * fine) * scale)
        first, ratio = float((-step * step / 2).exp()), float((-step * step).exp())
    # density(i + 1) / density(i) = first * ratio ** i
    length = int(min(Decimal(count), 9 * OFFSETS * scale + OFFSETS)) * fine
    growth = np.cumprod(np.concatenate(([first], np.full(length - 1, ratio))))
    density = np.cumprod(np.concatenate(([1.0], growth)))
    pieces = density[:-1:2] + 4 * density[1::2] + density[2::2]
    inwards = np.cumsum(pieces[::-1])[::-1]
    tail = inwards[:: fine // 2] / (2 * inwards[0])
    return np.concatenate((tail, np.zeros(count + 1 - len(tail))))
