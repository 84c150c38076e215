"""Packets of .lvc files, one a frame, and the index of them: whole or refused.

Nothing in a file is believed: a length is compared with what is left of the file before anything
of that length is read. docs/bitstream.md has every byte.
"""

import math
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from .display import in_time
from .errors import UserError

HEAD = struct.Struct("<BBII")  # kind, flags, frame, bytes of the payload
CRC = struct.Struct("<I")
ENTRY = struct.Struct("<IQ")  # of the index: number and offset of an I frame
HAS_DIGEST, HAS_RATE, HAS_TIME = 1, 2, 4

_RATE = struct.Struct("<f")
_HASH = struct.Struct("<Q")
_TIME = struct.Struct("<Q")
_ENTRIES = np.dtype([("frame", "<u4"), ("offset", "<u8")])  # many of ENTRY
_TRAILER = struct.Struct("<Q8s")  # offset of the index, magic; a CRC-32C follows


@dataclass(frozen=True)
class Packet:
    """One coded frame: `kind` is "I" or "P", `offset` the byte in the file where it begins.

    `time`: when it is shown, in ticks of the header's time base, where it has one.

    The index is a packet as well, of kind "X": its `frame` is the number of frames before it.
    """

    kind: str
    frame: int
    payload: bytes
    rate: float | None
    digest: int | None
    offset: int
    time: int | None = None

    @property
    def length(self) -> int:
        """Bytes of the whole packet in the file."""
        extra = _RATE.size * (self.rate is not None) + _HASH.size * (self.digest is not None)
        extra += _TIME.size * (self.time is not None)
        return HEAD.size + extra + len(self.payload) + CRC.size


class DamageError(UserError):
    """A packet that is not what was written: number `frame` (from 0), at byte `offset`.

    The index counts as the packet behind the last frame.
    """

    def __init__(self, path: Path, frame: int, offset: int, problem: str) -> None:
        super().__init__(
            f"{path}: damaged at byte {offset}, packet {frame}: {problem}; "
            "the packets before it can be decoded"
        )
        self.frame = frame
        self.offset = offset


class MismatchError(DamageError):
    """A packet that is whole by its checksum, and yet does not decode to what was coded.

    `cause`: what most likely differs here from where it was coded.
    """

    def __init__(self, path: Path, frame: int, offset: int, problem: str, cause: str) -> None:
        UserError.__init__(
            self,
            f"{path}: packet {frame} at byte {offset} is whole by its checksum, but cannot be "
            f"decoded here: {problem}. Most likely {cause}; the packets before it can be decoded",
        )
        self.frame = frame
        self.offset = offset


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the system refuses into an error for the user, with the path in it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def sealed(*parts: bytes | bytearray) -> bytes:
    """The parts and their CRC-32C."""
    data = b"".join(parts)
    return data + CRC.pack(google_crc32c.value(data))


def packed(
    kind: str,
    frame: int,
    payload: bytes | bytearray,
    rate: float | None = None,
    digest: int | None = None,
    time: int | None = None,
) -> bytes:
    """A packet as it stands in a file."""
    flags = HAS_DIGEST * (digest is not None) | HAS_RATE * (rate is not None)
    flags |= HAS_TIME * (time is not None)
    return sealed(
        HEAD.pack(ord(kind), flags, frame, len(payload)),
        b"" if rate is None else _RATE.pack(rate),
        b"" if digest is None else _HASH.pack(digest),
        b"" if time is None else _TIME.pack(time),
        payload,
    )


def trailer(offset: int) -> bytes:
    """The end of a file whose index begins at byte `offset`."""
    return sealed(_TRAILER.pack(offset, b"LVCINDEX"))


