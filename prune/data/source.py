"""Sources of clips: sizes, reading frames, drawing training crops."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lvc.errors import UserError


class ClipError(UserError):
    """One clip among a source's cannot be used; `clip` names it. The others may be fine."""

    def __init__(self, clip: str, reason: str) -> None:
        super().__init__(f"{clip}: {reason}")
        self.clip = clip
        self.reason = reason

    def __reduce__(self) -> tuple:
        # An exception of two arguments does not pickle by itself, and workers send theirs back.
        return ClipError, (self.clip, self.reason)


@dataclass(frozen=True)
class ClipInfo:
    """A clip's name, number of frames, size in pixels, and frames per second."""

    name: str
    frames: int
    height: int
    width: int
    fps: float


class Source:
    """A list of clips. Picklable, so that worker processes can read it.

    `name` stands in messages and reports; `skipped` maps the name of each file left out when the
    source was opened to the reason.
    """

    name: str
    skipped: dict[str, str]

    def __len__(self) -> int:
        """The number of clips."""
        raise NotImplementedError

    def info(self, index: int) -> ClipInfo:
        """Clip `index` without decoding it."""
        raise NotImplementedError

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """Frames `start` to `start + count` (to the end by default) of clip `index`.

        Returns uint8 (T, 3, H, W), RGB, contiguous. Raises ClipError naming the file if it cannot
        be decoded, and UserError if the clip has no such frames.
        """
        raise NotImplementedError

    def cut(self, index: int, start: int, count: int) -> np.ndarray:
        """As `read`, of which only a crop will be used: it may be a view that costs nothing."""
        return self.read(index, start, count)

    def window(self, index: int, start: int, count: int | None) -> tuple[int, int]:
        """`start` and `count` with the default filled in, checked against the clip's length."""
        info = self.info(index)
        count = info.frames - start if count is None else count
        if start < 0 or count < 1 or start + count > info.frames:
            raise UserError(
                f"{info.name}: frames {start} to {start + count - 1} asked for, "
                f"but the clip has {info.frames} (0 to {info.frames - 1})"
            )
        return start, count

    def usable(self, frames: int, crop: int) -> Sequence[int]:
        """The clips with at least `frames` frames of at least `crop` by `crop` pixels."""
        infos = (self.info(index) for index in range(len(self)))
        return [i for i, info in enumerate(infos) if too_small(info, frames, crop) is None]

    def left_out(self, frames: int, crop: int) -> dict[str, str]:
        """The clips that are not usable, by name, with the reason."""
        infos = (self.info(index) for index in range(len(self)))
        reasons = ((info.name, too_small(info, frames, crop)) for info in infos)
        return {name: reason for name, reason in reasons if reason}

    def sample(
        self, rng: np.random.Generator, usable: Sequence[int], frames: int, crop: int, stride: int
    ) -> np.ndarray:
        """A random crop of a random clip among `usable`: uint8 (frames, 3, crop, crop).

        Takes every `stride`-th frame where the clip is long enough for that, else every frame.
        Depends on `rng` only. Raises ClipError if the clip drawn cannot be decoded.
        """
        index = usable[rng.integers(len(usable))]
        info = self.info(index)
        if (frames - 1) * stride + 1 > info.frames:
            stride = 1
        count = (frames - 1) * stride + 1
        start = int(rng.integers(info.frames - count + 1))
        clip = self.cut(index, start, count)[::stride]
        height, width = clip.shape[2:]
        if height < crop or width < crop:
            raise ClipError(info.name, f"frames of {width}x{height}, smaller than {crop}x{crop}")
        top = int(rng.integers(height - crop + 1))
        left = int(rng.integers(width - crop + 1))
        return clip[:, :, top : top + crop, left : left + crop]


def too_small(info: ClipInfo, frames: int, crop: int) -> str | None:
    """Why the clip cannot give `frames` frames of `crop` by `crop` pixels; None if it can."""
    if info.frames < frames:
        return f"{info.frames} frames, {frames} needed"
    if info.height < crop or info.width < crop:
        return f"{info.width}x{info.height} pixels, {crop}x{crop} needed"
    return None


def check_sources(sources: list[Source], frames: int, crop: int) -> None:
    """Raise UserError if a source has no clip of `frames` frames and `crop` by `crop` pixels."""
    if not sources:
        raise UserError("no data source given: name at least one")
    for source in sources:
        if len(source.usable(frames, crop)):
            continue
        info = source.info(0)
        raise UserError(
            f"{source.name}: none of its {len(source)} clips has {frames} frames of "
            f"{crop}x{crop} pixels ({info.name}: {too_small(info, frames, crop)}); "
            "use other clips, fewer frames or a smaller crop"
        )


def files_in(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files of a kind in a folder and those below it, sorted; hidden ones left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in suffixes
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
