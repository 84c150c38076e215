"""An evaluation's clips spread over the processes of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _alone(found: Any) -> list[Any]:
    return [found]


@dataclass(frozen=True)
class Spread:
    """Process `rank` of `count`, and how what all of them found is gathered, in their order."""

    rank: int = 0
    count: int = 1
    gathered: Callable[[Any], list[Any]] = _alone

    def takes(self, index: int) -> bool:
        """Whether clip `index` is this process's."""
        return index % self.count == self.rank

    def merged(self, found: dict[int, Any]) -> dict[int, Any]:
        """The findings of all processes, by clip and in the clips' order."""
        parts = self.gathered(found)
        return dict(sorted((index, one) for part in parts for index, one in part.items()))
