"""The container of .lvc files: a header, one packet a frame, an index at the end.

docs/bitstream.md has every byte. Payloads are opaque here.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from .display import in_time
from .errors import UserError
from .header import LONGEST_HEADER, MAGIC, START, VERSION, Header, header_bytes, header_from
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

# The index of a file of I frames alone still fits its length field: 165 days at 25 frames/s.
MOST_FRAMES = (2**32 - 1) // ENTRY.size
LARGEST_RATE = float(np.finfo(np.float32).max)


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
        self._time_base, self._time = header.display.time_base, -1
        self._end = 0
        self._index = bytearray()  # as it will stand in the file: 12 bytes an I frame
        start = header_bytes(header, self.path)
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
        time: int | None = None,
    ) -> int:
        """Append the next frame, "I" or "P"; the first one is an I frame. Returns its bytes.

        `rate` is finite and stored in single precision, `digest` has 64 bits, `payload` less
        than 4 GiB. `time` rises, in ticks of the header's time base where that has one. Raises
        UserError where the system refuses; the file is then given up.
        """
        if kind not in ("I", "P") or (self.frames == 0 and kind == "P"):
            raise ValueError(f"frame {self.frames} cannot be of kind {kind!r}")
        if rate is not None and not abs(rate) <= LARGEST_RATE:
            raise ValueError(f"rate {rate} does not fit single precision")
        if self.frames == MOST_FRAMES:
            raise UserError(f"{self.path}: full, a file holds at most {MOST_FRAMES} frames")
        entry = ENTRY.pack(self.frames, self._end) if kind == "I" else b""
        if (time is None) != (self._time_base is None):
            raise ValueError("a frame has a time where the header has a time base")
        if time is not None and self._time_base is not None:
            if not (self._time < time and in_time(time, self._time_base)):
                raise ValueError(f"time {time} behind {self._time}: times rise, for 68 years")
            self._time = time
        packet = packed(kind, self.frames, payload, rate, digest, time)
        self._append(packet, 1, entry)
        return len(packet)

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
            self._file.time_base = self.header.display.time_base
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
        time = -1
        while offset < self._file.size:
            packet, end = self._file.packet(offset, frame)
            if packet.kind == "X":
                self._file.entries(packet, end, self._first)
                return
            if packet.time is not None and packet.time <= time:
                problem = f"its time {packet.time} is not behind {time}, that of the one before it"
                raise DamageError(self.path, frame, offset, problem)
            yield packet
            time = -1 if packet.time is None else packet.time
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
        start = read(0, min(START.size, size))
        if not start:
            raise UserError(f"{self.path}: empty")
        if start[: len(MAGIC)] != MAGIC:
            raise UserError(f"{self.path}: not an .lvc file (it does not begin like one)")
        if len(start) < START.size:
            raise UserError(f"{self.path}: truncated: the file ends inside its header")
        _, version, length = START.unpack(start)
        if version > VERSION:
            raise UserError(
                f"{self.path}: format version {version}, newer than this program's {VERSION}; "
                "decode it with a newer release"
            )
        if version < 1 or not 1 <= length <= LONGEST_HEADER:
            raise UserError(f"{self.path}: damaged header (version {version}, {length} bytes)")
        end = START.size + length + CRC.size
        if end > size:
            raise UserError(f"{self.path}: truncated: the file ends inside its header")
        record = read(START.size, length)
        if sealed(start, record) != read(0, end):
            raise UserError(f"{self.path}: damaged header (CRC mismatch)")
        return header_from(record, version, self.path), end

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
