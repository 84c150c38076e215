"""The factor of a rate between a codec's rate points."""

import numpy as np

from .errors import UserError

SMALLEST_SCALE = 0.01
"""Least value of a rate point's factor, as in the official bitstream."""


class RateError(UserError):
    """A rate that a codec does not have."""


def rate_factor(points: np.ndarray, rate: float | None) -> np.ndarray:
    """(1, 1, 1, 1) at `rate`, 0 ... len(points) - 1: log-linear between the points (R,).

    RateError for a missing rate, or one out of range.
    """
    last = points.size - 1
    if rate is None or not 0 <= rate <= last:
        raise RateError(f"rate {rate}: this codec takes one from 0 to {last}")
    points = np.maximum(points.astype(np.float32).ravel(), np.float32(SMALLEST_SCALE))
    low = min(int(rate), len(points) - 2) if len(points) > 1 else 0
    part = np.float32(rate - low)
    high = points[min(low + 1, len(points) - 1)]
    return (points[low] * (high / points[low]) ** part).reshape(1, 1, 1, 1)
