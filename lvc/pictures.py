"""Pictures as they are shown (uint8) and as networks take them (float32, padded)."""

import numpy as np

SIZE_MULTIPLE = 64
"""Frames are padded to multiples of this: four halvings, and two more of the hyperprior."""


def as_float(picture: np.ndarray) -> np.ndarray:
    """uint8 (3, H, W) to float32 (1, 3, H, W) in [0, 1]."""
    return picture[None].astype(np.float32) / np.float32(255)


def as_picture(frame: np.ndarray) -> np.ndarray:
    """float32 (1, 3, H, W) in [0, 1] to uint8 (3, H, W)."""
    return np.rint(np.clip(frame[0], 0, 1) * np.float32(255)).astype(np.uint8)


def padded(frame: np.ndarray) -> np.ndarray:
    """(1, C, H, W) with its last row and column repeated up to multiples of 64."""
    height, width = frame.shape[2:]
    margins = ((0, 0), (0, 0), (0, round_up(height) - height), (0, round_up(width) - width))
    return np.pad(frame, margins, mode="edge")


def round_up(side: int) -> int:
    """`side` rounded up to the next multiple of 64."""
    return -(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE
