"""The order of an auto-regressive model's positions: in wavefronts instead of one by one.

A masked 5x5 convolution looks at two rows above, two columns to either side, and two positions to
the left. Position (y, x) so waits for (y, x - 1) and for (y - 1, x + 2): all positions of one
x + 3 y can be read together. W + 3 (H - 1) waves take the place of W H steps, with the very same
model. What bounds the gain is the width of a wave: at most W / 3, rounded up, and at most H.
"""

from collections.abc import Iterator

import numpy as np

SLOPE = 3
"""Columns that a row lags behind the one above: the reach to the right, and one."""


def waves(height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns (n,) of each wave, from the top on."""
    for wave in range(width + SLOPE * (height - 1)):
        first = max(0, -(-(wave - width + 1) // SLOPE))
        rows = np.arange(first, min(height, wave // SLOPE + 1))
        if len(rows):
            yield rows, wave - SLOPE * rows
