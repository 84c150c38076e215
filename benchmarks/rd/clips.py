"""The clips that curves are measured on: their first frames, and a digest that tells them apart."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from rd.project import UserError, open_source

FRAMES = 32
"""Frames of each clip, the I frame included, unless something else is asked for."""


@dataclass(frozen=True)
class Clip:
    """The first frames of a clip: `pictures` are uint8 RGB (T, 3, H, W); `fps` a second."""

    name: str
    fps: float
    pictures: np.ndarray = field(repr=False, compare=False)
    digest: str

    def entry(self):
        """The clip's entry in a file of results."""
        frames, _, height, width = self.pictures.shape
        size = f"{width}x{height}"
        return {"frames": frames, "size": size, "fps": self.fps, "digest": self.digest}


def read_clips(source, frames, wanted=None):
    """Each clip's first `frames` frames, or all that it has; at least 2.

    `source`: as `prune.data.open_source` takes it. `wanted`: names, or None for all. Raises
    UserError for a name that is not there and for a clip that cannot be read.
    """
    opened = open_source(source)
    infos = [opened.info(index) for index in range(len(opened))]
    names = [info.name for info in infos]
    if unknown := [name for name in wanted or () if name not in names]:
        raise UserError(f"no clip {', '.join(unknown)} in {source}: {', '.join(names)}")
    for index, info in enumerate(infos):
        if wanted and info.name not in wanted:
            continue
        if min(frames, info.frames) < 2:
            raise UserError(f"{info.name}: a curve needs at least 2 frames")
        pictures = opened.read(index, 0, min(frames, info.frames))
        yield Clip(info.name, info.fps, pictures, digest(pictures))


def digest(pictures):
    """16 hexadecimal digits of uint8 pictures and their shape."""
    content = hashlib.sha256(str(pictures.shape).encode() + pictures.tobytes())
    return content.hexdigest()[:16]
