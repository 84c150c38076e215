"""Range coding: what is written is read back, in as many bits as its tables promise."""

import math
import struct
import time

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvc.coder import LARGEST, PayloadError, SymbolReader, SymbolWriter
from lvc.errors import UserError
from lvc.tables import PRECISION, Table, scale_table, table_of_masses

FULL = 1 << PRECISION
LAPLACE = [scale_table("laplace", level, offset) for level in (0, 9, 32) for offset in (-8, 0, 7)]
NARROW = scale_table("normal", 4)
QUICK = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32)
far = st.integers(-LARGEST, LARGEST) | st.sampled_from([-LARGEST, LARGEST])
near = st.integers(-600, 600)


@st.composite
def any_tables(draw):
    """Tables that no distribution has made: of few or many symbols, even or very uneven."""
    generator = np.random.default_rng(draw(seeds))
    found = []
    for _ in range(draw(st.integers(1, 6))):
        count = draw(st.sampled_from([1, 2, 3, 17, 300]))
        masses = generator.pareto(draw(st.sampled_from([0.2, 1.0, 5.0])), count) + 1e-12
        masses *= draw(st.sampled_from([1.0, 0.5, 1e-6])) / masses.sum()
        found.append(table_of_masses(masses, draw(st.integers(-400, 400))))
    return found


@st.composite
def contents(draw):
    """What a payload may hold: symbols with their tables, and marks, in any order."""
    found = []
    tables = draw(any_tables())
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            values = np.array(draw(st.lists(near | far, max_size=40)), np.int64)
            which = np.random.default_rng(draw(seeds)).integers(0, len(tables), len(values))
            found.append(("symbols", values, which, tables))
        else:
            count = draw(st.sampled_from([0, 1, 7, 3000]))
            rarity = draw(st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]))
            drawn = np.random.default_rng(draw(seeds)).random(count)
            found.append(("marks", drawn < rarity))
    return found


def written(parts):
    writer = SymbolWriter()
    for kind, values, *rest in parts:
        if kind == "symbols":
            writer.symbols(values, *rest)
        else:
            writer.side_flags(values, len(values))
    return writer.finish()


def read(payload, parts):
    """What `payload` says in place of each part."""
    reader, found = SymbolReader(payload), []
    for kind, values, *rest in parts:
        if kind == "symbols":
            found.append(reader.symbols(None, *rest))
        else:
            found.append(reader.side_flags(None, len(values)))
    reader.finish()
    return found


def of(values, table):
    """The part of a payload that codes all of `values` by one table."""
    return ("symbols", np.asarray(values, np.int64), np.zeros(len(values), int), [table])


# ---------------------------------------------------------------------- there and back


@QUICK
@given(parts=contents())
def test_whatever_is_written_is_read_back(parts):
    payload = written(parts)
    for part, found in zip(parts, read(payload, parts), strict=True):
        assert found.shape == part[1].shape
        assert (found == part[1]).all()


@pytest.mark.parametrize("rarity", [0, 1, 2, 5, 40, 1000, 200_000])
def test_marks_of_any_rarity_are_read_back(rarity):
    marks = np.zeros(200_000, bool)
    if rarity:
        marks[::rarity] = True
    assert (read(written([("marks", marks)]), [("marks", marks)])[0] == marks).all()


def test_a_writer_answers_with_the_values_that_it_was_given():
    writer = SymbolWriter()
    values, marks = np.array([3, -2, 99]), np.array([True, False])
    assert (writer.symbols(values, np.zeros(3, int), [NARROW]) == values).all()
    assert (writer.side_flags(marks, 2) == marks).all()


def test_a_payload_of_nothing_is_one_byte():
    assert SymbolWriter().finish() == b"\0"
    SymbolReader(b"\0").finish()


def test_no_symbols_take_no_bits():
    nothing = of([], NARROW)
    assert written([nothing]) == b"\0"
    assert read(b"\0", [nothing])[0].shape == (0,)
    around = [of([1, 2], NARROW), nothing, of([-1], NARROW)]
    assert written(around) == written([around[0], around[2]])
    assert [list(part) for part in read(written(around), around)] == [[1, 2], [], [-1]]


def test_no_marks_take_no_bits():
    nothing = ("marks", np.zeros(0, bool))
    assert written([nothing]) == b"\0"
    assert read(b"\0", [nothing])[0].shape == (0,)


