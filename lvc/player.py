"""Playing an .lvc file: packets to pictures, with whatever runs the networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .coder import PayloadError
from .container import Header, Reader
from .errors import UserError
from .intra import IntraDecoder
from .packets import DamageError, MismatchError, Packet
from .pictures import as_picture, padded
from .program import Levels, Tensors, decompress, digest
from .rates import RateError

MOST_PIXELS = 4096 * 2304
"""Pixels of a picture, unless the user allows more: what a few bytes can make a player allocate."""


ARITHMETIC = (
    "this machine computes the networks with other results than where it was coded, by more than "
    "the file's margin of {margin:g}: a mode of less precision (oneDNN's or OpenVINO's bfloat16, "
    "TF32), or a fault of its own. Decode it in float32, with the other of --bundle and --weights, "
    "or elsewhere"
)
CODECS = "this machine's FFmpeg decodes the I frame otherwise. Decode it with another version"
"""Likely causes where a packet is whole and yet something else comes out."""


@dataclass(frozen=True)
class Shown:
    """A decoded frame: its number, uint8 RGB (3, H, W), and the bits of its whole packet.

    `time`: when it is shown, in ticks of the header's time base, where it has one.
    """

    number: int
    kind: str
    picture: np.ndarray
    bits: int
    time: int | None = None


class Player:
    """Decodes the frames of one file in their order.

    `networks` run the P frames, `intra` the I frames; whether they are what the file was made
    with is up to `check_weights`.
    """

    def __init__(self, reader: Reader, networks: Levels, intra: IntraDecoder) -> None:
        self.reader, self.networks, self.intra = reader, networks, intra
        self._before: Tensors = {}

    def pictures(self, start: int = 0) -> Iterator[Shown]:
        """Frames from number `start` on; DamageError behind the last one that is whole."""
        height, width = self.reader.header.height, self.reader.header.width
        for packet in self.reader.packets(start):
            picture, found = self._decode(packet, height, width)
            if packet.digest is not None and packet.digest != found:
                coded = "picture" if self._is_conventional(packet) else "symbols"
                raise self._mismatch(packet, f"other {coded} come out than were coded")
            if packet.frame >= start:
                bits = 8 * packet.length
                yield Shown(packet.frame, packet.kind, as_picture(picture), bits, packet.time)

    def _decode(self, packet: Packet, height: int, width: int) -> tuple[np.ndarray, int]:
        try:
            if packet.kind == "I":
                decoded = self.intra.decode(packet.payload, height, width, packet.rate)
                self._before = {"reference": padded(decoded[0], self.networks.multiple)}
                return decoded
            reference = self._before["reference"]
            size = (reference.shape[2], reference.shape[3])
            coded = decompress(self.networks, packet.payload, self._before, size, packet.rate)
            self._before = coded.following
            return self._before["reference"][..., :height, :width], digest(coded.symbols)
        except RateError as error:
            problem = str(error)
            raise DamageError(self.reader.path, packet.frame, packet.offset, problem) from error
        except PayloadError as error:
            raise self._mismatch(packet, str(error)) from error

    def _is_conventional(self, packet: Packet) -> bool:
        """Whether a conventional codec has coded it, and no network."""
        return packet.kind == "I" and "weights" not in self.reader.header.intra

    def _mismatch(self, packet: Packet, problem: str) -> MismatchError:
        """Of a packet whose checksum held: the reader looked at it."""
        cause = CODECS if self._is_conventional(packet) else ARITHMETIC
        cause = cause.format(margin=self.reader.header.margin)
        return MismatchError(self.reader.path, packet.frame, packet.offset, problem, cause)


def check_size(header: Header, path: Path, most: int) -> None:
    """UserError where pictures of a file have more than `most` pixels.

    A payload of a few bytes may hold pictures of any size, and the networks need hundreds of bytes
    for each pixel: who plays a stranger's file is to choose that.
    """
    pixels = header.width * header.height
    if pixels > most:
        raise UserError(
            f"{path}: its pictures are {header.width}x{header.height}, more than {most} pixels: "
            f"if there is memory for that, give --most-pixels {pixels}"
        )


def check_weights(needed: str, given: str, what: str) -> None:
    """UserError where the file needs other weights than `what` (such as a bundle) has."""
    if needed != given:
        raise UserError(
            f"{what}: has weights {given[:12]}..., but the file was encoded with {needed[:12]}...: "
            "give those, or the bundle exported from them"
        )
