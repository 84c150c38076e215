"""Clips in video files (anything that PyAV decodes, .y4m among them) and raw .yuv files."""

import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange

from lvc.complaints import complaints
from lvc.errors import UserError
from lvc.stated import matrix_of, turn_of
from lvc.timing import timing_of
from prune.data.cache import CACHE_BYTES, decoded
from prune.data.colour import SourceColour, Stated
from prune.data.source import ClipError, ClipInfo, Source

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv",
    ".wmv", ".ogv", ".ivf", ".obu", ".avc", ".264", ".h264", ".hevc", ".265", ".h265", ".y4m",
))
# fmt: on
RAW_SUFFIXES = frozenset((".yuv",))
SHORT_BYTES = 256_000_000  # a clip that is larger decoded is never kept in memory

# Bytes of luma and of the two chroma planes per sample, and the chroma planes' subsampling.
RAW_FORMATS = {"yuv420p": (1, 2), "yuv420p10le": (2, 2), "yuv444p": (1, 1)}

log = logging.getLogger("lvc")


class Videos(Source):
    """Video files, one clip each."""

    def __init__(self, name: str, files: list[Path], colour: SourceColour) -> None:
        """Index the packets of each file; those that cannot be opened end up in `skipped`."""
        self.name = name
        self.colour = colour
        self.skipped: dict[str, str] = {}
        self.clips: list[VideoFile] = []
        for file in files:
            try:
                self.clips.append(VideoFile.index(file))
            except ClipError as error:
                self.skipped[str(file)] = error.reason
        self._say_what_differs()
        # Where all short clips fit in memory each process decodes them once; where they do not,
        # the cache would lose a clip before its next use, so a read decodes its window only.
        short = sum(clip.decoded_bytes for clip in self.clips if clip.decoded_bytes <= SHORT_BYTES)
        self.keep = short <= CACHE_BYTES

    def _say_what_differs(self) -> None:
        """A recipe's own matrix and range count more than the files'; that may be a mistake."""
        files = [clip.path for clip in self.clips if self.colour.contradicts(clip.stated)]
        if files:
            log.warning(
                "%s: %d of %d files, such as %s, state other colours than the source's %s, which "
                "count all the same; leave them out and each file's own do",
                *(self.name, len(files), len(self.clips), files[0].name, self.colour),
            )

    def __len__(self) -> int:
        return len(self.clips)

    def info(self, index: int) -> ClipInfo:
        return self.clips[index].info

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        clip = self.clips[index]
        start, count = self.window(index, start, count)
        if self.keep and clip.decoded_bytes <= SHORT_BYTES:
            frames = decoded.get(clip.path, clip.decode, _bytes)[start : start + count]
        else:
            frames = clip.decode(start, count)
        if len(frames) < count:
            raise ClipError(
                str(clip.path),
                f"only {len(frames)} of frames {start} to {start + count - 1} decode",
            )
        return to_array(frames, self.colour, clip)


@dataclass(frozen=True)
class VideoFile:
    """A video file and the presentation times of its frames, in units of its time base."""

    path: Path
    info: ClipInfo
    times: np.ndarray | None  # int64 (frames,), ascending; None where the file has no times
    stated: Stated

    @property
    def decoded_bytes(self) -> int:
        """About how many bytes the decoded clip takes (4:2:0, 8 bits)."""
        return self.info.frames * self.info.height * self.info.width * 3 // 2

    @staticmethod
    def index(path: Path) -> "VideoFile":
        """Read the file's packets, and decode its first frame. Raises ClipError if it is none."""
        try:
            with av.open(f"file:{path}") as container:
                stream = _stream(container, path)
                timing = timing_of(container, stream)
                height, width = stream.codec_context.height, stream.codec_context.width
            first = _first(path)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ClipError(str(path), f"is not a readable video ({_reason(error)})") from error
        if not (timing.frames and height and width):
            raise ClipError(str(path), "has no frames")
        if first is not None and turn_of(first).sideways:
            height, width = width, height
        info = ClipInfo(path.stem, timing.frames, height, width, float(timing.fps))
        return VideoFile(path, info, timing.times, Stated() if first is None else _stated(first))

    def decode(self, start: int = 0, count: int | None = None) -> list[av.VideoFrame]:
        """Frames from `start` on as the decoder gives them, `count` or as many as there are.

        Raises ClipError if the file cannot be decoded.
        """
        count = self.info.frames - start if count is None else count
        if start and self.times is not None:
            wanted = self.times[start : start + count].tolist()
            # Times and indices in files can be wrong: only an exact hit counts.
            with suppress(ClipError):
                frames = self._decode(lambda later: _from(later, wanted[0], count), wanted[0])
                if [frame.pts for frame in frames] == wanted:
                    return frames
        return self._decode(lambda frames: islice(frames, start, start + count))

    def _decode(
        self, pick: Callable[[Iterator[av.VideoFrame]], Iterable[av.VideoFrame]],
        seek: int | None = None,
    ) -> list[av.VideoFrame]:  # fmt: skip
        """The frames that `pick` takes after the key frame at or before the time `seek`."""
        try:
            with av.open(f"file:{self.path}") as container, complaints() as heard:
                stream = _stream(container, self.path)
                # A damaged clip is an error, but decoders would rather paint over the damage.
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
                stream.codec_context.thread_count = 1  # worker processes share the cores
                if seek is not None:
                    container.seek(seek, stream=stream)
                frames = list(pick(container.decode(stream)))
        except (av.FFmpegError, OSError) as error:
            raise ClipError(str(self.path), f"cannot be decoded ({_reason(error)})") from error
        if heard.damage or any(frame.is_corrupt for frame in frames):
            raise ClipError(str(self.path), "has damaged frames")
        return frames


