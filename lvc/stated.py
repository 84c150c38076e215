"""Statements of video files about their pictures: one set of rules for coding and for training.

Pictures are shown upright and in the colours that the file states; BT.709 in limited range where
it states none. Grey and RGB pictures have neither.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from .anchor import frame_to_picture
from .display import MATRICES, UNSTATED, Display
from .errors import UserError
from .rules import LARGEST_INTEGER
from .timing import Timing, fraction

_STATES_NONE = (0, 2, 3)  # RGB, unspecified, reserved


@dataclass(frozen=True)
class Turn:
    """The turn of a decoded picture before it is shown: where its axes go.

    Sample (x, y) goes to x' = `xx` x + `yx` y, y' = `xy` x + `yy` y, up to the origin, which is the
    corner. `degrees`: counterclockwise, of a turn that is none by quarters and is not carried out.
    """

    xx: int = 1
    xy: int = 0
    yx: int = 0
    yy: int = 1
    degrees: float = 0.0

    @property
    def sideways(self) -> bool:
        """Whether width and height change places."""
        return self.xx == 0

    def of(self, picture: np.ndarray) -> np.ndarray:
        """The picture (3, H, W), turned."""
        if self.sideways:
            picture = picture.transpose(0, 2, 1)
        across, down = (self.yx, self.xy) if self.sideways else (self.xx, self.yy)
        return np.ascontiguousarray(picture[:, ::down, ::across])


UPRIGHT = Turn()
_BY_QUARTERS = {(x, 0, 0, y) for x in (1, -1) for y in (1, -1)}
_BY_QUARTERS |= {(0, y, x, 0) for x in (1, -1) for y in (1, -1)}


BY_EXIF = (
    *(UPRIGHT, Turn(xx=-1), Turn(xx=-1, yy=-1), Turn(yy=-1)),
    *(Turn(0, 1, 1, 0), Turn(0, 1, -1, 0), Turn(0, -1, -1, 0), Turn(0, -1, 1, 0)),
)
"""Turns that the orientations 1 to 8 of Exif ask for."""


def turn_of(frame: av.VideoFrame) -> Turn:
    """The turn that a file's display matrix asks for."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return UPRIGHT
    signs = tuple(int(np.sign(value)) if abs(value) > 1e-3 else 0 for value in matrix)
    if signs in _BY_QUARTERS:
        return Turn(*signs)
    return Turn(degrees=math.degrees(math.atan2(-matrix[1], matrix[0])))


def _display_matrix(frame: av.VideoFrame) -> tuple[float, float, float, float] | None:
    """Its upper left 2x2: x' of x, y' of x, x' of y, y' of y."""
    try:
        every: Any = frame.side_data  # whose types say that it holds text
        found = every.get("DISPLAYMATRIX")
    except ValueError:  # side data of a kind that PyAV has no name for, beside it
        turn = math.radians(getattr(frame, "rotation", 0))
        return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
    if found is None or len(data := bytes(found)) < 36:
        return None
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5] / 65536
    return float(a), float(b), float(c), float(d)


def matrix_of(frame: av.VideoFrame) -> int:
    """The number of its colour matrix (H.273), 2 where it states none or needs none."""
    number = int(frame.colorspace)
    return UNSTATED if number in _STATES_NONE or _has_no_chroma(frame) else number


def is_full(frame: av.VideoFrame) -> bool:
    """Whether its samples go from 0 to 255, as those of grey and RGB pictures always do."""
    return frame.color_range == ColorRange.JPEG


def _has_no_chroma(frame: av.VideoFrame) -> bool:
    return frame.format.is_rgb or len(frame.format.components) < 3


def picture_of(
    frame: av.VideoFrame,
    matrix: int | None = None,
    full: bool | None = None,
    turn: Turn | None = None,
) -> np.ndarray:
    """The frame as it is shown, uint8 RGB (3, H, W).

    `matrix`, `full`, `turn`: instead of what the frame states. UserError for a matrix that cannot
    be converted.
    """
    number = matrix_of(frame) if matrix is None else matrix
    known = Colorspace.ITU709 if number == UNSTATED else MATRICES.get(number)
    if known is None:
        raise UserError(f"has a colour matrix (number {number}) that cannot be converted")
    full = is_full(frame) if full is None else full
    picture = frame_to_picture(frame, known, ColorRange.JPEG if full else ColorRange.MPEG)
    return (turn_of(frame) if turn is None else turn).of(picture)


def display_of(stream: av.VideoStream, frame: av.VideoFrame, timing: Timing) -> Display:
    """All that a player is to be told of a file, by its first frame."""
    aspect = _aspect(stream)
    coloured = not _has_no_chroma(frame)
    base = timing.time_base.as_integer_ratio()
    return Display(
        time_base=None if timing.constant else base,
        aspect=(aspect[1], aspect[0]) if turn_of(frame).sideways else aspect,
        primaries=_number(stream.codec_context.color_primaries),
        transfer=_number(stream.codec_context.color_trc),
        matrix=matrix_of(frame),
        full_range=coloured and is_full(frame),
    )


def _aspect(stream: av.VideoStream) -> tuple[int, int]:
    pair = (fraction(stream.sample_aspect_ratio) or Fraction(1)).as_integer_ratio()
    return pair if min(pair) > 0 and max(pair) <= LARGEST_INTEGER else (1, 1)


def _number(value: int) -> int:
    return value if 0 < value < 256 and value != 3 else UNSTATED
