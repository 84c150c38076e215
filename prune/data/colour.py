"""From a source's YUV to RGB: as its files state, or as a recipe says instead."""

from dataclasses import dataclass

import av
import numpy as np

from lvc.display import BT709, UNSTATED
from lvc.stated import picture_of

NUMBERS = {"bt709": (BT709,), "bt601": (5, 6)}
"""Matrices of recipes, by their numbers in ITU-T H.273."""


@dataclass(frozen=True)
class Stated:
    """A file's first frame says so: the number of its matrix (2: nothing), its range if any."""

    matrix: int = UNSTATED
    range: str | None = None


@dataclass(frozen=True)
class SourceColour:
    """Matrix "bt709" or "bt601", range "limited" or "full"; None is what each file states.

    A file that states nothing is BT.709 in limited range, as everywhere (`lvc.stated`).
    """

    matrix: str | None = None
    range: str | None = None

    def __str__(self) -> str:
        return " and ".join(f"`{key}: {value}`" for key, value in vars(self).items() if value)

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame as it is shown, uint8 (3, H, W) RGB. UserError where it cannot be converted."""
        matrix = None if self.matrix is None else NUMBERS[self.matrix][0]
        return picture_of(frame, matrix, None if self.range is None else self.range == "full")

    def contradicts(self, stated: Stated) -> bool:
        """Whether a file states another colour than is asked for."""
        known = stated.matrix != UNSTATED and self.matrix is not None
        if known and stated.matrix not in NUMBERS[str(self.matrix)]:
            return True
        return None not in (self.range, stated.range) and self.range != stated.range