class PacketFile:
    """A file that is open for reading, `size` bytes long; raises UserError where it is none.

    `time_base`: that of its header, which says whether its frames have times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time_base: tuple[int, int] | None = None
        with naming(path):
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode):  # opening a pipe would wait for its other end
                what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
                raise UserError(f"{path}: {what}, not a file")
            self._file = open(path, "rb")  # noqa: SIM115
            self.size = os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes that the file had when it was opened; the caller compares with `size`."""
        with naming(self.path):
            self._file.seek(offset)
            data = self._file.read(length)
        if len(data) < length:
            raise UserError(f"{self.path}: became shorter while it was read")
        return data

    def packet(self, offset: int, frame: int) -> tuple[Packet, int]:
        """The packet at `offset`, which has to be number `frame`, and the byte where it ends.

        Raises DamageError where there is no such packet, whole and with the right checksum.
        """
        left = self.size - offset
        if left < HEAD.size:
            problem = f"truncated, {left} of the {HEAD.size} bytes of its head are left"
            raise DamageError(self.path, frame, offset, problem)
        head = self.read(offset, HEAD.size)
        if problem := _wrong(head, frame, self.time_base is not None):
            raise DamageError(self.path, frame, offset, problem)
        code, flags, _, length = HEAD.unpack(head)
        extra = _RATE.size * bool(flags & HAS_RATE) + _HASH.size * bool(flags & HAS_DIGEST)
        extra += _TIME.size * bool(flags & HAS_TIME)
        begin = offset + HEAD.size + extra
        end = begin + length + CRC.size
        if end > self.size:
            problem = f"truncated, or its length is wrong: {left} of {end - offset} bytes are left"
            raise DamageError(self.path, frame, offset, problem)
        fields = self.read(offset + HEAD.size, extra)
        payload = self.read(begin, length)
        crc = google_crc32c.extend(google_crc32c.value(head + fields), payload)
        if CRC.pack(crc) != self.read(end - CRC.size, CRC.size):
            raise DamageError(self.path, frame, offset, "CRC mismatch")
        found, place = [], 0
        for flag, kind in ((HAS_RATE, _RATE), (HAS_DIGEST, _HASH), (HAS_TIME, _TIME)):
            found.append(kind.unpack_from(fields, place)[0] if flags & flag else None)
            place += kind.size * bool(flags & flag)
        rate, digest, time = found
        if rate is not None and not math.isfinite(rate):
            raise DamageError(self.path, frame, offset, f"its rate is {rate}")
        if self.time_base is not None and time is not None and not in_time(time, self.time_base):
            raise DamageError(self.path, frame, offset, f"its time {time} is 68 years away")
        return Packet(chr(code), frame, payload, rate, digest, offset, time), end

    def find_index(self, first: int) -> tuple[int | None, np.ndarray]:
        """The number of frames and the I frames (`frame`, `offset`) by the index at the end.

        `first` is where the first packet begins. (None, nothing) where no sound index is.
        """
        nothing = None, np.empty(0, _ENTRIES)
        end = self.size - _TRAILER.size - CRC.size
        if end < first:
            return nothing
        offset, _ = _TRAILER.unpack(self.read(end, _TRAILER.size))
        if not first <= offset <= end - HEAD.size:
            return nothing
        code, _, frames, _ = HEAD.unpack(self.read(offset, HEAD.size))
        if code != ord("X"):
            return nothing
        with suppress(DamageError):
            return frames, self.entries(*self.packet(offset, frames), first)
        return nothing

    def entries(self, index: Packet, end: int, first: int) -> np.ndarray:
        """The I frames that `index`, a packet of kind "X" that ends at `end`, lists.

        Raises DamageError unless its list can be right and a trailer is all that follows.
        """
        frames, offset = index.frame, index.offset
        wanted = trailer(offset)
        left = self.size - end
        if left < len(wanted):
            problem = f"truncated, {left} of the trailer's {len(wanted)} bytes are left"
            raise DamageError(self.path, frames, end, problem)
        if self.read(end, len(wanted)) != wanted:
            raise DamageError(self.path, frames, end, "not the trailer of the index before it")
        if left > len(wanted):
            problem = f"{left - len(wanted)} bytes behind the end of the video"
            raise DamageError(self.path, frames, end + len(wanted), problem)
        if len(index.payload) % ENTRY.size:
            raise DamageError(self.path, frames, offset, "the index ends inside an entry")
        entries = np.frombuffer(index.payload, _ENTRIES)
        # Both columns begin at the first packet, go up, and end before the index.
        numbers = np.append(entries["frame"], np.uint32(frames))
        places = np.append(entries["offset"], np.uint64(offset))
        rising = (numbers[1:] > numbers[:-1]).all() and (places[1:] > places[:-1]).all()
        if not rising or (numbers[0], places[0]) != (0, first):
            raise DamageError(self.path, frames, offset, "the index does not fit the file")
        return entries


def _wrong(head: bytes, frame: int, timed: bool) -> str:
    """Why `head` is not that of packet `frame`; nothing where it can be."""
    code, flags, number, _ = HEAD.unpack(head)
    kind = chr(code)
    if kind not in "IPX":
        return f"unknown kind 0x{code:02x}"
    if flags & ~(HAS_DIGEST | HAS_RATE | HAS_TIME * timed) or (kind == "X" and flags):
        return f"unknown flags 0x{flags:02x}"
    if number != frame and kind == "X":
        return f"the index counts {number} frames, not {frame}"
    if number != frame:
        return f"frame number {number} out of order, not {frame}"
    if timed and kind != "X" and not flags & HAS_TIME:
        return "it has no time, though the header promises one"
    return "frame 0 is not an I frame" if kind == "P" and frame == 0 else ""
