"""Rate control, frame by frame: the sender tries rates of a codec of many, the receiver sees one.

Bits and quality rise with the rate, so that a few tries by halving find the one that is wanted.
I frames keep the encoder's own rate. (Rippel et al., ICCV 2021, show these controllers.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lvc.anchor import psnr
from lvc.errors import UserError
from vcodecs.encode import Coded, Encoder

TRIES = 6
"""Rates tried between the lowest and the highest: 1/64 of the range is left open."""


@dataclass(frozen=True)
class MostBits:
    """The highest rate with which a P frame costs at most so many bits per pixel, if any does."""

    bpp: float

    def __call__(self, encoder: Encoder, picture: np.ndarray) -> Coded:
        """Code the next picture, uint8 RGB (3, H, W)."""
        allowed = self.bpp * picture[0].size
        return _code(encoder, picture, lambda tried: 8 * len(tried.payload) > allowed, highest=True)


@dataclass(frozen=True)
class LeastPsnr:
    """The lowest rate with which a P frame reaches so many dB (RGB), if any does."""

    decibels: float

    def __call__(self, encoder: Encoder, picture: np.ndarray) -> Coded:
        """Code the next picture, uint8 RGB (3, H, W)."""
        wanted = self.decibels
        return _code(
            encoder, picture, lambda tried: psnr(picture, tried.picture) >= wanted, highest=False
        )


def _code(
    encoder: Encoder, picture: np.ndarray, enough: Callable[[Coded], bool], highest: bool
) -> Coded:
    """At the lowest rate that is `enough`, or at the `highest` that is not."""
    points = encoder.networks.codec.rates()
    low, high = points[0], points[-1]
    if low is None or high is None:
        raise UserError(f"{encoder.networks.codec.name} has one rate: there is nothing to control")
    if encoder.next_is_intra:
        return encoder.code(picture)
    if enough(encoder.attempt(picture, low)):
        return encoder.code(picture, low)
    if not enough(encoder.attempt(picture, high)):
        return encoder.code(picture, high)
    for _ in range(TRIES):
        middle = (low + high) / 2
        if enough(encoder.attempt(picture, middle)):
            high = middle
        else:
            low = middle
    return encoder.code(picture, low if highest else high)
