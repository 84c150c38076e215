"""Conventional codecs as anchors: x265, x264 and SVT-AV1 through PyAV, with real bits.

A learned codec's rate and quality mean something only beside those of a codec that everybody
knows, coded from the same frames and judged in the same colour space. The same coder supplies the
I frames (`lvc.intra`), so that both go through one colour conversion.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from .encoders import ENCODERS, check, options, video_context, video_encoder
from .errors import UserError

MATRICES = {"bt709": Colorspace.ITU709, "bt601": Colorspace.ITU601}
RANGES = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
PIXEL_FORMATS = {
    "yuv420p": "4:2:0",
    "yuv422p": "4:2:2",
    "yuv444p": "4:4:4",
    "yuv420p10le": "4:2:0 10-bit",
}

# Without these flags swscale averages and repeats chroma samples, which costs up to 15 dB on
# saturated edges before any codec has run; BITEXACT gives the same pictures on every CPU.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
_RGB_MATRIX, _RGB_RANGE = Colorspace.ITU709, ColorRange.JPEG
_PADDING = 64  # FFmpeg's AV_INPUT_BUFFER_PADDING_SIZE
_LEAST_SIDE = 16  # x265 refuses smaller pictures


@dataclass(frozen=True)
class Colour:
    """The way from RGB to YCbCr and back: matrix, range and chroma format, never guessed."""

    matrix: str = "bt709"
    range: str = "limited"
    pixel_format: str = "yuv420p"

    def __post_init__(self) -> None:
        choices: dict[str, Collection[str]] = {
            "matrix": MATRICES,
            "range": RANGES,
            "pixel_format": PIXEL_FORMATS,
        }
        for key, known in choices.items():
            if (value := getattr(self, key)) not in known:
                raise UserError(f"{key} {value!r} is unknown: choose one of {', '.join(known)}")

    def __str__(self) -> str:
        standard = {"bt709": "BT.709", "bt601": "BT.601"}[self.matrix]
        return f"{standard} {self.range} {PIXEL_FORMATS[self.pixel_format]}"

    def to_yuv(self, picture: np.ndarray) -> av.VideoFrame:
        """Convert a uint8 RGB picture (3, H, W); only "yuv444p" takes odd sides."""
        return picture_to_yuv(picture, self.pixel_format, MATRICES[self.matrix], RANGES[self.range])

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a decoded frame of this colour to uint8 RGB (3, H, W)."""
        # A decoder tags its frames with a chroma position, which `to_yuv` cannot set. Conversions
        # that differ in it are half a chroma sample apart and lose up to 10 dB: drop the tag.
        untagged = av.VideoFrame.from_ndarray(frame.to_ndarray(), format=self.pixel_format)
        return frame_to_picture(untagged, MATRICES[self.matrix], RANGES[self.range])


