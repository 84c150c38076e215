"""Presentation times of a video file: from its packets, without decoding any."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from .rules import LARGEST_INTEGER

FALLBACK_FPS = Fraction(30)
"""Pictures a second of a file that does not say and has no times."""
LARGEST_DENOMINATOR = 1001


@dataclass(frozen=True)
class Timing:
    """`fps`: pictures a second, on average. `frames`: how many packets there are.

    `times`: int64 (frames,), rising, in ticks of `time_base` seconds; None where they are not all
    known, or two are equal. `constant`: whether they are `fps` apart, to the tick.
    """

    fps: Fraction
    frames: int
    times: np.ndarray | None
    time_base: Fraction
    constant: bool

    @staticmethod
    def unknown(stream: av.VideoStream) -> "Timing":
        """That of a stream whose packets cannot be gone through: the rate that it states."""
        rate = stated_rate(stream)
        return Timing(rate, 0, None, 1 / rate, True)


def timing_of(container: InputContainer, stream: av.VideoStream) -> Timing:
    """Go through all packets of the stream. FFmpegError where that fails."""
    stated = stated_rate(stream)
    base = fraction(stream.time_base) or 1 / stated
    if container.format.name == "yuv4mpegpipe":
        # Fixed size: the header and the file's length say it all.
        count = stream.duration or 0
        return Timing(stated, count, np.arange(count), 1 / stated, True)
    packets = container.demux(stream)
    found = [packet.pts for packet in packets if packet.size and not packet.is_discard]
    known = np.sort(np.array([time for time in found if time is not None], np.int64))
    times = known if len(known) == len(found) and (np.diff(known) > 0).all() else None
    if times is None or len(times) < 2:
        return Timing(stated, len(found), times, base, True)
    measured = Fraction(len(times) - 1, int(times[-1] - times[0])) / base
    for rate in (fraction(stream.average_rate), fraction(stream.guessed_rate), _simple(measured)):
        if rate and _is_constant(times, base, rate):
            return Timing(rate, len(found), times, base, True)
    if base > 1 or max(base.as_integer_ratio()) > LARGEST_INTEGER:
        return Timing(_simple(measured), len(found), times, base, True)
    return Timing(_simple(measured), len(found), times, base, False)


def stated_rate(stream: av.VideoStream) -> Fraction:
    """Pictures a second as the file, or FFmpeg's guess at it, says."""
    return fraction(stream.average_rate) or fraction(stream.guessed_rate) or FALLBACK_FPS


def fraction(value: Any) -> Fraction | None:
    """A ratio of PyAV's, whose type depends on its version; None where it is none or 0."""
    if not value or not value.denominator:
        return None
    return Fraction(value.numerator, value.denominator)


def _is_constant(times: np.ndarray, base: Fraction, rate: Fraction) -> bool:
    """Whether every time is within a tick of where a constant rate has it."""
    ticks = float(1 / (rate * base))
    exact = np.arange(len(times)) * ticks
    return bool((np.abs(times - times[0] - exact) <= 1 + 1e-6 * exact).all())


def _simple(rate: Fraction) -> Fraction:
    return rate.limit_denominator(LARGEST_DENOMINATOR) or Fraction(1, LARGEST_DENOMINATOR)