def test_marks_that_are_all_false_take_no_bits():
    assert written([("marks", np.zeros(10**6, bool))]) == b"\0"


def test_equal_contents_make_equal_payloads():
    parts = [of([5, -70, 0], NARROW), ("marks", np.arange(50) == 7)]
    assert written(parts) == written(parts)


@pytest.mark.parametrize("table", [*LAPLACE, NARROW], ids=lambda table: str(table.first))
def test_symbols_just_inside_and_just_outside_of_a_table_are_read_back(table):
    last = table.first + table.escape - 1
    values = [table.first - 1, table.first, last, last + 1, 0, -LARGEST, LARGEST]
    assert read(written([of(values, table)]), [of(values, table)])[0].tolist() == values


@pytest.mark.parametrize("value", [LARGEST + 1, -LARGEST - 1, 2**40, -(2**63)])
def test_a_symbol_beyond_the_largest_is_refused(value):
    with pytest.raises(UserError, match=f"symbol of {value} is too far"):
        written([of([0, value], NARROW)])


# ---------------------------------------------------------------------- how long it gets


def bits_of(parts, rarity):
    """Sum of -log2(frequency / 2^24) over all that is coded, by the rules of the format."""
    total = 0.0
    for kind, values, *rest in parts:
        if kind == "marks":
            if rarity:
                chance = 2.0**-rarity
                total -= values.sum() * np.log2(chance) + (~values).sum() * np.log2(1 - chance)
            continue
        which, tables = rest
        for value, number in zip(values.tolist(), which.tolist(), strict=True):
            table = tables[number]
            place = value - table.first
            escapes = not 0 <= place < table.escape
            total += PRECISION - np.log2(table.frequencies[table.escape if escapes else place])
            if escapes:
                total += 5 + (2 * abs(value) - (value > 0) + 1).bit_length() - 1
    return total


@QUICK
@given(parts=contents())
def test_a_payload_is_as_long_as_its_tables_promise(parts):
    payload = written(parts)
    promised = bits_of(parts, payload[0]) / 8
    assert 0.99 * promised - 16 <= len(payload) <= 1.01 * promised + 16


def test_many_symbols_of_many_tables_take_their_information_and_a_few_bytes():
    generator = np.random.default_rng(0)
    which = generator.integers(0, len(LAPLACE), 100_000)
    values = np.rint(generator.laplace(0, np.repeat([0.05, 1.0, 64], 3)[which])).astype(np.int64)
    part = ("symbols", values, which, LAPLACE)
    assert len(written([part])) == pytest.approx(bits_of([part], 0) / 8, rel=1e-4, abs=16)


def test_the_rarity_of_marks_is_the_power_of_two_that_fits_them():
    for share in range(1, 17):
        marks = np.arange(2**17) % 2**share == 0
        assert written([("marks", marks)])[0] == share
    assert written([("marks", np.ones(9, bool))])[0] == 1


# ---------------------------------------------------------------------- another decoder


class Decoder:
    """A payload as docs/bitstream.md, section 6, describes it; nothing else was looked at."""

    def __init__(self, payload):
        self.rarity = payload[0]
        self.words = list(struct.unpack(f"<{(len(payload) - 1) // 4}I", payload[1:]))
        self.lower, self.range = 0, 2**64 - 1
        self.bits_left = 32 * len(self.words) + 64
        self.point = self.word() << 32 | self.word()

    def word(self):
        return self.words.pop(0) if self.words else 0

    def entry(self, frequencies):
        scale = self.range >> 24
        quantile = (self.point - self.lower) % 2**64 // scale
        assert quantile < 2**24, "damaged"
        number = below = 0
        while below + frequencies[number] <= quantile:
            below += frequencies[number]
            number += 1
        self.bits_left -= 24 - math.log2(frequencies[number])
        assert self.bits_left >= 0, "damaged"
        self.lower = (self.lower + scale * below) % 2**64
        self.range = scale * frequencies[number]
        if self.range < 2**32:
            self.lower = self.lower << 32 & 2**64 - 1
            self.range <<= 32
            self.point = self.point << 32 & 2**64 - 1 | self.word()
        return number

    def bits(self, count):
        return self.entry([2 ** (24 - count)] * 2**count)

    def escaped(self):
        count, folded, known = self.bits(5), 0, 0
        while known < count:
            portion = min(16, count - known)
            folded |= self.bits(portion) << known
            known += portion
        folded += 2**count - 1
        return (folded + 1) // 2 if folded % 2 else -(folded // 2)

    def symbols(self, which, tables):
        found = [None] * len(which)
        for number in sorted(set(which)):
            table = tables[number]
            frequencies = table.frequencies.tolist()
            places = [i for i, own in enumerate(which) if own == number]
            entries = [self.entry(frequencies) for _ in places]
            for place, entry in zip(places, entries, strict=True):
                is_escape = entry == len(frequencies) - 1
                found[place] = self.escaped() if is_escape else table.first + entry
        return found

    def side_flags(self, count):
        if not self.rarity:
            return [False] * count
        rare = 2 ** (24 - self.rarity)
        return [bool(self.entry([2**24 - rare, rare])) for _ in range(count)]

    def at_end(self):
        little_left = (self.point - self.lower) % 2**64 < 2**33 - 1
        return not self.words and (self.range == 2**64 - 1 or little_left)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(parts=contents())
