"""Video files in and out, picture by picture: memory does not grow with their length.

Pictures are uint8 RGB (3, H, W). Colours follow `lvc.anchor`, so that what a codec is given and
what it is judged by went through the same conversion.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, count
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from .anchor import decode
from .complaints import complaints
from .display import PLAIN, Display
from .encoders import video_context
from .errors import UserError
from .exif import orientation
from .sink import Sink, checked_rate, open_sink
from .stated import BY_EXIF, Turn, display_of, picture_of, turn_of
from .timing import FALLBACK_FPS, Timing, timing_of

__all__ = ["Sink", "VideoSource", "open_sink", "open_source"]

PICTURES = {".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}

log = logging.getLogger("lvc")


Timed = tuple[np.ndarray, int | None]


@dataclass(frozen=True)
class VideoSource:
    """A video that is open for reading, to be iterated once; see `open_source`.

    `frames` is how many pictures the file claims to hold, where it does: a hint for a progress
    bar and no more. `display`: how they are to be shown. Leaving the context closes the file.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    display: Display
    _pictures: Iterator[Timed]
    _open: ExitStack

    def __enter__(self) -> "VideoSource":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Uint8 RGB pictures (3, height, width); damage on the way raises UserError."""
        return (picture for picture, _ in self._pictures)

    def timed(self) -> Iterator[Timed]:
        """The same pictures, each with its time where the display has a time base.

        Times are ticks from that of the first picture on, and rise.
        """
        return self._pictures


def open_source(
    path: str | Path, size: tuple[int, int] | None = None, fps: Fraction | float | None = None
) -> VideoSource:
    """Open a video file, anything that PyAV reads, or a folder of PNG and JPEG pictures.

    A folder's pictures come in the natural order of their numbers (2 before 10). A headerless
    ".yuv" file holds 8-bit 4:2:0 pictures of `size`, (width, height); elsewhere a size that is
    given has to be the video's own. `fps` overrides the file's rate; 30 where none is stated.

    Pictures are shown upright and in the file's own colours, by the rules of `lvc.stated`; at times
    of their own where the file has no constant rate. Transparency is ignored.

    Raises UserError, here or while iterating, where this is no video, holds no picture or pictures
    of several sizes, or where the decoder notices damage (lossy formats without checksums may hide
    that of a few bytes).
    """
    path = Path(path)
    with ExitStack() as stack:
        reading = _folder(path) if path.is_dir() else _file(path, size, stack)
        pictures = reading.pictures if fps is None else ((p, None) for p, _ in reading.pictures)
        first = next(pictures, None)
        if first is None:
            raise UserError(f"{path} holds no picture")
        height, width = first[0].shape[1:]
        if size is not None and tuple(size) != (width, height):
            raise UserError(f"{path} is {width}x{height}, not {size[0]}x{size[1]} as asked for")
        rate, display = reading.fps, reading.display
        if fps is not None:
            rate, display = checked_rate(fps), replace(display, time_base=None)
        every = chain([first], pictures)
        return VideoSource(width, height, rate, reading.frames, display, every, stack.pop_all())


@dataclass(frozen=True)
class _Reading:
    fps: Fraction
    frames: int | None
    display: Display
    pictures: Iterator[Timed]


def _folder(folder: Path) -> _Reading:
    # Names alone: there may be many, and a path takes ten times the memory.
    names = [
        file.name
        for file in folder.iterdir()
        if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    ]
    if not names:
        raise UserError(f"{folder} holds no picture: expected files such as 00000.png or 1.jpg")
    names.sort(key=lambda name: (_natural(Path(name).stem), name))
    files = (folder / name for name in names)
    pictures = _of_one_size((file, _read_picture(file), None) for file in files)
    return _Reading(FALLBACK_FPS, len(names), PLAIN, pictures)


def _natural(name: str) -> list[str | int]:
    """A sort key under which frame2 comes before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _read_picture(file: Path) -> np.ndarray:
    context = video_context(PICTURES[file.suffix.lower()], "r")
    try:
        data = file.read_bytes()
        decoded = decode(context, [data])
    except (UserError, OSError) as error:
        raise UserError(f"{file} is not a readable picture ({error})") from error
    if len(decoded) != 1:
        raise UserError(f"{file} is not a readable picture (it holds {len(decoded)})")
    # FFmpeg knows too, but PyAV does not tell of mirrored ones.
    return _to_picture(decoded[0], file, BY_EXIF[orientation(data) - 1])


