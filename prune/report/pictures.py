"""Decoded frames for the eye: original, dense, sparse and what differs between the last two."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lvc.errors import UserError

WIDEST = 640
BUDGET = 4_000_000  # bytes of all pictures as they stand in the page
QUALITIES = (95, 88, 75, 50)
AMPLIFICATIONS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Picture:
    """One frame of a clip: uint8 arrays (H, W, 3), RGB."""

    clip: str
    frame: int
    original: np.ndarray
    dense: np.ndarray
    sparse: np.ndarray

    def __post_init__(self) -> None:
        for name in ("original", "dense", "sparse"):
            array = getattr(self, name)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
                raise UserError(
                    f"picture of {self.clip}: {name} is {array.dtype} {array.shape}, "
                    "not uint8 (height, width, 3)"
                )
            if array.shape != self.original.shape:
                raise UserError(
                    f"picture of {self.clip}: {name} is {array.shape}, the original "
                    f"{self.original.shape}"
                )


Pictures = Sequence[Picture]


@dataclass(frozen=True)
class View:
    """A picture as it stands in a page; `uri` is a data: URI."""

    caption: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """The four views of one frame."""

    title: str
    views: tuple[View, ...]


def strips(pictures: Pictures) -> tuple[list[Strip], int]:
    """The pictures as they go into the page, and how many did not fit into its size."""
    kept = list(pictures)
    while kept:
        for quality in QUALITIES:
            made = [_strip(picture, quality) for picture in kept]
            if sum(len(view.uri) for strip in made for view in strip.views) <= BUDGET:
                return made, len(pictures) - len(kept)
        kept.pop()
    return [], len(pictures)


def difference(dense: np.ndarray, sparse: np.ndarray) -> tuple[np.ndarray, int]:
    """|dense - sparse| times a power of two, uint8, and that factor.

    The factor is the largest for which 99.9 % of the values stay below white, so that a strong
    difference is not made to look like a weak one by clipping.
    """
    distance = np.abs(dense.astype(np.int16) - sparse.astype(np.int16))
    peak = float(np.percentile(distance, 99.9))
    factor = max((f for f in AMPLIFICATIONS if f * peak <= 255), default=1)
    return np.minimum(distance * factor, 255).astype(np.uint8), factor


def _strip(picture: Picture, quality: int) -> Strip:
    apart, factor = difference(picture.dense, picture.sparse)
    arrays = {
        "Original": picture.original,
        f"Dense, {_psnr(picture.original, picture.dense)}": picture.dense,
        f"Sparse, {_psnr(picture.original, picture.sparse)}": picture.sparse,
        f"|Dense − sparse| × {factor}": apart,
    }
    views = tuple(_view(caption, array, quality) for caption, array in arrays.items())
    return Strip(f"{picture.clip}, frame {picture.frame}", views)


def _psnr(a: np.ndarray, b: np.ndarray) -> str:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return "identical" if error == 0 else f"{10 * math.log10(255**2 / error):.2f} dB"


def _view(caption: str, array: np.ndarray, quality: int) -> View:
    image = Image.fromarray(np.ascontiguousarray(array))
    if image.width > WIDEST:
        height = max(1, round(image.height * WIDEST / image.width))
        image = image.resize((WIDEST, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return View(caption, f"data:image/jpeg;base64,{data}", image.width, image.height)
