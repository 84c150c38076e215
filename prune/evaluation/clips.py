"""Which clips of a source an evaluation uses, and why others are left out."""

from collections.abc import Iterator

import numpy as np

from prune.data.source import ClipError, ClipInfo, Source, too_small
from prune.evaluation.spread import Spread
from vcodecs import UserError

MIN_SIDE = 16
"""Smallest side in pixels that codecs take."""

MAX_CLIPS = 10_000
"""More clips than this are an endless source rather than a data set."""

Skip = tuple[str, str]
"""A clip that was left out: its name, and the reason."""


def number_of_clips(source: Source, clips: int | None) -> int:
    """The number of a source's clips to use: the first `clips`, or all where None."""
    count = len(source) if clips is None else min(clips, len(source))
    if count > MAX_CLIPS:
        raise UserError(f"{source.name}: an endless source; say how many of its clips to use")
    return count


def read_clips(
    source: Source, frames: int, clips: int | None, skipped: dict[str, str]
) -> Iterator[tuple[ClipInfo, np.ndarray]]:
    """The first `frames` frames of the first `clips` clips: uint8 RGB (T, 3, H, W).

    Clips that cannot be read, are too short or too small go into `skipped` with the reason.
    Raises UserError where none is left.
    """
    found: dict[int, Skip] = {}
    for _, info, original in own_clips(source, frames, clips, found, Spread()):
        yield info, original
    skipped |= checked(source, clips, found)


def own_clips(
    source: Source, frames: int, clips: int | None, skipped: dict[int, Skip], spread: Spread
) -> Iterator[tuple[int, ClipInfo, np.ndarray]]:
    """The clips of one process with their numbers; what is left out, and why, by number too."""
    for index in filter(spread.takes, range(number_of_clips(source, clips))):
        name = f"clip {index}"
        try:
            info = source.info(index)
            name = info.name
            reason = too_small(info, frames, MIN_SIDE)
            original = None if reason else source.read(index, 0, frames)
        except UserError as error:
            reason = error.reason if isinstance(error, ClipError) else str(error)
        if reason:
            skipped[index] = name, reason
        else:
            assert original is not None
            yield index, info, original


def checked(source: Source, clips: int | None, found: dict[int, Skip]) -> dict[str, str]:
    """Reasons by clip of what was left out; UserError where that is everything."""
    skipped: dict[str, str] = {}
    for index, (name, reason) in found.items():
        # Files in different folders may have one name; each counts.
        skipped[name if name not in skipped else f"{name} (clip {index})"] = reason
    if len(found) == (count := number_of_clips(source, clips)):
        first = "".join(f"; {name}: {reason}" for name, reason in list(skipped.items())[:1])
        raise UserError(f"{source.name}: none of its {count} clips can be used{first}")
    return skipped
