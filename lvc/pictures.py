"""Pictures as they are shown (uint8) and as networks take them (float32, padded)."""

import numpy as np

SIZE_MULTIPLE = 64
"""Frames are padded to multiples of this where a codec says nothing else: four halvings, and two
more of the hyperprior."""


def as_float(picture: np.ndarray) -> np.ndarray:
    """uint8 (3, H, W) to float32 (1, 3, H, W) in [0, 1]."""
    return picture[None].astype(np.float32) / np.float32(255)


def as_picture(frame: np.ndarray) -> np.ndarray:
    """float32 (1, 3, H, W) in [0, 1] to uint8 (3, H, W)."""
    return np.rint(np.clip(frame[0], 0, 1) * np.float32(255)).astype(np.uint8)


def padded(frame: np.ndarray, multiple: int = SIZE_MULTIPLE) -> np.ndarray:
    """(1, C, H, W) with its last row and column repeated up to multiples of `multiple`."""
    height, width = frame.shape[2:]
    bottom, right = round_up(height, multiple) - height, round_up(width, multiple) - width
    margins = ((0, 0), (0, 0), (0, bottom), (0, right))
    return np.pad(frame, margins, mode="edge")


def round_up(side: int, multiple: int = SIZE_MULTIPLE) -> int:
    """`side` rounded up to the next multiple."""
    return -(-side // multiple) * multiple
