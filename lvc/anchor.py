"""Conventional codecs as anchors: x265 and x264 through PyAV, with real bits and explicit colour.

A learned codec's rate and quality mean something only beside those of a codec that everybody
knows, coded from the same frames and judged in the same colour space. The same coder supplies the
I frames (`lvc.intra`), so that both go through one colour conversion.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from lvc.errors import UserError

MATRICES = {"bt709": Colorspace.ITU709, "bt601": Colorspace.ITU601}
RANGES = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
PIXEL_FORMATS = {
    "yuv420p": "4:2:0",
    "yuv422p": "4:2:2",
    "yuv444p": "4:4:4",
    "yuv420p10le": "4:2:0 10-bit",
}
MAX_QP = 51

# Without these flags swscale averages and repeats chroma samples, which costs up to 15 dB on
# saturated edges before any codec has run; BITEXACT gives the same pictures on every CPU.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
_RGB = {"colorspace": Colorspace.ITU709, "range": ColorRange.JPEG}
_PADDING = 64  # FFmpeg's AV_INPUT_BUFFER_PADDING_SIZE
_LEAST_SIDE = 16  # x265 refuses smaller pictures
_ENCODERS = {"hevc": "libx265", "h264": "libx264", "lossless": "ffv1"}


@dataclass(frozen=True)
class Colour:
    """How RGB becomes YCbCr and comes back: matrix, range and chroma format, never guessed."""

    matrix: str = "bt709"
    range: str = "limited"
    pixel_format: str = "yuv420p"

    def __post_init__(self) -> None:
        choices = {"matrix": MATRICES, "range": RANGES, "pixel_format": PIXEL_FORMATS}
        for key, known in choices.items():
            if (value := getattr(self, key)) not in known:
                raise UserError(f"{key} {value!r} is unknown: choose one of {', '.join(known)}")

    def __str__(self) -> str:
        standard = {"bt709": "BT.709", "bt601": "BT.601"}[self.matrix]
        return f"{standard} {self.range} {PIXEL_FORMATS[self.pixel_format]}"

    def to_yuv(self, picture: np.ndarray) -> av.VideoFrame:
        """Convert a uint8 RGB picture (3, H, W); only "yuv444p" takes odd sides."""
        return picture_to_frame(picture).reformat(
            format=self.pixel_format,
            src_colorspace=_RGB["colorspace"],
            src_color_range=_RGB["range"],
            dst_colorspace=MATRICES[self.matrix],
            dst_color_range=RANGES[self.range],
            interpolation=_SCALING,
            threads=1,
        )

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a decoded frame of this colour to uint8 RGB (3, H, W)."""
        # A decoder tags its frames with a chroma position, which `to_yuv` cannot set. Conversions
        # that differ in it are half a chroma sample apart and lose up to 10 dB: drop the tag.
        untagged = av.VideoFrame.from_ndarray(frame.to_ndarray(), format=self.pixel_format)
        return frame_to_picture(untagged, MATRICES[self.matrix], RANGES[self.range])


@dataclass(frozen=True)
class ClipCoder:
    """x265 ("hevc") or x264 ("h264") at a constant QP, preset medium, tuned for PSNR.

    `all_intra` codes every frame by itself; otherwise the first frame is I and all others are P
    (low delay, no B frames). One thread and no informational SEI: the same frames always give the
    same bytes, and only bytes that a decoder needs.
    """

    codec: str
    qp: int
    colour: Colour = field(default_factory=Colour)
    all_intra: bool = False

    def __post_init__(self) -> None:
        if self.codec not in ("hevc", "h264"):
            raise UserError(f"codec {self.codec!r} is unknown: choose hevc or h264")
        if isinstance(self.qp, bool) or not isinstance(self.qp, int):
            raise UserError(f"qp {self.qp!r} is not a whole number: choose 0 (best) to {MAX_QP}")
        if not 0 <= self.qp <= MAX_QP:
            raise UserError(f"qp {self.qp} is out of range: choose 0 (best) to {MAX_QP}")
        check_encoder(self.codec)

    @property
    def name(self) -> str:
        """For tables: "x265 medium, low delay P, QP 30, BT.709 limited 4:2:0"."""
        encoder = _ENCODERS[self.codec].removeprefix("lib")
        structure = "intra" if self.all_intra else "medium, low delay P"
        return f"{encoder} {structure}, QP {self.qp}, {self.colour}"

    def compress(self, frames: np.ndarray, fps: float = 30.0) -> list[bytes]:
        """Encode uint8 RGB frames (T, 3, H, W) of any size; one packet a frame."""
        padded = _pad(frames)
        pixel_format = self.colour.pixel_format
        context = video_encoder(self.codec, padded.shape[-2:], pixel_format, fps, self._options())
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
        context = av.CodecContext.create(self.codec, "r")
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

    def _options(self) -> dict[str, str]:
        # With an I/P ratio of 1 an I frame is coded at the QP that the name states.
        endless = {"hevc": "keyint=-1", "h264": "keyint=infinite"}[self.codec]
        structure = "keyint=1:ipratio=1" if self.all_intra else endless
        parameters = f"qp={self.qp}:bframes=0:scenecut=0:{structure}"
        if self.codec == "hevc":
            # The analysis for weighted prediction reads unset memory at some sizes (such as 48x32),
            # so that the same clip takes other bytes each time; without fades it gains nothing.
            parameters += ":info=0:log-level=none:pools=none:frame-threads=1:weightp=0"
        encoder = _ENCODERS[self.codec].removeprefix("lib")
        return {"preset": "medium", "tune": "psnr", f"{encoder}-params": parameters}


