"""Clips that a training does not see, to score it on."""

from collections.abc import Sequence

import numpy as np

from lvc.errors import UserError
from prune.data.source import ClipInfo, Source

ENDLESS = 100_000
"""A source of more clips than this makes them up; nothing is held back of it."""


class Some(Source):
    """Some clips of a source, by their numbers there."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)
        self.name, self.skipped = source.name, source.skipped

    def __len__(self) -> int:
        return len(self.indices)

    def info(self, index: int) -> ClipInfo:
        return self.source.info(self.indices[index])

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        return self.source.read(self.indices[index], start, count)

    def cut(self, index: int, start: int, count: int) -> np.ndarray:
        return self.source.cut(self.indices[index], start, count)


def held_back(
    sources: Sequence[tuple[Source, float]], count: int
) -> tuple[list[tuple[Source, float]], Source | None]:
    """`sources` without `count` clips of the first that has a list of clips, and those clips.

    They lie evenly in the list. UserError where no list is long enough.
    """
    if not count:
        return list(sources), None
    for number, (source, weight) in enumerate(sources):
        if not count < len(source) <= ENDLESS:
            continue
        held = {int((i + 0.5) * len(source) / count) for i in range(count)}
        rest = [i for i in range(len(source)) if i not in held]
        others = list(sources)
        others[number] = (Some(source, rest), weight)
        return others, Some(source, sorted(held))
    raise UserError(
        f"data.held_back: no training source has more than {count} clips; give fewer, or 0"
    )
