"""Clips that are in memory already: a notebook's arrays as a source."""

from collections.abc import Sequence

import numpy as np

from lvc.errors import UserError
from prune.data.source import ClipInfo, Source


class ArrayClips(Source):
    """Clips given as arrays or tensors (T, 3, H, W), RGB: uint8, or numbers in [0, 1]."""

    def __init__(self, clips: Sequence[object], name: str = "clips") -> None:
        self.name, self.skipped = name, {}
        self._clips = [_pixels(clip, i) for i, clip in enumerate(clips)]
        if not self._clips:
            raise UserError(f"{name}: no clip given")

    def __len__(self) -> int:
        return len(self._clips)

    def info(self, index: int) -> ClipInfo:
        frames, _, height, width = self._clips[index].shape
        return ClipInfo(f"clip {index}", frames, height, width, 30.0)

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        start, count = self.window(index, start, count)
        return np.ascontiguousarray(self._clips[index][start : start + count])


def _pixels(clip: object, number: int) -> np.ndarray:
    array = np.asarray(clip)
    if array.ndim != 4 or array.shape[1] != 3 or not array.size:
        raise UserError(f"clip {number}: (T, 3, H, W) is expected, it is {array.shape}")
    if array.dtype == np.uint8:
        return array
    array = array.astype(np.float32)
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise UserError(
            f"clip {number}: numbers in [0, 1] or uint8 are expected, it has {array.dtype} from "
            f"{array.min():g} to {array.max():g}"
        )
    return np.round(array * 255).astype(np.uint8)
