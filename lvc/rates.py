"""The factor of a rate between a codec's rate points."""

from typing import Any

import numpy as np

from .errors import UserError

Factor = Any
"""A number or an array, of numpy or torch."""

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
    nearest = round(rate)
    part = np.float32(rate - nearest)
    neighbour = nearest + int(np.sign(part))
    return log_linear(points[nearest], points[neighbour], abs(part)).reshape(1, 1, 1, 1)


def level_weights(count: int, rate: float | None) -> np.ndarray:
    """(1, count, 1, 1), float32: the shares of the two whole rates beside `rate`, 0 elsewhere.

    RateError for a missing rate, or one out of range.
    """
    if rate is None or not 0 <= rate <= count - 1:
        raise RateError(f"rate {rate}: this codec takes one from 0 to {count - 1}")
    distance = np.abs(np.float32(rate) - np.arange(count, dtype=np.float32))
    return np.maximum(np.float32(1) - distance, np.float32(0)).reshape(1, -1, 1, 1)


def single(rate: float | None) -> float | None:
    """A file holds rates in single precision, and sender and receiver have to mean the same."""
    return None if rate is None else float(np.float32(rate))


def log_linear(nearest: Factor, neighbour: Factor, part: Factor) -> Factor:
    """`part` of the way, 0 to 0.5, from the nearest point's factor to the next one's.

    At a point it is that point's factor to the last bit. For arrays of numpy and torch alike, so
    that training, estimates and receivers divide by the same.
    """
    return nearest * (neighbour / nearest) ** part