def _opened(path: Path, size: tuple[int, int] | None) -> InputContainer:
    raw = path.suffix.lower() == ".yuv"
    layout = {}
    if raw:
        if size is None:
            raise UserError(
                f"{path} has no header that tells its size: give it as width and height"
            )
        width, height = size
        layout = {"video_size": f"{width}x{height}", "pixel_format": "yuv420p"}
        layout["framerate"] = str(FALLBACK_FPS)
    try:
        return av.open(f"file:{path}", format="rawvideo" if raw else None, options=layout)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error.strerror})") from error


def _file(path: Path, size: tuple[int, int] | None, stack: ExitStack) -> _Reading:
    # A pipe can be read once.
    timing = _timing(path, size) if path.is_file() else None
    container = stack.enter_context(_opened(path, size))
    stream = _stream(path, container)
    timing = timing or Timing.unknown(stream)
    stream.codec_context.options = {"err_detect": "crccheck+explode"}
    stream.codec_context.thread_count = 1  # so that the decoder complains in this thread
    frames = _frames(path, container, stream)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path} holds no picture")
    if degrees := turn_of(first).degrees:
        log.warning("%s: is not turned by %.0f degrees, only quarter turns are", path, degrees)
    display = display_of(stream, first, timing)
    kept_time = _times(path, timing)
    pictures = (
        (f"picture {n} of {path}", _to_picture(frame, path), kept_time(frame.pts))
        for n, frame in enumerate(chain([first], frames))
    )
    return _Reading(timing.fps, timing.frames or None, display, _of_one_size(pictures))


def _stream(path: Path, container: InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise UserError(f"{path} holds no video that can be decoded here")
    return stream


def _timing(path: Path, size: tuple[int, int] | None) -> Timing:
    """By a pass of its own over the packets, since a header is written before the first frame."""
    with _opened(path, size) as container:
        stream = _stream(path, container)
        try:
            return timing_of(container, stream)
        except av.FFmpegError:  # met again, and told, where the frames are decoded
            return Timing.unknown(stream)


def _times(path: Path, timing: Timing) -> Callable[[int | None], int | None]:
    """From a frame's own time to what is kept of it."""
    before: list[int] = []
    usual = max(1, round(1 / (timing.fps * timing.time_base)))

    def kept(time: int | None) -> int | None:
        if timing.constant or timing.times is None:
            return None
        ticks = None if time is None else time - int(timing.times[0])
        if not before:
            before.append(max(0, ticks or 0))
            return before[0]
        if ticks is None or ticks <= before[0]:
            # The packets had times that rise; what the decoder makes of a damaged one has not.
            log.warning("%s: a picture has no time behind the one before it: made up", path)
            ticks = before[0] + usual
        before[0] = ticks
        return ticks

    return kept


def _frames(
    path: Path, container: InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    frames = _decoded(path, container, stream)
    for number in count():
        where = f"{path} is damaged at picture {number}"
        try:
            with complaints() as heard:
                frame = next(frames, None)
        except av.FFmpegError as error:
            raise UserError(f"{where} ({error.strerror})") from error
        if heard.damage:
            raise UserError(f"{where} ({heard.damage})")
        if frame is None:
            return
        if frame.is_corrupt:
            raise UserError(f"{where} (the decoder says so)")
        yield frame


def _decoded(
    path: Path, container: InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    end = container.size
    for packet in container.demux(stream):
        if packet.size and packet.pos is not None:
            end = packet.pos + packet.size
        if packet.is_corrupt:
            raise UserError(f"{path} is cut off after {end} bytes")
        yield from packet.decode()
    # FFmpeg drops a last picture of which a part is missing.
    if container.format.name == "yuv4mpegpipe" and end < container.size:
        raise UserError(f"{path} is cut off: the last picture is not whole")


def _to_picture(frame: av.VideoFrame, path: Path, turn: Turn | None = None) -> np.ndarray:
    try:
        return picture_of(frame, turn=turn)
    except UserError as error:
        raise UserError(f"{path} {error}") from error


def _of_one_size(
    pictures: Iterator[tuple[object, np.ndarray, int | None]],
) -> Iterator[Timed]:
    first = None
    for name, picture, time in pictures:
        height, width = picture.shape[1:]
        first = first or (width, height)
        if (width, height) != first:
            raise UserError(
                f"{name} is {width}x{height}, those before it {first[0]}x{first[1]}: "
                "all pictures of a video have to be of one size"
            )
        yield picture, time