def test_a_decoder_written_from_the_format_alone_reads_the_same(parts):
    decoder = Decoder(written(parts))
    for kind, values, *rest in parts:
        if kind == "symbols":
            which, tables = rest
            assert np.array_equal(decoder.symbols(which.tolist(), tables), values)
        else:
            assert np.array_equal(decoder.side_flags(len(values)), values)
    assert decoder.at_end()


def test_the_decoder_from_the_format_reads_tables_marks_and_escapes_of_a_long_payload():
    generator = np.random.default_rng(5)
    which = generator.integers(0, len(LAPLACE), 3000)
    values = np.rint(3 * generator.standard_cauchy(3000)).astype(np.int64)
    marks = generator.random(3000) < 0.02
    payload = written([("marks", marks), ("symbols", values, which, LAPLACE)])
    decoder = Decoder(payload)
    assert np.array_equal(decoder.side_flags(3000), marks)
    assert np.array_equal(decoder.symbols(which.tolist(), LAPLACE), values)
    assert decoder.at_end()


def test_both_decoders_agree_on_what_is_no_payload():
    """Same values, same damage, same verdict at the end, for words that nobody has written."""
    generator = np.random.default_rng(6)
    verdicts = []
    for _ in range(1500):
        words = generator.integers(0, 2**32, generator.integers(0, 7), dtype=np.uint32)
        payload = bytes([generator.integers(0, 24)]) + words.astype("<u4").tobytes()
        count = int(generator.integers(1, 20))
        part = of(np.zeros(count), NARROW)
        decoder = Decoder(payload)
        try:
            values = decoder.symbols([0] * count, [NARROW])
            verdict = "end" if decoder.at_end() else "surplus"
        except AssertionError:
            verdict = "damaged"
        if verdict == "end":
            assert read(payload, [part])[0].tolist() == values
        else:
            with pytest.raises(PayloadError):
                read(payload, [part])
        verdicts.append(verdict)
    assert {"end", "surplus"} <= set(verdicts)


# ---------------------------------------------------------------------- damage

PARTS = [
    ("marks", np.arange(300) % 97 == 0),
    of([0, 1, -1, 4, 900, -3, 2, 0, 0, 1], NARROW),
    ("symbols", np.arange(-90, 90), np.arange(180) % len(LAPLACE), LAPLACE),
]


def outcome(payload):
    """ "read" or "refused"; whatever else happens goes through."""
    try:
        found = read(payload, PARTS)
    except PayloadError:
        return "refused"
    assert [part.shape for part in found] == [part[1].shape for part in PARTS]
    return "read"


