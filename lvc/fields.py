"""Which elements of a latent are read in which step, where one is read in two steps or in four."""

from collections.abc import Sequence

import numpy as np

QUARTER_STEPS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))
"""By step, the position of each quarter of the channels in squares of 2 x 2, counted row by row
(Li, Li, Lu, CVPR 2023, section 3.4). A step reads every position, of one quarter each."""


def halves(shape: Sequence[int]) -> list[np.ndarray]:
    """By step, (1, C, h, w) booleans: a checkerboard's white squares for the first half of the
    channels, its black ones for the second; then the rest (Li et al., ACM MM 2022, section 3.3).
    """
    _, channels, height, width = shape
    white = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
    half = np.arange(channels) < channels // 2
    first = (half[:, None, None] == white)[None]
    return [first, ~first]


def quarters(shape: Sequence[int]) -> list[np.ndarray]:
    """By step, (1, C, h, w) booleans of the four steps of `QUARTER_STEPS`."""
    _, channels, height, width = shape
    place = np.add.outer(2 * (np.arange(height) % 2), np.arange(width) % 2)
    quarter = np.arange(channels) * 4 // channels
    steps = np.array(QUARTER_STEPS)[:, quarter]
    return [(step[:, None, None] == place)[None] for step in steps]
