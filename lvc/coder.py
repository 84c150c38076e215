"""Range coding of whole arrays: one table for each symbol, escapes, and marks.

`SymbolWriter` and `SymbolReader` have the same methods, so that one program describes both sides:
the writer is given the values and returns them, the reader is given none and returns what was
written.

The coder is constriction's range coder (32-bit words, 64-bit state, 24-bit frequencies). Symbols
of one table go in one call, so what is coded together is sorted by table (stable).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import constriction
import numpy as np

from .errors import UserError
from .tables import PRECISION, Table

LARGEST = 1 << 30
"""Largest escaped symbol; what is further from zero is a sign of damage."""
BITS_AT_ONCE = 16
SPARE_BITS = 64
"""No writer codes more information than its words have bits; from so much more on it is damage."""

Model: TypeAlias = constriction.stream.model.Categorical


class PayloadError(UserError):
    """A payload that no encoder has written."""


class SymbolWriter:
    """Collects what one packet holds; `finish` codes it."""

    reads = False

    def __init__(self) -> None:
        self._marks: list[np.ndarray] = []
        self._pending: list[tuple[str, np.ndarray, tuple]] = []

    def symbols(
        self, values: np.ndarray | None, which: np.ndarray, tables: Sequence[Table]
    ) -> np.ndarray:
        """Code int values (n,), the i-th with `tables[which[i]]`; returns them."""
        values = np.asarray(values, np.int64)
        self._pending.append(("symbols", values, (which, tables)))
        return values

    def side_flags(self, values: np.ndarray | None, count: int) -> np.ndarray:
        """Code `count` booleans that are nearly always false; returns them."""
        values = np.asarray(values, bool)
        self._pending.append(("marks", values, ()))
        self._marks.append(values)
        return values

    def finish(self) -> bytes:
        """The packet's payload."""
        rarity = _rarity(self._marks)
        coder = constriction.stream.queue.RangeEncoder()
        for kind, values, rest in self._pending:
            if kind == "symbols":
                _write_symbols(coder, values, *rest)
            elif rarity:
                coder.encode(values.astype(np.int32), model_of(_mark_table(rarity)))
        return bytes([rarity]) + coder.get_compressed().astype("<u4").tobytes()


class SymbolReader:
    """Reads a payload back, in the same order and with the same tables."""

    reads = True

    def __init__(self, payload: bytes) -> None:
        if not payload or payload[0] > PRECISION - 1 or (len(payload) - 1) % 4:
            raise PayloadError("the payload is not what an encoder writes")
        self._rarity = payload[0]
        words = np.frombuffer(payload, "<u4", offset=1).astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self._left = 32.0 * len(words) + SPARE_BITS

    def symbols(
        self, values: np.ndarray | None, which: np.ndarray, tables: Sequence[Table]
    ) -> np.ndarray:
        """The next int values (n,); PayloadError where the bits are none of a symbol."""
        try:
            return self._symbols(which, tables)
        except AssertionError as error:
            raise PayloadError("the payload holds bits that are no symbol") from error

    def side_flags(self, values: np.ndarray | None, count: int) -> np.ndarray:
        """The next `count` booleans."""
        if not self._rarity:
            return np.zeros(count, bool)
        try:
            return self._entries(_mark_table(self._rarity), count).astype(bool)
        except AssertionError as error:
            raise PayloadError("the payload holds bits that are no mark") from error

    def finish(self) -> None:
        """PayloadError where more was written than has been read."""
        if not self._coder.maybe_exhausted():
            raise PayloadError("the payload is longer than what it codes")

    def _symbols(self, which: np.ndarray, tables: Sequence[Table]) -> np.ndarray:
        order, runs = _runs(which)
        ordered = np.empty(len(which), np.int64)
        for number, begin, end in runs:
            table = tables[number]
            places = self._entries(table, end - begin)
            ordered[begin:end] = places
            ordered[begin:end] += table.first
            if places.max() == table.escape:
                for i in np.flatnonzero(places == table.escape):
                    ordered[begin + i] = self._escape()
        values = np.empty_like(ordered)
        values[order] = ordered
        return values

    def _escape(self) -> int:
        bits = self._bits(5)
        folded = 1 << bits
        for low in range(0, bits, BITS_AT_ONCE):
            folded |= self._bits(min(BITS_AT_ONCE, bits - low)) << low
        folded -= 1
        value = (folded + 1) // 2
        if value > LARGEST:
            raise PayloadError("the payload holds a symbol that no encoder writes")
        return value if folded % 2 else -value

    def _bits(self, count: int) -> int:
        self._spend(count)
        return int(self._coder.decode(_uniform(count), 1)[0])

    def _entries(self, table: Table, count: int) -> np.ndarray:
        model, bits = _known(table)
        places = self._coder.decode(model, count)
        self._spend(float(bits[places].sum()))
        return places

    def _spend(self, bits: float) -> None:
        """Behind its last word a payload reads as zeros for ever; nobody is to wait for that."""
        self._left -= bits
        if self._left < 0:
            raise PayloadError("the payload ends before what it codes")