def _from(frames: Iterator[av.VideoFrame], time: int, count: int) -> Iterable[av.VideoFrame]:
    """`count` frames from the presentation time on."""
    return islice(
        dropwhile(lambda frame: frame.pts is not None and frame.pts < time, frames), count
    )


def _stream(container: InputContainer, path: Path) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise ClipError(str(path), "has no video stream")
    if stream.codec_context is None:
        raise ClipError(str(path), "has a codec that cannot be decoded here")
    return stream


def _first(path: Path) -> av.VideoFrame | None:
    """The first frame; None where it is damaged, which whoever reads the clip is told."""
    with suppress(av.FFmpegError), av.open(f"file:{path}") as container, complaints():
        return next(container.decode(_stream(container, path)), None)
    return None


def _stated(frame: av.VideoFrame) -> Stated:
    ranges = {int(ColorRange.JPEG): "full", int(ColorRange.MPEG): "limited"}
    known = None if frame.format.is_rgb else ranges.get(int(frame.color_range))
    return Stated(matrix_of(frame), known)


class RawVideos(Source):
    """Headerless .yuv files of planar frames, one clip each."""

    def __init__(
        self, name: str, files: list[Path], size: tuple[int, int] | None, fps: float | None,
        pixel_format: str, colour: SourceColour,
    ) -> None:  # fmt: skip
        """`size` is (width, height) in pixels; it and `fps` (30 where unknown) are taken from the
        files' names if None. `pixel_format` is one of RAW_FORMATS."""
        self.name = name
        self.pixel_format, self.colour = pixel_format, colour
        self.skipped: dict[str, str] = {}
        self.clips: list[RawFile] = []
        for file in files:
            try:
                self.clips.append(RawFile.index(file, size, fps, pixel_format))
            except ClipError as error:
                self.skipped[str(file)] = error.reason

    def __len__(self) -> int:
        return len(self.clips)

    def info(self, index: int) -> ClipInfo:
        return self.clips[index].info

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        clip = self.clips[index]
        start, count = self.window(index, start, count)
        try:
            with open(clip.path, "rb") as file:
                file.seek(start * clip.frame_bytes)
                data = file.read(count * clip.frame_bytes)
        except OSError as error:
            raise ClipError(str(clip.path), f"cannot be read ({_reason(error)})") from error
        if len(data) < count * clip.frame_bytes:
            raise ClipError(str(clip.path), "is shorter than when it was opened")
        options = {
            "video_size": f"{clip.info.width}x{clip.info.height}",
            "pixel_format": self.pixel_format,
        }
        with av.open(io.BytesIO(data), "r", format="rawvideo", options=options) as container:
            return to_array(list(container.decode(video=0)), self.colour, clip)


@dataclass(frozen=True)
class RawFile:
    """A .yuv file and the bytes of one of its frames."""

    path: Path
    info: ClipInfo
    frame_bytes: int

    @staticmethod
    def index(
        path: Path, size: tuple[int, int] | None, fps: float | None, pixel_format: str
    ) -> "RawFile":
        """Raises ClipError if the size is not known or does not divide the file into frames."""
        if match := re.search(r"(\d+)x(\d+)(?:_(\d+(?:\.\d+)?)(?!\d|x))?", path.stem):
            size = size or (int(match[1]), int(match[2]))
            fps = fps or float(match[3] or 0)
        if size is None:
            raise ClipError(
                str(path),
                "is raw video of unknown size: set `size: WIDTHxHEIGHT` "
                "or name the file like clip_416x240_30.yuv",
            )
        width, height = size
        sample, step = RAW_FORMATS[pixel_format]
        frame = sample * (width * height + 2 * (-(-width // step) * -(-height // step)))
        length = path.stat().st_size
        if not length or not frame or length % frame:
            raise ClipError(
                str(path),
                f"has {length} bytes, not a whole number of {pixel_format} frames of "
                f"{width}x{height} ({frame} bytes each): check `size` and `pixel_format`",
            )
        return RawFile(
            path, ClipInfo(path.stem, length // frame, height, width, fps or 30.0), frame
        )


def to_array(
    frames: list[av.VideoFrame], colour: SourceColour, clip: VideoFile | RawFile
) -> np.ndarray:
    """A clip's decoded frames as uint8 (T, 3, H, W) RGB, as they are shown.

    Raises ClipError if a frame is not of the size that the clip began with.
    """
    height, width = clip.info.height, clip.info.width
    array = np.empty((len(frames), 3, height, width), np.uint8)
    for target, frame in zip(array, frames, strict=True):
        try:
            picture = colour.rgb(frame)
        except UserError as error:
            raise ClipError(str(clip.path), str(error)) from error
        if picture.shape[1:] != (height, width):
            size = f"{picture.shape[2]}x{picture.shape[1]}"
            raise ClipError(str(clip.path), f"changes its size from {width}x{height} to {size}")
        target[:] = picture
    return array


def _bytes(frames: list[av.VideoFrame]) -> int:
    """The memory that frames take in their own pixel format: half of RGB, and so kept in it."""
    return sum(plane.buffer_size for frame in frames for plane in frame.planes)


def _reason(error: Exception) -> str:
    """An error's own words without the path, which the message around it names already."""
    return getattr(error, "strerror", None) or str(error)
