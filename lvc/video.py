"""Video files in and out, picture by picture: memory does not grow with their length.

Pictures are uint8 RGB (3, H, W). Colours follow `lvc.anchor`, so that what a codec is given and
what it is judged by went through the same conversion.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count
from pathlib import Path

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace

from .anchor import decode, frame_to_picture
from .encoders import video_context
from .errors import UserError
from .sink import Sink, checked_rate, open_sink

__all__ = ["Sink", "Source", "open_sink", "open_source"]

PICTURES = {".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}
FALLBACK_FPS = Fraction(30)

# What files state (AVCOL_SPC) and what swscale calls it.
_STATED = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
_STATES_NONE = (0, 2, 3)  # RGB, unspecified, reserved
# FFmpeg shows these pictures all the same, and tells of it nowhere but in its log.
_SIGNS_OF_DAMAGE = ("CRC mismatch", "File ended prematurely")


@dataclass(frozen=True)
class Source:
    """A video that is open for reading, to be iterated once; see `open_source`.

    `frames` is how many pictures the file claims to hold, where it does: a hint for a progress
    bar and no more. Leaving the context closes the file.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    _pictures: Iterator[np.ndarray]
    _open: ExitStack

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Uint8 RGB pictures (3, height, width); damage on the way raises UserError."""
        return self._pictures


def open_source(
    path: str | Path, size: tuple[int, int] | None = None, fps: Fraction | float | None = None
) -> Source:
    """Open a video file, anything that PyAV reads, or a folder of PNG and JPEG pictures.

    A folder's pictures come in the natural order of their numbers (2 before 10). A headerless
    ".yuv" file holds 8-bit 4:2:0 pictures of `size`, (width, height); elsewhere a size that is
    given has to be the video's own. `fps` overrides the file's rate; 30 where none is stated.

    Colours are converted by the matrix, range and chroma position that the file states; BT.709 in
    limited range where it states none. Grey videos are always read in full range. Transparency
    and marks for rotation are ignored.

    Raises UserError, here or while iterating, where this is no video, holds no picture or pictures
    of several sizes, or where the decoder notices damage (lossy formats without checksums may hide
    that of a few bytes).
    """
    path = Path(path)
    with ExitStack() as stack:
        if path.is_dir():
            stated, frames, pictures = _read_folder(path)
        else:
            container = stack.enter_context(_opened(path, size))
            stated, frames, pictures = _read_file(path, container)
        first = next(pictures, None)
        if first is None:
            raise UserError(f"{path} holds no picture")
        height, width = first.shape[1:]
        if size is not None and tuple(size) != (width, height):
            raise UserError(f"{path} is {width}x{height}, not {size[0]}x{size[1]} as asked for")
        rate = stated if fps is None else checked_rate(fps)
        return Source(width, height, rate, frames, chain([first], pictures), stack.pop_all())


Reading = tuple[Fraction, int | None, Iterator[np.ndarray]]  # frame rate, hint of length, pictures


def _read_folder(folder: Path) -> Reading:
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    ]
    if not files:
        raise UserError(f"{folder} holds no picture: expected files such as 00000.png or 1.jpg")
    files.sort(key=lambda file: (_natural(file.stem), file.name))
    return FALLBACK_FPS, len(files), _of_one_size((file, _read_picture(file)) for file in files)


def _natural(name: str) -> list[str | int]:
    """A sort key under which frame2 comes before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _read_picture(file: Path) -> np.ndarray:
    context = video_context(PICTURES[file.suffix.lower()], "r")
    try:
        decoded = decode(context, [file.read_bytes()])
    except (UserError, OSError) as error:
        raise UserError(f"{file} is not a readable picture ({error})") from error
    if len(decoded) != 1:
        raise UserError(f"{file} is not a readable picture (it holds {len(decoded)})")
    return _to_picture(decoded[0], file)


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


def _read_file(path: Path, container: InputContainer) -> Reading:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise UserError(f"{path} holds no video that can be decoded here")
    stream.codec_context.options = {"err_detect": "crccheck+explode"}
    stream.codec_context.thread_count = 1  # so that the decoder complains in this thread
    stated = stream.average_rate
    fps = Fraction(stated) if stated else FALLBACK_FPS
    length = stream.frames or round((container.duration or 0) * fps / av.time_base)
    numbered = enumerate(_frames(path, container, stream))
    pictures = ((f"picture {n} of {path}", _to_picture(frame, path)) for n, frame in numbered)
    return fps, length or None, _of_one_size(pictures)


def _frames(
    path: Path, container: InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    frames = _decoded(path, container, stream)
    for number in count():
        where = f"{path} is damaged at picture {number}"
        try:
            with _complaints() as complaints:
                frame = next(frames, None)
        except av.FFmpegError as error:
            raise UserError(f"{where} ({error.strerror})") from error
        for *_, said in complaints:
            if any(sign in said for sign in _SIGNS_OF_DAMAGE):
                raise UserError(f"{where} ({said.strip()})")
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


@contextmanager
def _complaints() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's error messages of this thread, each of them however often it comes."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)


def _to_picture(frame: av.VideoFrame, path: Path) -> np.ndarray:
    stated = int(frame.colorspace)
    matrix = Colorspace.ITU709 if stated in _STATES_NONE else _STATED.get(stated)
    if matrix is None:
        raise UserError(f"{path} has a colour matrix (number {stated}) that cannot be converted")
    full = frame.color_range == ColorRange.JPEG
    return frame_to_picture(frame, matrix, ColorRange.JPEG if full else ColorRange.MPEG)


def _of_one_size(pictures: Iterator[tuple[object, np.ndarray]]) -> Iterator[np.ndarray]:
    first = None
    for name, picture in pictures:
        height, width = picture.shape[1:]
        first = first or (width, height)
        if (width, height) != first:
            raise UserError(
                f"{name} is {width}x{height}, those before it {first[0]}x{first[1]}: "
                "all pictures of a video have to be of one size"
            )
        yield picture