def model_of(table: Table) -> Model:
    """Constriction's name for a model of exactly these frequencies.

    It gives every symbol one unit and shares out the rest in proportion; given each frequency
    less one, the proportion is 1.
    """
    return _known(table)[0]


@lru_cache(maxsize=4096)
def _known(table: Table) -> tuple[Model, np.ndarray]:
    """The model of a table, and the bits of information that each entry has."""
    values = table.frequencies.astype(np.float64)
    return Model(values - 1, perfect=False, lazy=False), PRECISION - np.log2(values)


def _runs(which: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Order that sorts by table, and (table, begin, end) of every run in it."""
    if not len(which):
        return which, []
    # NumPy sorts numbers of 16 bits by counting, which is several times faster.
    order = np.argsort(which.astype(np.min_scalar_type(int(which.max()))), kind="stable")
    ordered = which[order]
    borders = (np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist()
    begins, ends = [0, *borders], [*borders, len(ordered)]
    return order, list(zip(ordered[begins].tolist(), begins, ends, strict=True))


def _write_symbols(coder, values: np.ndarray, which: np.ndarray, tables: Sequence[Table]) -> None:  # noqa: ANN001
    order, runs = _runs(which)
    for number, begin, end in runs:
        table = tables[number]
        own = values[order[begin:end]]
        places = own - table.first
        outside = (places < 0) | (places >= table.escape)
        coder.encode(np.where(outside, table.escape, places).astype(np.int32), model_of(table))
        for value in own[outside]:
            _write_escape(coder, int(value))


def _write_escape(coder, value: int) -> None:  # noqa: ANN001
    """Sign folded in, then an Elias gamma code: the number of bits, and the bits."""
    if abs(value) > LARGEST:
        raise UserError(f"a symbol of {value} is too far from its mean to be coded")
    folded = 2 * abs(value) - (value > 0) + 1
    bits = folded.bit_length() - 1
    coder.encode(np.array([bits], np.int32), _uniform(5))
    for low in range(0, bits, BITS_AT_ONCE):
        count = min(BITS_AT_ONCE, bits - low)
        part = folded >> low & (1 << count) - 1
        coder.encode(np.array([part], np.int32), _uniform(count))


@lru_cache
def _uniform(bits: int) -> constriction.stream.model.Uniform:
    return constriction.stream.model.Uniform(1 << bits)


def _rarity(marks: list[np.ndarray]) -> int:
    """k where about one mark in 2 ** k is set, 0 where none is."""
    total = sum(len(m) for m in marks)
    seen = sum(int(m.sum()) for m in marks)
    if not seen:
        return 0
    return min(PRECISION - 1, max(1, (total // seen).bit_length() - 1))


@lru_cache
def _mark_table(rarity: int) -> Table:
    rare = 1 << PRECISION - rarity
    return Table(np.array([(1 << PRECISION) - rare, rare], np.int64), 0)
