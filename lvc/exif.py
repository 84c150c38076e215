"""Orientation of photographs, from the Exif record of JPEG and PNG files."""

import struct

ORIENTATION = 0x0112
UPRIGHT = 1


def orientation(data: bytes) -> int:
    """1 to 8, as Exif counts them; 1 where the file does not say, or not in order."""
    try:
        record = _in_jpeg(data) if data[:2] == b"\xff\xd8" else _in_png(data)
        found = _tag(record) if record else UPRIGHT
    except (struct.error, IndexError):  # cut off, or offsets that lead out of it
        return UPRIGHT
    return found if 1 <= found <= 8 else UPRIGHT


def _in_jpeg(data: bytes) -> bytes | None:
    place = 2
    while data[place] == 0xFF and data[place + 1] != 0xDA:  # up to the samples
        (length,) = struct.unpack_from(">H", data, place + 2)
        if data[place + 1] == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return data[place + 10 : place + 2 + length]
        place += 2 + length
    return None


def _in_png(data: bytes) -> bytes | None:
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"eXIf":
            return data[place + 8 : place + 8 + length]
        place += 12 + length
    return None


def _tag(record: bytes) -> int:
    order = "<" if record[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", record, 4)
    (count,) = struct.unpack_from(f"{order}H", record, first)
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", record, entry)
        if tag == ORIENTATION:
            return value
    return UPRIGHT