def test_random_payloads_are_refused_or_read_as_something():
    generator = np.random.default_rng(1)
    lengths = generator.integers(0, 120, 1500)
    outcomes = {outcome(generator.bytes(length)) for length in lengths}
    for length in lengths:
        rarity, words = generator.integers(0, 24), generator.bytes(4 * (length // 4))
        outcomes.add(outcome(bytes([rarity]) + words))
    assert outcomes == {"refused", "read"}


def test_truncated_payloads_are_refused_or_read_as_something():
    payload = written(PARTS)
    assert outcome(payload) == "read"
    for length in range(len(payload)):
        whole_words = length % 4 == 1
        assert whole_words or outcome(payload[:length]) == "refused"
        outcome(payload[:length])


def test_payloads_with_a_wrong_byte_are_refused_or_read_as_something():
    payload, generator = written(PARTS), np.random.default_rng(2)
    for _ in range(1000):
        wrong = bytearray(payload)
        wrong[generator.integers(len(wrong))] ^= int(generator.integers(1, 256))
        outcome(bytes(wrong))


@pytest.mark.parametrize("payload", [b"", b"\x18", b"\xff" + bytes(8), b"\0abc", b"\0" + bytes(5)])
def test_a_payload_is_a_rarity_below_24_and_whole_words(payload):
    with pytest.raises(PayloadError, match="not what an encoder writes"):
        SymbolReader(payload)


def test_bits_that_are_no_entry_of_any_table_are_refused():
    """The first 64 bits lie beyond the last entry where they are 2^64 - 2^24 or more."""
    most = struct.pack("<BII", 1, 2**32 - 1, 2**32 - 2**24)
    with pytest.raises(PayloadError, match="no symbol"):
        SymbolReader(most).symbols(None, np.zeros(1, int), [NARROW])
    with pytest.raises(PayloadError, match="no mark"):
        SymbolReader(most).side_flags(None, 1)
    last = struct.pack("<BII", 1, 2**32 - 1, 2**32 - 2**24 - 1)
    assert SymbolReader(last).side_flags(None, 1).all()


def test_surplus_words_are_found():
    payload = written(PARTS)
    for surplus in (b"\xff" * 8, bytes(8), b"leanvc!!"):
        with pytest.raises(PayloadError, match="longer than what it codes"):
            read(payload + surplus, PARTS)


def test_what_is_not_read_is_found():
    with pytest.raises(PayloadError, match="longer than what it codes"):
        read(written(PARTS), PARTS[:2])


def test_an_escape_beyond_the_largest_symbol_is_refused():
    """31 set bits behind the number of bits are a symbol of 1 - 2^31, which nobody writes."""
    table = Table(np.array([1, FULL - 1]), 0)
    model = constriction.stream.model
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(np.array([1], np.int32), model.Categorical(table.frequencies - 1.0, perfect=False))
    for count, bits in ((5, 31), (16, 2**16 - 1), (15, 2**15 - 1)):
        coder.encode(np.array([bits], np.int32), model.Uniform(2**count))
    payload = b"\0" + coder.get_compressed().astype("<u4").tobytes()
    assert Decoder(payload).symbols([0], [table]) == [1 - 2**31]
    with pytest.raises(PayloadError):
        read(payload, [of([0], table)])


def test_the_worst_payload_takes_no_longer_than_its_symbols_deserve():
    """All escapes: a few microseconds each, and never more of them than the words can hold."""
    table, count = Table(np.array([1, FULL - 1]), 0), 20_000
    payload = written([of(np.full(count, LARGEST), table)])
    start = time.perf_counter()
    with pytest.raises(PayloadError, match="ends before what it codes"):
        read(payload[: len(payload) // 8 * 4 + 1], [of(np.zeros(count), table)])
    assert time.perf_counter() - start < 5


def test_a_few_bytes_are_not_read_as_millions_of_symbols():
    """Behind the last word there are zeros for ever, and each would be a symbol or an escape."""
    zero_escapes = Table(np.array([1, FULL - 1]), 0)
    start = time.perf_counter()
    for payload in (b"\0", bytes(9), b"\0" + b"\xaa" * 40):
        for table in (NARROW, zero_escapes, Table(np.array([FULL // 2, FULL // 2]), 0)):
            with pytest.raises(PayloadError):
                SymbolReader(payload).symbols(None, np.zeros(10**6, int), [table])
    for rarity in (1, 5):
        with pytest.raises(PayloadError, match="ends before what it codes"):
            SymbolReader(bytes([rarity]) + bytes(8)).side_flags(None, 10**6)
    assert time.perf_counter() - start < 5


def test_no_writer_codes_more_information_than_its_words_have_bits():
    generator = np.random.default_rng(8)
    for _ in range(300):
        count = int(generator.integers(1, 60))
        which = generator.integers(0, len(LAPLACE), count)
        values = np.rint(generator.laplace(0, 10.0, count)).astype(np.int64)
        part = ("symbols", values, which, LAPLACE)
        payload = written([part])
        assert bits_of([part], 0) <= 8 * (len(payload) - 1)
