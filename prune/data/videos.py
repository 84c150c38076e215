"""Clips in video files (anything that PyAV decodes, .y4m among them) and raw .yuv files."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path

import av
import av.logging
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from prune.data.cache import CACHE_BYTES, decoded
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

_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True)
class Colour:
    """How a video's YUV is to be read: matrix "bt709" or "bt601", range "limited" or "full"."""

    matrix: str = "bt709"
    range: str = "limited"

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame as uint8 (H, W, 3) RGB. A file's own colour tags are not consulted."""
        if frame.format.is_rgb:
            return frame.to_ndarray(format="rgb24")
        converted = frame.reformat(
            format="rgb24",
            interpolation=_EXACT,
            src_colorspace=Colorspace.ITU709 if self.matrix == "bt709" else Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.MPEG if self.range == "limited" else ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        return converted.to_ndarray()


class Videos(Source):
    """Video files, one clip each."""

    def __init__(self, name: str, files: list[Path], colour: Colour) -> None:
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
        # Where all short clips fit in memory each process decodes them once; where they do not,
        # the cache would lose a clip before its next use, so a read decodes its window only.
        short = sum(clip.decoded_bytes for clip in self.clips if clip.decoded_bytes <= SHORT_BYTES)
        self.keep = short <= CACHE_BYTES

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

    @property
    def decoded_bytes(self) -> int:
        """About how many bytes the decoded clip takes (4:2:0, 8 bits)."""
        return self.info.frames * self.info.height * self.info.width * 3 // 2

    @staticmethod
    def index(path: Path) -> "VideoFile":
        """Read the file's packets without decoding them. Raises ClipError if that fails."""
        try:
            with av.open(f"file:{path}") as container:
                if not container.streams.video:
                    raise ClipError(str(path), "has no video stream")
                stream = container.streams.video[0]
                if stream.codec_context is None:
                    raise ClipError(str(path), "has a codec that cannot be decoded here")
                fps = float(stream.average_rate or stream.guessed_rate or 0) or 30.0
                packet_times: list[int | None]
                if container.format.name == "yuv4mpegpipe":
                    # Fixed size: the header and the file's length say it all.
                    packet_times = list(range(stream.duration or 0))
                else:
                    packets = container.demux(stream)
                    packet_times = [p.pts for p in packets if p.size and not p.is_discard]
                height, width = stream.codec_context.height, stream.codec_context.width
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ClipError(str(path), f"is not a readable video ({_reason(error)})") from error
        frames = len(packet_times)
        if not (frames and height and width):
            raise ClipError(str(path), "has no frames")
        known = [time for time in packet_times if time is not None]
        times = np.sort(np.array(known, np.int64)) if len(known) == frames else None
        return VideoFile(path, ClipInfo(path.stem, frames, height, width, fps), times)

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
        """What `pick` takes of the frames after the key frame at or before the time `seek`."""
        try:
            with av.open(f"file:{self.path}") as container, _complaints() as complaints:
                stream = container.streams.video[0]
                # A damaged clip is an error, but decoders would rather paint over the damage.
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
                stream.codec_context.thread_count = 1  # worker processes share the cores
                if seek is not None:
                    container.seek(seek, stream=stream)
                frames = list(pick(container.decode(stream)))
        except (av.FFmpegError, OSError) as error:
            raise ClipError(str(self.path), f"cannot be decoded ({_reason(error)})") from error
        checksum = any("CRC mismatch" in message for _, _, message in complaints)
        if checksum or any(frame.is_corrupt for frame in frames):
            raise ClipError(str(self.path), "has damaged frames")
        return frames


def _from(frames: Iterator[av.VideoFrame], time: int, count: int) -> Iterable[av.VideoFrame]:
    """`count` frames from the presentation time on."""
    return islice(
        dropwhile(lambda frame: frame.pts is not None and frame.pts < time, frames), count
    )


@contextmanager
def _complaints() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's error messages: FFV1 tells of a failed checksum nowhere else."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)


class RawVideos(Source):
    """Headerless .yuv files of planar frames, one clip each."""

    def __init__(
        self, name: str, files: list[Path], size: tuple[int, int] | None, fps: float | None,
        pixel_format: str, colour: Colour,
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


def to_array(frames: list[av.VideoFrame], colour: Colour, clip: VideoFile | RawFile) -> np.ndarray:
    """A clip's decoded frames as uint8 (T, 3, H, W) RGB.

    Raises ClipError if a frame is not of the size that the clip began with.
    """
    height, width = clip.info.height, clip.info.width
    array = np.empty((len(frames), 3, height, width), np.uint8)
    for target, frame in zip(array, frames, strict=True):
        if (frame.height, frame.width) != (height, width):
            raise ClipError(
                str(clip.path),
                f"changes its size from {width}x{height} to {frame.width}x{frame.height}",
            )
        target[:] = colour.rgb(frame).transpose(2, 0, 1)
    return array


def _bytes(frames: list[av.VideoFrame]) -> int:
    """The memory that frames take in their own pixel format: half of RGB, and so kept in it."""
    return sum(plane.buffer_size for frame in frames for plane in frame.planes)


def _reason(error: Exception) -> str:
    """An error's own words without the path, which the message around it names already."""
    return getattr(error, "strerror", None) or str(error)