@dataclass(frozen=True)
class ClipCoder:
    """x265 ("hevc"), x264 ("h264") or SVT-AV1 ("av1") at a constant QP, tuned for PSNR.

    `preset` is the encoder's own; None is medium, or 4 of SVT-AV1. `all_intra` codes every frame by
    itself; otherwise the first frame is I and all others are P (low delay, no B frames; frames of
    SVT-AV1 may mix several earlier ones). One thread and no informational SEI: the same frames
    always give the same bytes, and only bytes that a decoder needs.
    """

    codec: str
    qp: int
    colour: Colour = field(default_factory=Colour)
    all_intra: bool = False
    preset: str | None = None

    def __post_init__(self) -> None:
        if self.preset is None and self.codec in ENCODERS:
            object.__setattr__(self, "preset", ENCODERS[self.codec].usual)
        check(self.codec, self.named_preset, self.qp, self.all_intra)

    @property
    def named_preset(self) -> str:
        """`preset`, or of an unknown codec, which `check` refuses, none."""
        return self.preset or ""

    @property
    def name(self) -> str:
        """For tables: "x265 medium, low delay P, QP 30, BT.709 limited 4:2:0"."""
        low_delay = "low delay" if self.codec == "av1" else "low delay P"
        structure = "intra" if self.all_intra else f"{self.preset}, {low_delay}"
        return f"{ENCODERS[self.codec].title} {structure}, QP {self.qp}, {self.colour}"

    def compress(self, frames: np.ndarray, fps: float = 30.0) -> list[bytes]:
        """Encode uint8 RGB frames (T, 3, H, W) of any size; one packet a frame."""
        padded = _pad(frames)
        pixel_format = self.colour.pixel_format
        settings = options(self.codec, self.named_preset, self.qp, self.all_intra)
        size = (padded.shape[-2], padded.shape[-1])
        context = video_encoder(self.codec, size, pixel_format, fps, settings)
        packets = encode(context, (self.colour.to_yuv(picture) for picture in padded))
        if self.codec == "h264":
            # x264 writes its own settings, some 600 bytes, into the first packet.
            without_sei = BitStreamFilterContext("filter_units=remove_types=6", "h264")
            packets = [kept for packet in [*packets, None] for kept in without_sei.filter(packet)]
        if len(packets) != len(frames):
            raise RuntimeError(f"{self.name}: {len(packets)} packets for {len(frames)} frames")
        return [bytes(packet) for packet in packets]

    def decompress(self, packets: Sequence[bytes], height: int, width: int) -> np.ndarray:
        """Decode `compress`'s packets to uint8 RGB frames (T, 3, height, width).

        Raises UserError where the packets cannot be decoded or hold other pictures than these;
        they carry no checksum, so damage that decodes goes unseen.
        """
        context = video_context(ENCODERS[self.codec].decoder, "r")
        decoded = decode(context, packets)
        expected = (*_padded_size(height, width), self.colour.pixel_format)
        kinds = {(frame.height, frame.width, frame.format.name) for frame in decoded}
        if len(decoded) != len(packets) or kinds - {expected}:
            raise UserError(
                f"{self.codec} data does not hold {len(packets)} pictures of {width}x{height} "
                f"in {self.colour}: the stream is damaged or belongs to another clip"
            )
        pictures = [self.colour.to_rgb(frame)[:, :height, :width] for frame in decoded]
        return np.stack(pictures)


@dataclass(frozen=True)
class Anchor:
    """A conventional codec's result on one clip: averages over all frames, the I frame included."""

    codec: str
    preset: str
    name: str
    qp: int
    bpp: float
    psnr: float
    psnr_by_frame: tuple[float, ...]


def anchor(
    frames: np.ndarray,
    fps: float,
    codec: str,
    qp: int | None = None,
    target_bpp: float | None = None,
    colour: Colour | None = None,
    preset: str | None = None,
) -> Anchor:
    """Code a clip, uint8 RGB (T, 3, H, W), with x265 ("hevc"), x264 ("h264") or SVT-AV1 ("av1").

    Low delay P as in `ClipCoder`. Give `qp` (0 to 51, SVT-AV1 to 63) or `target_bpp` (bits per
    pixel, > 0): the QP whose bits are nearest to it is searched for, and the bits that it really
    takes are returned. PSNR is over RGB, with one MSE over the three channels of a frame, in dB;
    identical frames count 100.
    """
    if (qp is None) == (target_bpp is None):
        raise UserError("give an anchor either a qp or a target_bpp")
    colour = colour or Colour()
    pixels = frames.shape[0] * frames.shape[2] * frames.shape[3]

    def bits_per_pixel(packets: list[bytes]) -> float:
        return 8 * sum(map(len, packets)) / pixels

    def coder(qp: int) -> ClipCoder:
        return ClipCoder(codec, qp, colour, preset=preset)

    if qp is None:
        assert target_bpp is not None
        lowest = coder(0)  # an unknown codec or preset is told before anything is coded
        qp = _nearest_qp(
            lambda q: bits_per_pixel(coder(q).compress(frames, fps)),
            target_bpp,
            ENCODERS[lowest.codec].max_qp,
        )
    chosen = coder(qp)
    packets = chosen.compress(frames, fps)
    decoded = chosen.decompress(packets, *frames.shape[-2:])
    qualities = tuple(psnr(a, b) for a, b in zip(frames, decoded, strict=True))
    mean = float(np.mean(qualities))
    rate = bits_per_pixel(packets)
    return Anchor(codec, chosen.named_preset, chosen.name, qp, rate, mean, qualities)


