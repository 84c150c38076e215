"""Pictures into video files, one by one; see `lvc.video`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange

from .anchor import picture_to_frame, picture_to_yuv
from .display import BT709, MATRICES, PLAIN, UNSTATED, Display
from .encoders import check_encoder
from .errors import UserError
from .files import atomic_write, replacing

log = logging.getLogger("lvc")

Write = Callable[[np.ndarray, int | None], None]


class Sink:
    """A video that is being written; see `open_sink`. `written` counts its pictures."""

    def __init__(
        self, path: Path, size: tuple[int, int], writing: AbstractContextManager[Write]
    ) -> None:
        """`writing` makes the file when it is left in peace, and nothing otherwise."""
        self.path, self.written = path, 0
        self._shape = (3, size[1], size[0])
        self._writing, self._keep = writing, False

    def __enter__(self) -> "Sink":
        with self._as_user_errors():
            self._write = self._writing.__enter__()
        return self

    def write(self, picture: np.ndarray, time: int | None = None) -> None:
        """Append a uint8 RGB picture (3, height, width); UserError where the disk is full.

        `time`: in ticks of the display's time base, if it has one; counted from the first one's.
        """
        if picture.shape != self._shape or picture.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self._shape}, got {picture.dtype} {picture.shape}")
        with self._as_user_errors():
            self._write(picture, time)
        self.written += 1

    def keep(self) -> None:
        """From now on an exception inside the block leaves what was written until it came."""
        self._keep = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.written and (error is None or self._keep):
            with self._as_user_errors():
                self._writing.__exit__(None, None, None)
            return
        reason = error or UserError(f"{self.path} is not made: it would hold no picture")
        with suppress(av.FFmpegError):  # a full disk, once more
            self._writing.__exit__(type(reason), reason, trace)
        if error is None:
            raise reason

    @contextmanager
    def _as_user_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror})") from error


@dataclass(frozen=True)
class _Kind:
    """A suffix as FFmpeg names it, and the encoder that `check_encoder` looks for.

    `keeps`: what of a display it has a place for.
    """

    container: str
    codec: str
    pixel_formats: tuple[str, str]  # where both sides are even, and where one is odd
    keeps: frozenset[str]
    options: dict[str, str] = field(default_factory=dict)
    needs: str | None = None


_TIMES, _ASPECT, _COLOURS = "presentation times", "the pixels' aspect", "the colour tags"

_KINDS = {
    ".y4m": _Kind("yuv4mpegpipe", "rawvideo", ("yuv444p", "yuv444p"), frozenset()),
    ".mkv": _Kind(
        "matroska",
        "ffv1",
        ("bgr0", "bgr0"),
        frozenset((_TIMES, _COLOURS)),
        {"level": "3", "slicecrc": "1"},
        needs="lossless",
    ),
    ".mp4": _Kind(
        "mp4",
        "libx264",
        ("yuv420p", "yuv444p"),  # what every player shows has no odd sizes
        frozenset((_TIMES, _COLOURS, _ASPECT)),
        # Our chroma lies amid its pixels, and not at the left as players take for granted.
        {"crf": "12", "x264-params": "chromaloc=1"},
        needs="h264",
    ),
}


def open_sink(
    path: str | Path,
    width: int,
    height: int,
    fps: Fraction | float,
    display: Display = PLAIN,
) -> Sink:
    """Open a video for writing; the suffix says what it becomes.

    - ".mkv": FFV1 in RGB, lossless: `open_source` gives the same pictures, bit for bit.
    - ".y4m": raw 4:4:4 in BT.709; limited range, or the display's.
    - ".mp4": x264, nearly lossless (CRF 12); 4:2:0, or 4:4:4 where a side is odd; BT.709 limited,
      or matrix and range of the display.
    - no suffix, a "/" at the end, or an empty folder: a folder of 00000.png, 00001.png, ...

    Times, aspect and colour tags of `display` are kept; what a kind has no place for is said in one
    line of the log.

    A file appears when the block ends, replacing an older one; after an exception nothing is left,
    unless `Sink.keep` was called and a picture was written. A block without a picture, another
    suffix, a folder that is not empty and a place that cannot be written to are UserErrors.
    """
    place, rate = Path(path), checked_rate(fps)
    if place.is_dir() or not place.suffix or str(path).endswith("/"):
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise UserError(f"{place} exists and is not an empty folder: name a new one")
        _say_what_is_lost(place, frozenset(), display)
        return Sink(place, (width, height), _png_folder(place, width, height))
    kind = _KINDS.get(place.suffix.lower())
    if kind is None:
        raise UserError(
            f"{place} has a suffix that cannot be written: choose one of {', '.join(_KINDS)}, "
            "or none for a folder of PNG pictures"
        )
    if kind.needs:
        check_encoder(kind.needs)
    _say_what_is_lost(place, kind.keeps, display)
    return Sink(place, (width, height), _video_file(place, kind, width, height, rate, display))


def _say_what_is_lost(place: Path, keeps: frozenset[str], display: Display) -> None:
    lost = []
    if display.time_base and _TIMES not in keeps:
        lost.append(f"{_TIMES} (its rate is constant)")
    if display.aspect != (1, 1) and _ASPECT not in keeps:
        lost.append(f"{_ASPECT} of {display.aspect[0]}:{display.aspect[1]}")
    tags = display.primaries, display.transfer
    if not {*tags} <= {UNSTATED, BT709} and _COLOURS not in keeps:
        lost.append(f"{_COLOURS} (primaries {tags[0]}, transfer {tags[1]} of H.273)")
    if lost:
        kind = place.suffix.lower() or "a folder of pictures"
        log.warning("%s: %s has no place for %s", place, kind, ", nor for ".join(lost))


@contextmanager
def _video_file(
    path: Path, kind: _Kind, width: int, height: int, fps: Fraction, display: Display
) -> Iterator[Write]:
    with (
        replacing(path) as temporary,
        av.open(f"file:{temporary}", "w", format=kind.container) as container,
    ):
        stream = container.add_stream(kind.codec, rate=fps, options=kind.options)
        assert isinstance(stream, av.VideoStream)
        pixel_format = kind.pixel_formats[width % 2 or height % 2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        tick = 1 / fps
        if timed := display.time_base is not None and _TIMES in kind.keeps:
            tick = Fraction(*display.time_base)
        context = stream.codec_context
        context.time_base = tick
        context.sample_aspect_ratio = Fraction(*display.aspect)
        context.color_primaries, context.color_trc = display.primaries, display.transfer
        if pixel_format != "bgr0":
            stated = BT709 if kind.container == "yuv4mpegpipe" else display.matrix
            matrix = BT709 if stated == UNSTATED else stated
            range = ColorRange.JPEG if display.full_range else ColorRange.MPEG
            context.colorspace, context.color_range = matrix, int(range)
        numbers, first = count(), list[int]()

        def write(picture: np.ndarray, time: int | None) -> None:
            if pixel_format == "bgr0":
                frame = picture_to_frame(picture).reformat(format=pixel_format)
            else:
                frame = picture_to_yuv(picture, pixel_format, MATRICES[matrix], range)
            if timed:
                assert time is not None
                first[:] = first or [time]
                frame.pts = time - first[0]
            else:
                frame.pts = next(numbers)
            frame.time_base = tick
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode(None))


@contextmanager
def _png_folder(folder: Path, width: int, height: int) -> Iterator[Write]:
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "rgb24"
    encoder.time_base = Fraction(1, 25)  # which PNG does not store
    encoder.thread_count = 1  # each picture comes out before the next goes in
    numbers = count()

    def write(picture: np.ndarray, _: int | None) -> None:
        frame = picture_to_frame(picture)
        frame.pts = number = next(numbers)
        (packet,) = encoder.encode(frame)
        atomic_write(folder / f"{number:05d}.png", bytes(packet))

    try:
        yield write
    except BaseException:
        for number in range(next(numbers)):
            (folder / f"{number:05d}.png").unlink(missing_ok=True)
        if made:
            folder.rmdir()
        raise


def checked_rate(fps: Fraction | float) -> Fraction:
    """The rate as a fraction of small numbers; UserError where it is none above 0."""
    try:
        rate = Fraction(fps).limit_denominator(1001)
    except (ValueError, OverflowError):  # not a number, infinite
        rate = Fraction(0)
    if rate <= 0:
        raise UserError(f"{fps} pictures a second are out of range: give a rate above 0")
    return rate