@dataclass(frozen=True)
class Anchor:
    """A conventional codec's result on one clip: averages over all frames, the I frame included."""

    codec: str
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
) -> Anchor:
    """Code a clip, uint8 RGB (T, 3, H, W), with x265 ("hevc") or x264 ("h264"), low delay P.

    Give `qp` (0 to 51) or `target_bpp` (bits per pixel, > 0): the QP whose bits are nearest to it
    is searched for, and the bits that it really takes are returned. PSNR is over RGB, with one
    MSE over the three channels of a frame, in dB; identical frames count 100.
    """
    if (qp is None) == (target_bpp is None):
        raise UserError("give an anchor either a qp or a target_bpp")
    colour = colour or Colour()
    pixels = frames.shape[0] * frames.shape[2] * frames.shape[3]

    def bits_per_pixel(packets: list[bytes]) -> float:
        return 8 * sum(map(len, packets)) / pixels

    if qp is None:
        qp = _nearest_qp(
            lambda q: bits_per_pixel(ClipCoder(codec, q, colour).compress(frames, fps)), target_bpp
        )
    coder = ClipCoder(codec, qp, colour)
    packets = coder.compress(frames, fps)
    decoded = coder.decompress(packets, *frames.shape[-2:])
    qualities = tuple(psnr(a, b) for a, b in zip(frames, decoded, strict=True))
    mean = float(np.mean(qualities))
    return Anchor(codec, coder.name, qp, bits_per_pixel(packets), mean, qualities)


def _nearest_qp(bpp_at: Callable[[int], float], target: float) -> int:
    """Bisect for the QP whose bits are nearest to `target` on a logarithmic scale."""
    if not (math.isfinite(target) and target > 0):
        raise UserError(f"a target of {target} bits per pixel is out of range: give one above 0")
    low, high = 0, MAX_QP
    tried: dict[int, float] = {}
    while low <= high:
        middle = (low + high) // 2
        tried[middle] = bpp_at(middle)
        # Bits fall as the QP rises.
        low, high = (middle + 1, high) if tried[middle] > target else (low, middle - 1)
    return min(tried, key=lambda qp: abs(math.log(tried[qp] / target)))


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Of 8-bit pictures, in dB; 100 where they are equal."""
    mse = np.mean((original.astype(np.float64) - decoded) ** 2)
    return min(100.0, 10 * math.log10(255**2 / max(mse, 1e-12)))


def check_encoder(codec: str) -> None:
    """Raise a UserError that names what is missing where PyAV was built without the encoder."""

    def present(library: str) -> bool:
        try:
            return av.codec.Codec(library, "w") is not None
        except ValueError:  # PyAV's UnknownCodecError is one
            return False

    if not present(_ENCODERS[codec]):
        others = [f"{name} ({library})" for name, library in _ENCODERS.items() if present(library)]
        raise UserError(
            f"PyAV {av.__version__} was built without {_ENCODERS[codec]}, which {codec!r} needs; "
            f"it has: {', '.join(others) or 'none of ours'}. "
            "Use one of these, or install PyAV's wheel from PyPI"
        )


def video_encoder(
    codec: str, size: tuple[int, int], pixel_format: str, fps: float, options: dict[str, str]
) -> av.VideoCodecContext:
    """A single-threaded encoder context for pictures of `size` (height, width)."""
    rate = Fraction(fps if math.isfinite(fps) and fps > 0 else 30).limit_denominator(1001)
    context = av.CodecContext.create(_ENCODERS[codec], "w")
    context.height, context.width = size
    context.pix_fmt = pixel_format
    context.framerate, context.time_base = rate, 1 / rate
    context.thread_count = 1
    context.options = options
    return context


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
    return av.Packet(memoryview(b"".join((data, bytes(_PADDING))))[: len(data)])


def picture_to_frame(picture: np.ndarray) -> av.VideoFrame:
    """Wrap a uint8 RGB picture (3, H, W)."""
    return av.VideoFrame.from_ndarray(
        np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24"
    )


def frame_to_picture(
    frame: av.VideoFrame,
    matrix: Colorspace = _RGB["colorspace"],
    range: ColorRange = _RGB["range"],
) -> np.ndarray:
    """Convert a frame, RGB or YCbCr of this matrix and range, to uint8 RGB (3, H, W)."""
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=range,
        dst_colorspace=_RGB["colorspace"],
        dst_color_range=_RGB["range"],
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
