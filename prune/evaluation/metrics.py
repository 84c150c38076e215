"""Quality of decoded frames, and differences of rate-distortion curves."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PSNR_CAP = 100.0
"""PSNR of identical frames, in dB; the true value, infinity, would swallow every average."""

MS_SSIM_SIDE = 161
"""Smallest side that MS-SSIM takes: four halvings must leave room for its 11-tap window."""

BD_POINTS = 4
"""Rate points below which a Bjontegaard delta says more about the interpolation than the codec."""


LITTLE_OVERLAP = 0.5
"""Share of two curves' range below which a Bjontegaard delta speaks for a small part of it."""


@dataclass(frozen=True)
class Measure:
    """Averages over frames or clips: bits per pixel, RGB-PSNR in dB, MS-SSIM in [0, 1].

    `ms_ssim` is None where it could not be measured, for the reason in `why`.
    """

    bpp: float
    psnr: float
    ms_ssim: float | None
    why: str | None = None

    def entry(self) -> dict[str, object]:
        """The `dense` or `sparse` object of a report's rate point."""
        values: dict[str, object] = {"bpp": self.bpp, "psnr": self.psnr, "ms_ssim": self.ms_ssim}
        return values if self.why is None else values | {"why": {"ms_ssim": self.why}}


@dataclass(frozen=True)
class BD:
    """Bjontegaard deltas of curve b against curve a.

    `why` gives the reason for a None, or why values that are there are to be taken with care.

    `psnr_db`: mean PSNR gained at equal rate (negative: b is worse).
    `rate_percent`: mean rate added at equal PSNR (positive: b is worse).
    """

    psnr_db: float | None
    rate_percent: float | None
    why: str | None = None


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR in dB of frames (N, 3, H, W), RGB in [0, 1]: (N,), at most 100.

    One mean squared error over the three channels of a frame. A frame with a value that is not a
    number gives one that is not a number.
    """
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    # clamp passes NaN on, so a broken decoder cannot look like a perfect one.
    return (-10 * torch.log10(mse)).clamp(max=PSNR_CAP).float()


def ms_ssim(a: Tensor, b: Tensor) -> Tensor | None:
    """MS-SSIM of frames (N, 3, H, W), RGB in [0, 1]: (N,), in [0, 1].

    None where the frames are too small for it: `why_no_ms_ssim` gives the reason.
    """
    if why_no_ms_ssim(*a.shape[-2:]):
        return None
    import pytorch_msssim

    return pytorch_msssim.ms_ssim(a, b, data_range=1.0, size_average=False)


def why_no_ms_ssim(height: int, width: int) -> str | None:
    """Why frames of this size have no MS-SSIM, or None where they have one."""
    if min(height, width) >= MS_SSIM_SIDE:
        return None
    return f"MS-SSIM needs sides of at least {MS_SSIM_SIDE}, the frames have {width}x{height}"


def average(measures: Iterable[Measure]) -> Measure:
    """The mean of measures, each counting the same; MS-SSIM only where all of them have it."""
    measures = list(measures)
    # A mean over other clips than those of bpp and PSNR would not belong beside them.
    why = next((measure.why for measure in measures if measure.ms_ssim is None), None)
    known = [measure.ms_ssim for measure in measures if measure.ms_ssim is not None]
    return Measure(
        bpp=mean(measure.bpp for measure in measures),
        psnr=mean(measure.psnr for measure in measures),
        ms_ssim=mean(known) if len(known) == len(measures) else None,
        why=why,
    )


def mean(values: Iterable[float]) -> float:
    """The exactly summed mean; not a number where there are no values."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def bd(
    rate_a: Sequence[float],
    psnr_a: Sequence[float],
    rate_b: Sequence[float],
    psnr_b: Sequence[float],
) -> BD:
    """Compare curve b with curve a (rates in bits per pixel, PSNR in dB), Akima interpolation.

    Both values are None, with a reason, where a curve has fewer than four points or does not rise
    everywhere; either is None where the curves share no range of rates or of PSNR.
    """
    curves = [_sorted_curve(rate_a, psnr_a), _sorted_curve(rate_b, psnr_b)]
    for rates, qualities in curves:
        if len(rates) < BD_POINTS:
            return _no_bd(f"BD needs {BD_POINTS} rate points, there are {len(rates)}")
        if not (np.isfinite(rates).all() and np.isfinite(qualities).all() and rates[0] > 0):
            return _no_bd("BD needs finite PSNR and rates above 0")
        if (np.diff(rates) <= 0).any() or (np.diff(qualities) <= 0).any():
            return _no_bd("BD needs PSNR to rise with the rate from point to point")
    return _bjontegaard(curves)


def _no_bd(why: str) -> BD:
    return BD(None, None, why)


def _sorted_curve(rate: Sequence[float], quality: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    points = np.array(sorted(zip(rate, quality, strict=True)), dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _bjontegaard(curves: list[tuple[np.ndarray, np.ndarray]]) -> BD:
    import bjontegaard  # brings matplotlib and scipy with it: only where it is used

    (rate_a, psnr_a), (rate_b, psnr_b) = curves
    arguments = (rate_a, psnr_a, rate_b, psnr_b)
    options = {"method": "akima", "require_matching_points": False}
    with warnings.catch_warnings():
        # The package warns where the curves overlap little or not at all; `why` says it.
        warnings.simplefilter("ignore")
        gain = float(bjontegaard.bd_psnr(*arguments, **options))
        rate = float(bjontegaard.bd_rate(*arguments, **options))
    reasons = []
    for name, (low_a, *_, high_a), (low_b, *_, high_b) in (
        ("rates", np.log(rate_a), np.log(rate_b)),
        ("PSNR", psnr_a, psnr_b),
    ):
        shared = min(high_a, high_b) - max(low_a, low_b)
        part = shared / (max(high_a, high_b) - min(low_a, low_b))
        if part <= 0:
            reasons.append(f"the curves share no range of {name}")
        elif part < LITTLE_OVERLAP:
            reasons.append(f"the curves share only {part:.0%} of their range of {name}")
    return BD(
        gain if math.isfinite(gain) else None,
        rate if math.isfinite(rate) else None,
        "; ".join(reasons) or None,
    )
