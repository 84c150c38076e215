"""The container of .lvc files: a header, one packet a frame, an index at the end.

docs/bitstream.md has every byte. Payloads are opaque here.
"""

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from .errors import UserError
from .packets import (
    CRC,
    ENTRY,
    DamageError,
    Packet,
    PacketFile,
    naming,
    packed,
    sealed,
    trailer,
)
from .rules import COUNT, SHA256, TEXT, check, is_count, is_integer, is_text

MAGIC = b"\x89LVC\r\n\x1a\n"
VERSION = 1
LONGEST_HEADER = 65536
LARGEST_SIDE = 16384
LARGEST_AREA = 2**27
LARGEST_RATE = float(np.finfo(np.float32).max)

_START = struct.Struct("<8sBI")  # magic, version, bytes of the header record

# The index of a file of I frames alone still fits its length field: 165 days at 25 frames/s.
MOST_FRAMES = (2**32 - 1) // ENTRY.size


@dataclass(frozen=True)
class Header:
    """All that a decoder needs to know before the first packet.

    `weights`: SHA-256, in lower-case hex, of the weights that decode the P frames. `width`,
    `height`: pixels, 1 to 16384, together at most 2^27. `fps`: numerator and denominator.
    `intra_period`: frames from one I frame to the next. `intra`: what decodes the I frames;
    strings, one of them `codec`. `margin`: tolerance of the entropy parameters, above 0, below 1/4.
    """

    codec: str
    preset: str
    weights: str
    width: int
    height: int
    fps: tuple[int, int]
    intra_period: int
    intra: dict[str, str]
    margin: float


# ------------------------------------------------------------------------------ header


def _is_side(value: Any) -> bool:
    return is_integer(value, 1, LARGEST_SIDE)


def _is_ratio(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_count, value))


