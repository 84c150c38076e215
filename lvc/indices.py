"""From predicted scales and means to tables, the same on machines that compute differently.

The networks behind a prediction add up in another order in another runtime, on another number of
threads, on another machine; their results differ by a millionth or so, and a prediction that lies
beside the border of two tables would pick one here and the other there. So the encoder marks every
prediction that lies closer to a border than the file's margin, and a marked one is read as the
upper side. A decoder that is off by less than the margin then takes the very same tables: what is
not marked cannot have crossed a border, and what is marked is told.
"""

import numpy as np

from .coder import SymbolReader, SymbolWriter
from .tables import LEVELS, OFFSETS, PER_OCTAVE, SHIFT, SMALLEST_SCALE

MARGIN = 2.0**-13
"""Margin of a file unless asked otherwise, in steps of the tables' grids (docs/decisions.md)."""
WIDEST_MARGIN = 2.0**-4
LARGEST_MEAN = 2.0**20

Coder = SymbolWriter | SymbolReader


def levels(coder: Coder, scale: np.ndarray, margin: float) -> np.ndarray:
    """The tables' levels (n,), 0 ... LEVELS - 1, of predicted scales (n,)."""
    safe = np.fmin(np.fmax(scale.astype(np.float64), 0.0), 1e6)  # what is no number becomes 0
    place = PER_OCTAVE * np.log2((safe + SHIFT) / (SMALLEST_SCALE + SHIFT))
    # Beyond the ends there is no border: a quarter short of where one would be nothing is marked.
    # What nobody writes, a mark there, is not to leave the tables either.
    found = nearest(coder, np.maximum(np.minimum(place, LEVELS - 0.75), -0.25), margin)
    return np.maximum(np.minimum(found, LEVELS - 1), 0)


def sixteenths(coder: Coder, mean: np.ndarray, margin: float) -> np.ndarray:
    """Predicted means (n,) as whole numbers of sixteenths."""
    safe = np.where(np.isnan(mean), 0.0, mean.astype(np.float64))
    safe = np.maximum(np.minimum(safe, LARGEST_MEAN), -LARGEST_MEAN)
    # Large means differ by more: float32 is relative. A reader needs no margin.
    wider = np.maximum(margin, np.minimum(margin * np.abs(safe), WIDEST_MARGIN))
    return nearest(coder, OFFSETS * safe, wider)


def split(sixteenth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole part and offset (-8 ... 7) of means in sixteenths."""
    whole = (sixteenth + OFFSETS // 2) // OFFSETS
    return whole, sixteenth - OFFSETS * whole


def nearest(coder: Coder, value: np.ndarray, margin: float | np.ndarray) -> np.ndarray:
    """Whole numbers next to `value` (n,); the writer marks what lies within `margin` of a border.

    Equal on both sides as long as their values differ by less than `margin`, which is below 1/4.
    """
    lower = np.floor(value)
    near = None if coder.reads else np.abs(value - lower - 0.5) < margin
    marked = coder.side_flags(near, value.size)
    return np.where(marked, lower + 1, np.floor(value + 0.5)).astype(np.int64)
