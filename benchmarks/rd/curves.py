"""Arithmetic on rate-distortion curves: averages, Bjontegaard deltas, gaps at a rate, drift."""

import math
from dataclasses import dataclass

import numpy as np

from rd.project import BD, bd, mean

MOSTLY = 0.9
"""Share of a codec's curve that an anchor must cover for a delta to stand without a remark."""


@dataclass(frozen=True)
class Point:
    """One rate of a curve: bits per pixel and PSNR in dB."""

    bpp: float
    psnr: float


def averaged(curves):
    """The mean over clips of curves with the same rate points in the same order."""
    return [
        Point(mean(p.bpp for p in points), mean(p.psnr for p in points))
        for points in zip(*curves, strict=True)
    ]


def delta(anchor, curve):
    """Bjontegaard deltas of `curve` against an anchor's, which may reach much farther.

    `why` says where a value is missing, or where the anchor covers too little of the curve.
    """
    found = bd(*columns(anchor), *columns(curve))
    if found.psnr_db is None and found.rate_percent is None:
        return found
    reasons = [
        f"the anchor covers {share:.0%} of the codec's range of {name}"
        for name, share in (
            ("rates", covered(anchor, curve, lambda p: math.log(p.bpp))),
            ("PSNR", covered(anchor, curve, lambda p: p.psnr)),
        )
        if share < MOSTLY
    ]
    return BD(found.psnr_db, found.rate_percent, "; ".join(reasons) or None)


def columns(curve):
    return [point.bpp for point in curve], [point.psnr for point in curve]


def covered(anchor, curve, value):
    """The share of the curve's range of values that lies inside the anchor's."""
    low, high = min(map(value, curve)), max(map(value, curve))
    shared = min(high, max(map(value, anchor))) - max(low, min(map(value, anchor)))
    return max(0.0, shared) / (high - low) if high > low else float(shared >= 0)


def gap(anchor, point):
    """PSNR of a point less the anchor's at the same rate, in dB; None outside the anchor's rates.

    Between the anchor's points PSNR is linear in the logarithm of the rate.
    """
    anchor = sorted(anchor, key=lambda p: p.bpp)
    rates, psnrs = columns(anchor)
    if not rates[0] <= point.bpp <= rates[-1]:
        return None
    return point.psnr - float(np.interp(math.log(point.bpp), np.log(rates), psnrs))


def drift(p_psnr):
    """PSNR of the last P frame less the mean of all P frames, in dB; negative where it is lost."""
    return p_psnr[-1] - mean(p_psnr)