def _is_intra(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return "codec" in value and all(is_text(text) for item in value.items() for text in item)


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 0.25


_SIDE = f"an integer from 1 to {LARGEST_SIDE}"
_RULES = {
    "codec": TEXT,
    "preset": TEXT,
    "weights": SHA256,
    "width": (_is_side, _SIDE),
    "height": (_is_side, _SIDE),
    "fps": (_is_ratio, f"a list of two, each {COUNT[1]}"),
    "intra_period": COUNT,
    "intra": (_is_intra, f'an object with "codec", its keys and values each {TEXT[1]}'),
    "margin": (_is_fraction, "a float above 0 and below 1/4"),
}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; readers differ in which of two equal keys they keep."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parsed(record: bytes) -> Header:
    """The header in a record; raises ValueError or RecursionError where there is none."""
    fields = json.loads(record.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant)
    check(fields, _RULES)
    if fields["width"] * fields["height"] > LARGEST_AREA:
        size = f"{fields['width']}x{fields['height']}"
        raise ValueError(f"width and height are {size}, more than {LARGEST_AREA} pixels")
    return Header(**fields | {"fps": tuple(fields["fps"])})


def _header_from(record: bytes, path: Path) -> Header:
    try:
        return _parsed(record)
    except ValueError as error:
        raise UserError(f"{path}: header: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: header: nested too deeply") from error


def _header_bytes(header: Header, path: Path) -> bytes:
    record = json.dumps(asdict(header), sort_keys=True, separators=(",", ":")).encode()
    _header_from(record, path)  # nothing is written that would not be read
    if len(record) > LONGEST_HEADER:
        raise UserError(f"{path}: header: {len(record)} bytes, more than {LONGEST_HEADER}")
    return sealed(_START.pack(MAGIC, VERSION, len(record)), record)


# ------------------------------------------------------------------------------ writing


class Writer:
    """Writes an .lvc file, packet by packet; a file that is there already is replaced.

    As a context manager it ends the file with its index. Where the block raises, or the process is
    killed, the file keeps its header and its whole packets and can be decoded as far as it goes.
    Raises UserError where the header is not valid or the system refuses to write.
    """

    def __init__(self, path: str | Path, header: Header) -> None:
        self.path = Path(path)
        self.frames = 0
        self._end = 0
        self._index = bytearray()  # as it will stand in the file: 12 bytes an I frame
        start = _header_bytes(header, self.path)
        with naming(self.path):
            # Unbuffered: what has been written is in the file, whatever becomes of the process.
            self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115
        self._append(start)

    def write(
        self,
        kind: str,
        payload: bytes,
        rate: float | None = None,
        digest: int | None = None,
    ) -> None:
        """Append the next frame, "I" or "P"; the first one is an I frame.

        `rate` is finite and stored in single precision, `digest` has 64 bits, `payload` less
        than 4 GiB. Raises UserError where the system refuses; the file is then given up.
        """
        if kind not in ("I", "P") or (self.frames == 0 and kind == "P"):
            raise ValueError(f"frame {self.frames} cannot be of kind {kind!r}")
        if rate is not None and not abs(rate) <= LARGEST_RATE:
            raise ValueError(f"rate {rate} does not fit single precision")
        if self.frames == MOST_FRAMES:
            raise UserError(f"{self.path}: full, a file holds at most {MOST_FRAMES} frames")
        entry = ENTRY.pack(self.frames, self._end) if kind == "I" else b""
        self._append(packed(kind, self.frames, payload, rate, digest), 1, entry)

    def close(self) -> None:
        """End the file with its index; a file that was ended or given up stays as it is."""
        if self._file.closed:
            return
        self._append(packed("X", self.frames, self._index) + trailer(self._end))
        with naming(self.path):
            self._file.close()

    def _append(self, data: bytes, frames: int = 0, entry: bytes = b"") -> None:
        """Write all of `data` and count it, or take it back and give the file up."""
        rest = memoryview(data)
        try:
            with naming(self.path):
                while rest:
                    rest = rest[self._file.write(rest) :]
            self.frames += frames
            self._index += entry
            self._end += len(data)
        except BaseException:  # Ctrl-C as well, wherever in here it comes
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Close the file behind its last whole packet, without an index."""
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(self._end)
            with suppress(OSError):
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._give_up()


# ------------------------------------------------------------------------------ reading


class Reader:
    """Reads an .lvc file, one packet in memory at a time.

    `header`: the checked header. `complete`: whether the file ends with a sound index; where it
    does not, its writing was cut short or its end is damaged. `frames`: what that index counts,
    None without one; `packets` checks it when it gets there. Raises UserError where the file cannot
    be opened, is no .lvc file, is of a newer version, or has a damaged header.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = PacketFile(self.path)
        try:
            self.header, self._first = self._read_header()
            self.frames, self._intra = self._file.find_index(self._first)
        except BaseException:
            self.close()
            raise
        self.complete = self.frames is not None

    def packets(self, start: int = 0) -> Iterator[Packet]:
        """The packets from the last I frame at or before frame `start` to the end of the file.

        Raises DamageError at the first packet that is not sound, behind all that come before it.
        A file that ends behind a whole packet ends the iteration, also where `complete` is False.
        """
        if start < 0:
            raise ValueError(f"frame {start}: frames count from 0")
        offset, frame = self._last_intra(start)
        while offset < self._file.size:
            packet, end = self._file.packet(offset, frame)
            if packet.kind == "X":
                self._file.entries(packet, end, self._first)
                return
            yield packet
            offset, frame = end, frame + 1
        if self.complete:
            raise DamageError(self.path, frame, offset, "the file ends inside its index")

    def close(self) -> None:
        """Close the file; iterators over its packets cannot go on."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_header(self) -> tuple[Header, int]:
        """The header and where the first packet begins."""
        size, read = self._file.size, self._file.read
        start = read(0, min(_START.size, size))
        if not start:
            raise UserError(f"{self.path}: empty")
        if start[: len(MAGIC)] != MAGIC:
            raise UserError(f"{self.path}: not an .lvc file (it does not begin like one)")
        if len(start) < _START.size:
            raise UserError(f"{self.path}: truncated: the file ends inside its header")
        _, version, length = _START.unpack(start)
        if version > VERSION:
            raise UserError(
                f"{self.path}: format version {version}, newer than this program's {VERSION}; "
                "decode it with a newer release"
            )
        if version < VERSION or not 1 <= length <= LONGEST_HEADER:
            raise UserError(f"{self.path}: damaged header (version {version}, {length} bytes)")
        end = _START.size + length + CRC.size
        if end > size:
            raise UserError(f"{self.path}: truncated: the file ends inside its header")
        record = read(_START.size, length)
        if sealed(start, record) != read(0, end):
            raise UserError(f"{self.path}: damaged header (CRC mismatch)")
        return _header_from(record, self.path), end

    def _listed_intra(self, start: int) -> tuple[int, int]:
        """Offset and number of the I frame that the index has for `start`, where it is there."""
        before = np.searchsorted(self._intra["frame"], np.uint32(min(start, 2**32 - 1)), "right")
        if before:
            frame, offset = map(int, self._intra[before - 1])
            with suppress(DamageError):
                if self._file.packet(offset, frame)[0].kind == "I":
                    return offset, frame
        return self._first, 0

    def _last_intra(self, start: int) -> tuple[int, int]:
        """Offset and number of the last I frame at or before `start`.

        The index only says where to begin: from there every packet up to `start` is looked at, so
        one that leaves out I frames does no harm, and without one the whole way is walked.
        """
        offset, frame = found = self._listed_intra(start)
        with suppress(DamageError):  # damage is met again, and told, behind the I frame
            while frame <= start and offset < self._file.size:
                packet, end = self._file.packet(offset, frame)
                if packet.kind == "X":
                    break
                if packet.kind == "I":
                    found = offset, frame
                offset, frame = end, frame + 1
        return found
