"""I frames: what a receiver makes of their packets, and conventional coders of them, without torch.

What sends them is `vcodecs.intra`.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import av
import numpy as np

from .anchor import (
    ClipCoder,
    Colour,
    decode,
    encode,
    frame_to_picture,
    picture_to_frame,
)
from .coder import PayloadError
from .encoders import check_encoder, video_encoder
from .errors import UserError
from .pictures import as_float, round_up
from .program import Levels, decompress, digest

T = TypeVar("T")


class IntraDecoder(ABC):
    """Makes pictures of I packets."""

    @abstractmethod
    def decode(
        self, payload: bytes, height: int, width: int, rate: float | None
    ) -> tuple[np.ndarray, int]:
        """The picture, float32 (1, 3, height, width) in [0, 1], and the digest of its symbols.

        Raises PayloadError where the payload cannot be decoded.
        """


class NetworkPictures(IntraDecoder):
    """I frames by a learned picture codec."""

    def __init__(self, networks: Levels) -> None:
        self.networks = networks

    def decode(
        self, payload: bytes, height: int, width: int, rate: float | None
    ) -> tuple[np.ndarray, int]:
        multiple = self.networks.multiple
        size = (round_up(height, multiple), round_up(width, multiple))
        coded = decompress(self.networks, payload, {}, size, rate)
        return coded.following["reference"][..., :height, :width], digest(coded.symbols)


class PictureCoder(IntraDecoder):
    """Codes one picture by itself. `name` says in a report what was used."""

    name: str

    @abstractmethod
    def compress(self, picture: np.ndarray) -> bytes:
        """Encode a uint8 RGB picture (3, H, W) of any size."""

    @abstractmethod
    def decompress(self, data: bytes, height: int, width: int) -> np.ndarray:
        """Decode `compress`'s bytes to uint8 RGB (3, height, width).

        Raises UserError where the bytes cannot be decoded. They carry no checksum: whoever stores
        them guards against damage that still decodes.
        """

    def decode(
        self, payload: bytes, height: int, width: int, rate: float | None = None
    ) -> tuple[np.ndarray, int]:
        """As `IntraDecoder.decode`; its symbols are the picture. `rate` is of no effect."""
        try:
            picture = self.decompress(payload, height, width)
        except UserError as error:
            raise PayloadError(str(error)) from error
        return as_float(picture), digest({"picture": picture})


class ConventionalPictures(PictureCoder):
    """x265 ("hevc") or x264 ("h264") at a constant QP from 0 (best) to 51.

    Pictures pass through YCbCr of the stated matrix ("bt709", "bt601"), range ("limited", "full")
    and pixel format; another value is a UserError.
    """

    def __init__(
        self,
        codec: str = "hevc",
        qp: int = 22,
        matrix: str = "bt709",
        range: str = "limited",
        pixel_format: str = "yuv420p",
    ) -> None:
        self._coder = ClipCoder(codec, qp, Colour(matrix, range, pixel_format), all_intra=True)
        self.name = self._coder.name

    def compress(self, picture: np.ndarray) -> bytes:
        return self._coder.compress(picture[None])[0]

    def decompress(self, data: bytes, height: int, width: int) -> np.ndarray:
        return self._coder.decompress([data], height, width)[0]


class LosslessPictures(PictureCoder):
    """The original picture, for the real bits of lossless coding (FFV1)."""

    name = "FFV1 lossless, RGB 8-bit"
    _PIXEL_FORMAT = "bgr0"
    # FFV1's first version keeps its header in the frame; later ones keep it in the container.
    _OPTIONS = {"level": "1"}  # noqa: RUF012

    def __init__(self) -> None:
        check_encoder("lossless")

    def compress(self, picture: np.ndarray) -> bytes:
        frame = picture_to_frame(picture).reformat(format=self._PIXEL_FORMAT)
        size = (frame.height, frame.width)
        context = video_encoder("lossless", size, self._PIXEL_FORMAT, 30, self._OPTIONS)
        return b"".join(map(bytes, encode(context, [frame])))

    def decompress(self, data: bytes, height: int, width: int) -> np.ndarray:
        context = av.CodecContext.create("ffv1", "r")
        context.height, context.width = height, width
        decoded = decode(context, [data])
        if len(decoded) != 1:
            raise UserError("ffv1 data does not hold one picture: the stream is damaged")
        return frame_to_picture(decoded[0])


PICTURE_CODERS: dict[str, Callable[..., PictureCoder]] = {
    "hevc": partial(ConventionalPictures, "hevc"),
    "h264": partial(ConventionalPictures, "h264"),
    "lossless": LosslessPictures,
}


def create_pictures(spec: str) -> PictureCoder:
    """Make a picture coder from "NAME" or "NAME:key=value,key=value".

    Examples: "hevc:qp=22", "h264:qp=20,matrix=bt601,range=full", "lossless". An unknown name, key
    or value is a UserError that lists the known ones.
    """
    return create_from(PICTURE_CODERS, spec)


def create_from(
    registry: Mapping[str, Callable[..., T]], spec: str, names: Iterable[str] = ()
) -> T:
    """Call the factory that `spec`, "NAME:key=value,...", names in `registry` with its options.

    Options are keywords of the factory, whole numbers as int. An unknown name or key, and a value
    that the factory refuses, is a UserError that says what is allowed: `names`, or the registry's.
    """
    name, _, rest = spec.partition(":")
    if name not in registry:
        raise UserError(
            f"intra codec {name!r} is unknown: choose one of {', '.join(names or registry)}, "
            'such as "hevc:qp=22"'
        )
    factory = registry[name]
    options = _options(spec, rest, known=tuple(inspect.signature(factory).parameters))
    try:
        return factory(**options)
    except UserError as error:
        raise UserError(f"intra codec {spec!r}: {error}") from error


def _options(spec: str, rest: str, known: tuple[str, ...]) -> dict[str, int | str]:
    options: dict[str, int | str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (text.strip() for text in part.partition("="))
        if key not in known or not equals or not value:
            allowed = ", ".join(f"{option}=..." for option in known) or "none"
            raise UserError(f"intra codec {spec!r}: option {part!r} is unknown; options: {allowed}")
        options[key] = int(value) if value.removeprefix("-").isdecimal() else value
    return options
