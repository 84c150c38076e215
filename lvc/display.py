"""The display of decoded pictures: when, with which pixels, in which colours."""

from dataclasses import dataclass
from typing import Any

from av.video.reformatter import Colorspace

from .rules import COUNT, Rule, is_count, is_integer

BT709, UNSTATED = 1, 2
"""Numbers of ITU-T H.273 for primaries, transfer and matrix; 2: the file does not say."""

MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
"""Matrices that can be converted: their numbers, and what swscale calls them."""
LONGEST = 2**31
"""Seconds that a video may take: 68 years."""


@dataclass(frozen=True)
class Display:
    """All that a player needs beside the pictures; the defaults are those of a plain video.

    `time_base`: seconds of a tick, numerator and denominator, where each frame has a time of its
    own; None where they follow each other at a constant rate. `aspect`: width to height of a pixel.
    `primaries`, `transfer`, `matrix`: numbers of H.273, of the file that was coded, 2 where it did
    not say. `full_range`: whether its samples went from 0 to 255.
    """

    time_base: tuple[int, int] | None = None
    aspect: tuple[int, int] = (1, 1)
    primaries: int = UNSTATED
    transfer: int = UNSTATED
    matrix: int = UNSTATED
    full_range: bool = False


PLAIN = Display()


def in_time(ticks: int, time_base: tuple[int, int]) -> bool:
    """Whether a frame's time is one that every container takes."""
    return ticks * time_base[0] <= LONGEST * time_base[1]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_count, value))


def _is_time_base(value: Any) -> bool:
    return value is None or (_is_pair(value) and value[0] <= value[1])


_NUMBER: Rule = (
    lambda value: is_integer(value, 1, 255) and value != 3,
    "a number of ITU-T H.273, from 1 to 255",
)
RULES: dict[str, Rule] = {
    "time_base": (
        _is_time_base,
        f"null, or a list of two, each {COUNT[1]}, together at most a second",
    ),
    "aspect": (_is_pair, f"a list of two, each {COUNT[1]}"),
    "primaries": _NUMBER,
    "transfer": _NUMBER,
    "matrix": (
        lambda value: type(value) is int and value in (UNSTATED, *MATRICES),
        f"one of {', '.join(map(str, sorted((UNSTATED, *MATRICES))))}",
    ),
    "full_range": (lambda value: isinstance(value, bool), "true or false"),
}


def display_of(fields: dict[str, Any]) -> Display:
    """The display in an object of JSON that `RULES` hold for."""
    base = fields["time_base"]
    pairs = {"time_base": base and tuple(base), "aspect": tuple(fields["aspect"])}
    return Display(**fields | pairs)
