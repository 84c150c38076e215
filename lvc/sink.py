"""Pictures into video files, one by one; see `lvc.video`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from .anchor import Colour, picture_to_frame
from .encoders import check_encoder
from .errors import UserError
from .files import atomic_write, replacing

Write = Callable[[np.ndarray], None]


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

    def write(self, picture: np.ndarray) -> None:
        """Append a uint8 RGB picture (3, height, width); UserError where the disk is full."""
        if picture.shape != self._shape or picture.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self._shape}, got {picture.dtype} {picture.shape}")
        with self._as_user_errors():
            self._write(picture)
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
    """A suffix as FFmpeg names it, and the encoder that `check_encoder` looks for."""

    container: str
    codec: str
    pixel_formats: tuple[str, str]  # where both sides are even, and where one is odd
    options: dict[str, str] = field(default_factory=dict)
    needs: str | None = None


_KINDS = {
    ".y4m": _Kind("yuv4mpegpipe", "rawvideo", ("yuv444p", "yuv444p")),
    ".mkv": _Kind(
        "matroska", "ffv1", ("bgr0", "bgr0"), {"level": "3", "slicecrc": "1"}, needs="lossless"
    ),
    ".mp4": _Kind(
        "mp4",
        "libx264",
        ("yuv420p", "yuv444p"),  # what every player shows has no odd sizes
        # Our chroma lies amid its pixels, and not at the left as players take for granted.
        {"crf": "12", "x264-params": "chromaloc=1"},
        needs="h264",
    ),
}


def open_sink(path: str | Path, width: int, height: int, fps: Fraction | float) -> Sink:
    """Open a video for writing; the suffix says what it becomes.

    - ".mkv": FFV1 in RGB, lossless: `open_source` gives the same pictures, bit for bit.
    - ".y4m": raw 4:4:4 in BT.709, limited range.
    - ".mp4": x264, nearly lossless (CRF 12), BT.709 limited; 4:2:0, or 4:4:4 where a side is odd.
    - no suffix, a "/" at the end, or an empty folder: a folder of 00000.png, 00001.png, ...

    A file appears when the block ends, replacing an older one; after an exception nothing is left,
    unless `Sink.keep` was called and a picture was written. A block without a picture, another
    suffix, a folder that is not empty and a place that cannot be written to are UserErrors.
    """
    place, rate = Path(path), checked_rate(fps)
    if place.is_dir() or not place.suffix or str(path).endswith("/"):
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise UserError(f"{place} exists and is not an empty folder: name a new one")
        return Sink(place, (width, height), _png_folder(place, width, height))
    kind = _KINDS.get(place.suffix.lower())
    if kind is None:
        raise UserError(
            f"{place} has a suffix that cannot be written: choose one of {', '.join(_KINDS)}, "
            "or none for a folder of PNG pictures"
        )
    if kind.needs:
        check_encoder(kind.needs)
    return Sink(place, (width, height), _video_file(place, kind, width, height, rate))


@contextmanager
def _video_file(path: Path, kind: _Kind, width: int, height: int, fps: Fraction) -> Iterator[Write]:
    with (
        replacing(path) as temporary,
        av.open(f"file:{temporary}", "w", format=kind.container) as container,
    ):
        stream = container.add_stream(kind.codec, rate=fps, options=kind.options)
        assert isinstance(stream, av.VideoStream)
        pixel_format = kind.pixel_formats[width % 2 or height % 2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = 1 / fps
        if pixel_format != "bgr0":
            stream.codec_context.colorspace = int(Colorspace.ITU709)
            stream.codec_context.color_range = int(ColorRange.MPEG)
        numbers = count()

        def write(picture: np.ndarray) -> None:
            frame = _to_frame(picture, pixel_format)
            frame.pts, frame.time_base = next(numbers), 1 / fps
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode(None))


def _to_frame(picture: np.ndarray, pixel_format: str) -> av.VideoFrame:
    if pixel_format == "bgr0":
        return picture_to_frame(picture).reformat(format=pixel_format)
    return Colour(pixel_format=pixel_format).to_yuv(picture)


@contextmanager
def _png_folder(folder: Path, width: int, height: int) -> Iterator[Write]:
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "rgb24"
    encoder.time_base = Fraction(1, 25)  # which PNG does not store
    encoder.thread_count = 1  # each picture comes out before the next goes in
    numbers = count()

    def write(picture: np.ndarray) -> None:
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