def _nearest_qp(bpp_at: Callable[[int], float], target: float, max_qp: int) -> int:
    """Bisect for the QP whose bits are nearest to `target` on a logarithmic scale."""
    if not (math.isfinite(target) and target > 0):
        raise UserError(f"a target of {target} bits per pixel is out of range: give one above 0")
    low, high = 0, max_qp
    tried: dict[int, float] = {}
    while low <= high:
        middle = (low + high) // 2
        tried[middle] = bpp_at(middle)
        # Bits fall as the QP rises.
        low, high = (middle + 1, high) if tried[middle] > target else (low, middle - 1)
    return min(tried, key=lambda qp: abs(math.log(tried[qp] / target)))


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR of 8-bit pictures, in dB; 100 where they are equal."""
    mse = np.mean((original.astype(np.float64) - decoded) ** 2)
    return min(100.0, 10 * math.log10(255**2 / max(mse, 1e-12)))


def encode(context: av.VideoCodecContext, frames: Iterable[av.VideoFrame]) -> list[av.Packet]:
    """Encode all frames and flush."""
    packets = []
    for number, frame in enumerate(frames):
        frame.pts = number
        packets += context.encode(frame)
    return packets + context.encode(None)


def decode(context: av.VideoCodecContext, packets: Iterable[bytes]) -> list[av.VideoFrame]:
    """Decode all packets and flush; data that the decoder finds damaged raises UserError."""
    context.thread_count = 1
    # Rather than pictures with the damage painted over.
    context.options = {"err_detect": "crccheck+explode"}
    frames = []
    try:
        for data in packets:
            frames += context.decode(_packet(data))
        return frames + context.decode(None)
    except av.error.FFmpegError as error:
        raise UserError(f"{context.name} data cannot be decoded: {error.strerror}") from error


def _packet(data: bytes) -> av.Packet:
    """Data with the zeros behind it that FFmpeg's decoders count on and PyAV leaves out.

    Without them damaged data is decoded together with whatever lies behind it in memory.
    """
    padded = memoryview(b"".join((data, bytes(_PADDING))))
    return av.Packet(padded[: len(data)])  # type: ignore[arg-type]  # it takes any buffer


def picture_to_frame(picture: np.ndarray) -> av.VideoFrame:
    """Wrap a uint8 RGB picture (3, H, W)."""
    return av.VideoFrame.from_ndarray(
        np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24"
    )


def picture_to_yuv(
    picture: np.ndarray, pixel_format: str, matrix: Colorspace, range: ColorRange
) -> av.VideoFrame:
    """Convert a uint8 RGB picture (3, H, W) to YCbCr of this matrix and range."""
    return picture_to_frame(picture).reformat(
        format=pixel_format,
        src_colorspace=_RGB_MATRIX,
        src_color_range=_RGB_RANGE,
        dst_colorspace=matrix,
        dst_color_range=range,
        interpolation=_SCALING,
        threads=1,
    )


def frame_to_picture(
    frame: av.VideoFrame,
    matrix: Colorspace = _RGB_MATRIX,
    range: ColorRange = _RGB_RANGE,
) -> np.ndarray:
    """Convert a frame, RGB or YCbCr of this matrix and range, to uint8 RGB (3, H, W)."""
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=range,
        dst_colorspace=_RGB_MATRIX,
        dst_color_range=_RGB_RANGE,
        interpolation=_SCALING,
        threads=1,
    )
    return np.ascontiguousarray(rgb.to_ndarray().transpose(2, 0, 1))


def _padded_size(height: int, width: int) -> tuple[int, int]:
    return max(_LEAST_SIDE, height + height % 2), max(_LEAST_SIDE, width + width % 2)


def _pad(frames: np.ndarray) -> np.ndarray:
    """Repeat the last row and column up to even sides that every encoder takes."""
    height, width = frames.shape[-2:]
    full_height, full_width = _padded_size(height, width)
    margins = ((0, 0), (0, 0), (0, full_height - height), (0, full_width - width))
    return np.pad(frames, margins, mode="edge")
