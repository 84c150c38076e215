"""Several networks for the frames of one file: a frame's rate says which of them codes it.

A folder of bundles, each complete by itself, and levels.json, which lists them by rising rate
(docs/bitstream.md). Levels are the rates 0, 1, 2 ...; a rate between two takes the nearer one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .bundle import BUNDLE, BundleNetworks, file_hash
from .errors import UserError
from .indices import MARGIN
from .manifest import is_file_name, read_json
from .rates import RateError
from .rules import LIST, SHA256, Rule, check, is_text, within
from .runtimes import Setting

LEVELS = "levels.json"
FORMAT = "leanvc-levels-1"
MOST_LEVELS = 64


def level_of(rate: float | None, count: int) -> int:
    """The level of a rate, from 0 to `count` - 1. RateError where there is none."""
    if rate is None or not 0 <= rate <= count - 1:
        raise RateError(f"rate {rate}: this codec takes one from 0 to {count - 1}")
    return int(rate + 0.5)


def open_networks(
    folder: str | Path,
    margin: float = MARGIN,
    setting: Setting | None = None,
    intra: bool = False,
    bound: bool = False,
) -> "BundleNetworks | BundleLevels":
    """A bundle, or where the folder has levels all of them; arguments as of `BundleNetworks`."""
    if not (Path(folder) / LEVELS).exists():
        return BundleNetworks(folder, margin, intra=intra, setting=setting, bound=bound)
    return BundleLevels(folder, margin, setting, intra, bound)


class BundleLevels:
    """The bundles of a folder with levels, opened when a frame needs them.

    Raises UserError where levels.json is not what docs/bitstream.md says, or a bundle is not the
    one that it was written for.
    """

    level = None

    def __init__(
        self,
        folder: str | Path,
        margin: float = MARGIN,
        setting: Setting | None = None,
        intra: bool = False,
        bound: bool = False,
    ) -> None:
        self.folder, self.margin = Path(folder), margin
        content = read_json(self.folder / LEVELS, _check_levels, "list of levels")
        self.identity = content["weights"]
        self._options = setting or Setting(), intra, bound
        self._listed: list[Mapping[str, str]] = content["levels"]
        self._open: dict[int, BundleNetworks] = {}
        self.multiple = self._level(0).multiple
        self.arithmetic = self._level(0).arithmetic

    def at(self, rate: float | None) -> BundleNetworks:
        """The bundle that codes at this rate."""
        return self._level(level_of(rate, len(self._listed)))

    def check_size(self, height: int, width: int) -> None:
        """See `BundleNetworks.check_size`, of every level."""
        for level in range(len(self._listed)):
            self._level(level).check_size(height, width)

    def _level(self, level: int) -> BundleNetworks:
        if level not in self._open:
            listed = self._listed[level]
            place = self.folder / listed["folder"]
            found = place / BUNDLE
            if not found.is_file() or file_hash(found) != listed["sha256"]:
                raise UserError(f"{found}: missing, or not the one that {LEVELS} was written for")
            setting, intra, bound = self._options
            opened = BundleNetworks(
                place, self.margin, intra=intra, level=level, setting=setting, bound=bound
            )
            if self._open and opened.multiple != self.multiple:
                raise UserError(f"{found}: pads frames in another way than the level before it")
            self._open[level] = opened
        return self._open[level]


_LEVEL: dict[str, Rule] = {"folder": (is_file_name, "the name of a folder here"), "sha256": SHA256}


def _check_levels(content: Any) -> dict:
    check(content, {}, others=True)
    if content.get("format") != FORMAT:
        raise ValueError(f"its format is {content.get('format')!r}; {FORMAT} can be read")
    check(content, {"format": (is_text, ""), "weights": SHA256, "levels": LIST})
    levels: Sequence[Any] = content["levels"]
    if not 1 < len(levels) <= MOST_LEVELS:
        raise ValueError(f"{len(levels)} levels; from 2 to {MOST_LEVELS} can be read")
    for number, level in enumerate(levels):
        with within(f"levels[{number}]"):
            check(level, _LEVEL)
    return content
