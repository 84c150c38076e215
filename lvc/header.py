"""The header of an .lvc file: one record of JSON, every value of it checked before any is used."""

import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .display import PLAIN, RULES, Display, display_of
from .errors import UserError
from .packets import sealed
from .rules import (
    COUNT,
    OBJECT,
    SHA256,
    TEXT,
    check,
    is_count,
    is_integer,
    is_sha256,
    is_text,
    within,
)
from .runtimes import Arithmetic

MAGIC = b"\x89LVC\r\n\x1a\n"
VERSION = 3
LONGEST_HEADER = 65536
LARGEST_SIDE = 16384
LARGEST_AREA = 2**27

START = struct.Struct("<8sBI")  # magic, version, bytes of the header record


@dataclass(frozen=True)
class Header:
    """All that a decoder needs to know before the first packet.

    `weights`: SHA-256, in lower-case hex, of the weights that decode the P frames. `width`,
    `height`: pixels, 1 to 16384, together at most 2^27. `fps`: numerator and denominator.
    `intra_period`: frames from one I frame to the next. `intra`: what decodes the I frames;
    strings, one of them `codec`. `margin`: tolerance of the entropy parameters, above 0, below 1/4.
    `display`: how pictures are shown, if not plainly. `arithmetic`: of the networks that decide how
    bits are read, where it is not float32.
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
    display: Display = field(default=PLAIN, repr=False)
    arithmetic: Arithmetic | None = None


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


_SINCE = {"display": 2, "arithmetic": 3}
"""Keys by the version that brought them."""

_ARITHMETIC = {
    "runtime": TEXT,
    "precision": TEXT,
    "graphs": (lambda value: value == "" or is_sha256(value), "a SHA-256, or nothing"),
}
"""No list of runtimes: players differ in which they have."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; readers differ in which of two equal keys they keep."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parsed(record: bytes, version: int) -> Header:
    """The header in a record; raises ValueError or RecursionError where there is none."""
    fields = json.loads(record.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant)
    # A plain video says nothing of these, so that older players can read it.
    later = {name: OBJECT for name, first in _SINCE.items() if version >= first}
    check(fields, _RULES | later)
    if version > 1:
        with within("display"):
            check(fields["display"], RULES)
        fields["display"] = display_of(fields["display"])
    if version > 2:
        with within("arithmetic"):
            check(fields["arithmetic"], _ARITHMETIC)
        fields["arithmetic"] = Arithmetic(**fields["arithmetic"])
    if fields["width"] * fields["height"] > LARGEST_AREA:
        size = f"{fields['width']}x{fields['height']}"
        raise ValueError(f"width and height are {size}, more than {LARGEST_AREA} pixels")
    return Header(**fields | {"fps": tuple(fields["fps"])})


def header_from(record: bytes, version: int, path: Path) -> Header:
    """The header in the record of a file of this version; UserError where there is none."""
    try:
        return _parsed(record, version)
    except ValueError as error:
        raise UserError(f"{path}: header: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: header: nested too deeply") from error


def header_bytes(header: Header, path: Path) -> bytes:
    """The header as it stands in a file; of version 1 where that suffices."""
    fields = asdict(header)
    version = 3 if header.arithmetic else 2 if header.display != PLAIN else 1
    for name, first in _SINCE.items():
        if version < first:
            del fields[name]
    record = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    header_from(record, version, path)  # nothing is written that would not be read
    if len(record) > LONGEST_HEADER:
        raise UserError(f"{path}: header: {len(record)} bytes, more than {LONGEST_HEADER}")
    return sealed(START.pack(MAGIC, version, len(record)), record)
