"""Damaged and forged .lvc files end in a clear error, never in other packets than were written.

The files are built here by hand, from docs/bitstream.md and not by `lvc.container`.
"""

import json
import os
import random
import struct
import tracemalloc
from collections import Counter

import google_crc32c
import numpy as np
import pytest

from lvc.container import DamageError, Header, Reader, Writer
from lvc.errors import UserError

FIELDS = {
    "codec": "dcvc_hem",
    "preset": "small",
    "weights": "0123456789abcdef" * 4,
    "width": 1920,
    "height": 1080,
    "fps": [25, 1],
    "intra_period": 3,
    "intra": {"codec": "hevc", "options": "qp=22"},
    "margin": 0.001,
}
KINDS = "IPPIPPIPPP"


def sealed(data):
    return data + struct.pack("<I", google_crc32c.value(data))


def start(record, version=1, length=None):
    """The header around a record."""
    length = len(record) if length is None else length
    return sealed(b"\x89LVC\r\n\x1a\n" + struct.pack("<BI", version, length) + record)


def as_json(fields):
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def packet(kind, frame, payload=b"", flags=0, length=None, extra=b""):
    length = len(payload) if length is None else length
    head = struct.pack("<BBII", ord(kind), flags, frame, length)
    return sealed(head + extra + payload)


def index(frames, entries, length=None):
    """The index packet for a list of (frame, offset)."""
    listed = b"".join(struct.pack("<IQ", *entry) for entry in entries)
    return packet("X", frames, listed, length=length)


def trailer(offset, magic=b"LVCINDEX"):
    return sealed(struct.pack("<Q", offset) + magic)


START = start(as_json(FIELDS))


def frame(number, kind):
    """A packet; which of rate and digest it has, and its length, go with its number."""
    payload = random.Random(number).randbytes(7 * number % 50)
    extra = b""
    if number % 4 & 2:
        extra += struct.pack("<f", number / 2)
    if number % 4 & 1:
        extra += struct.pack("<Q", 2**64 - 1 - number)
    return packet(kind, number, payload, number % 4, extra=extra)


FRAMES = [frame(number, kind) for number, kind in enumerate(KINDS)]
OFFSETS = [len(START) + sum(map(len, FRAMES[:n])) for n in range(len(FRAMES) + 1)]
INTRA = [(n, OFFSETS[n]) for n, kind in enumerate(KINDS) if kind == "I"]
BODY = START + b"".join(FRAMES)
INDEX = index(len(KINDS), INTRA)
WHOLE = BODY + INDEX + trailer(len(BODY))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "video.lvc"


@pytest.fixture
def original(path):
    """The packets of the file as it should be."""
    path.write_bytes(WHOLE)
    with Reader(path) as reader:
        found = list(reader.packets())
    assert len(found) == len(KINDS)
    return found


def overwrite(path, data):
    """Put `data` into a file; one that is emptied again and again would wait for the disk."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def attempt(path, data, first=0):
    """What reading `data` from a frame on yields: packets, how it ended, and the error."""
    overwrite(path, data)
    packets, reader = [], None
    try:
        with Reader(path) as reader:
            for found in reader.packets(first):
                packets.append(found)
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message
        assert len(message) < 500 + len(str(path))
        return packets, "damage" if isinstance(error, DamageError) else "refused", error
    return packets, "complete" if reader.complete else "cut", None


def refusal(path, data):
    packets, ending, error = attempt(path, data)
    assert (packets, ending) == ([], "refused")
    return str(error)


def damage(path, data, first=0):
    """Frames that are read before the damage, and the error."""
    packets, ending, error = attempt(path, data, first)
    assert ending == "damage"
    return [found.frame for found in packets], error


def test_the_writer_writes_what_the_document_says(path):
    header = Header(**FIELDS | {"fps": tuple(FIELDS["fps"])})
    with Writer(path, header) as writer:
        for number, kind in enumerate(KINDS):
            writer.write(
                kind,
                random.Random(number).randbytes(7 * number % 50),
                rate=number / 2 if number % 4 & 2 else None,
                digest=2**64 - 1 - number if number % 4 & 1 else None,
            )
    assert path.read_bytes() == WHOLE


# ---------------------------------------------------------------------- places


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="a folder, not a file"):
        Reader(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.lvc: No such file"):
        Reader(tmp_path / "absent.lvc")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs devices")
@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_is_refused(device):
    with pytest.raises(UserError, match=f"{device}: a device or a pipe"):
        Reader(device)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a device or a pipe"):
        Reader(tmp_path / "pipe")


def test_an_empty_file_is_refused(path):
    assert refusal(path, b"").endswith(": empty")


@pytest.mark.parametrize(
    "data", [b"\0" * 100, b"text\n", b"\x89PNG\r\n\x1a\n" + bytes(50), WHOLE[:7], WHOLE[1:]]
)
def test_another_kind_of_file_is_refused(data, path):
    assert "not an .lvc file" in refusal(path, data)


def test_a_file_that_becomes_shorter_while_it_is_read_ends_in_an_error(path):
    path.write_bytes(WHOLE)
    with Reader(path) as reader:
        os.truncate(path, len(START) + 5)
        with pytest.raises(UserError, match="became shorter"):
            list(reader.packets())


# ---------------------------------------------------------------------- headers


@pytest.mark.parametrize("version", [4, 5, 255])
def test_a_newer_version_is_named(version, path):
    message = refusal(path, start(as_json(FIELDS), version))
    assert f"version {version}, newer" in message


def test_a_version_before_the_first_is_damage(path):
    assert "damaged header" in refusal(path, start(as_json(FIELDS), 0))


@pytest.mark.parametrize("length", [0, 65537, 2**31, 2**32 - 1])
def test_a_header_of_an_absurd_length_is_refused(length, path):
    assert "damaged header" in refusal(path, start(as_json(FIELDS), length=length))


def test_a_header_longer_than_the_file_is_truncated(path):
    assert "truncated" in refusal(path, start(as_json(FIELDS), length=65536))


def test_a_header_may_be_as_long_as_the_limit(path):
    record = as_json(FIELDS)
    padded = record[:-1] + b" " * (65536 - len(record)) + b"}"
    assert attempt(path, start(padded)) == ([], "cut", None)


BAD_FIELDS = [
    *[("width", value) for value in (0, -1, 16385, 2**31, 2**63, 64.0, True, "64", None, [64])],
    *[("height", value) for value in (0, 16385, 10**4000, False, {})],
    *[("fps", value) for value in ([25], [25, 1, 1], [0, 1], [25, 0], [25.0, 1], [2**31, 1], 25)],
    *[("fps", value) for value in ([True, 1], {"25": 1}, "25", [[25], 1], None)],
    *[("intra_period", value) for value in (0, -1, 2**31, 1.0, True, "32", None)],
    *[("codec", value) for value in (None, 1, "x" * 257, "a\nb", "\x1b[2J", "\ud800", ["dcvc"])],
    *[("preset", value) for value in (None, 0, "x" * 60000, "\0", "\u202e")],
    *[("weights", value) for value in (None, "", "0" * 63, "0" * 65, "G" * 64, "A" * 64, 0)],
    *[("intra", value) for value in (None, [], "hevc", {}, {"codec": 1}, {"options": "qp=22"})],
    *[("intra", {"codec": "hevc", "x": value}) for value in (None, {}, [], "x" * 257, "\n")],
    *[("intra", {"codec": "hevc", key: ""}) for key in ("x" * 257, "\r")],
    *[
        ("margin", value)
        for value in (0, 1, 0.25, 0.0, -0.0, 1.0, -0.5, 2.5, True, "0.5", None, [0.5])
    ],
]


@pytest.mark.parametrize("key, value", BAD_FIELDS)
def test_a_field_out_of_its_range_is_named(key, value, path):
    assert f": header: {key} is " in refusal(path, start(as_json(FIELDS | {key: value})))


@pytest.mark.parametrize("size", [(16384, 16384), (16384, 8193), (8193, 16384)])
def test_pictures_of_absurd_areas_are_refused(size, path):
    fields = FIELDS | {"width": size[0], "height": size[1]}
    assert f"{size[0]}x{size[1]}" in refusal(path, start(as_json(fields)))


@pytest.mark.parametrize("key", FIELDS)
def test_a_missing_key_is_named(key, path):
    fields = {name: value for name, value in FIELDS.items() if name != key}
    assert f"missing key '{key}'" in refusal(path, start(as_json(fields)))


@pytest.mark.parametrize("key", ["", "Width", "precision", "two\nlines", "x" * 50000, "\ud800"])
def test_an_unknown_key_is_refused(key, path):
    assert "unknown key" in refusal(path, start(as_json(FIELDS | {key: 1})))


def spoiled(old, new):
    record = as_json(FIELDS)
    assert record.count(old) == 1
    return record.replace(old, new)


RECORDS = {
    "nothing of JSON": b"\0",
    "half an object": as_json(FIELDS)[:-1],
    "two objects": as_json(FIELDS) * 2,
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "a string": b'"codec"',
    "an empty object": b"{}",
    "bytes that are not UTF-8": spoiled(b"small", b"sm\xffll"),
    "UTF-16": as_json(FIELDS).decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + as_json(FIELDS),
    "NaN": spoiled(b"0.001", b"NaN"),
    "Infinity": spoiled(b"0.001", b"Infinity"),
    "-Infinity": spoiled(b"1920", b"-Infinity"),
    "a number that overflows": spoiled(b"0.001", b"1e999"),
    "a number that underflows": spoiled(b"0.001", b"1e-999"),
    "5000 digits": spoiled(b"1920", b"1" * 5000),
    "a key twice": spoiled(b'"width":1920', b'"width":1920,"width":1920'),
    "a key twice inside": spoiled(b'"options"', b'"codec"'),
    "a tower of lists": b"[" * 60000,
    "a tower of closed lists": b"[" * 30000 + b"]" * 30000,
    "a tower of objects": b'{"codec":' * 7000,
    "a tower in a field": spoiled(b"1920", b"[" * 30000 + b"]" * 30000),
    "a low tower in a field": spoiled(b"1920", b"[" * 900 + b"]" * 900),
}


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_no_header_is_refused_though_its_checksum_is_right(name, path):
    assert ": header: " in refusal(path, start(RECORDS[name]))


def test_a_header_in_another_order_with_spaces_is_the_same_header(path):
    path.write_bytes(WHOLE)
    with Reader(path) as reader:
        header = reader.header
    path.write_bytes(start(json.dumps(dict(reversed(FIELDS.items())), indent=2).encode()))
    with Reader(path) as reader:
        assert reader.header == header


# ---------------------------------------------------------------------- damage


def common(one, other):
    """What two files have in common from their beginning on."""
    length = min(len(one), len(other))
    unlike = np.frombuffer(one, "u1", length) != np.frombuffer(other, "u1", length)
    return one[: int(unlike.argmax()) if unlike.any() else length]


def check(path, original, data):
    """Read damaged data; the end has to be what its first wrong byte makes it. Returns the end."""
    same = common(data, WHOLE)
    packets, ending, error = attempt(path, data)
    if len(same) < len(START):
        assert (packets, ending) == ([], "refused")
        return "refused"
    number = sum(offset <= len(same) for offset in OFFSETS) - 1
    assert packets == original[:number]
    if data == WHOLE:
        assert ending == "complete"
    elif data == same and len(same) in OFFSETS:
        assert ending == "cut"
    else:
        assert ending == "damage"
        assert error.frame == number
        behind = (len(BODY), len(BODY) + len(INDEX), len(WHOLE))
        assert error.offset in (behind if number == len(KINDS) else OFFSETS[number : number + 1])
        assert f"byte {error.offset}, packet {error.frame}: " in str(error)
    return f"{ending}, all packets" if number == len(KINDS) else f"{ending}, some packets"


def check_seek(path, original, data, first):
    """From any frame on: a part of the true packets that begins with an I frame before it."""
    packets, ending, _ = attempt(path, data, first)
    if packets:
        begin = packets[0].frame
        assert packets[0].kind == "I" and begin <= first
        assert packets == original[begin : begin + len(packets)]
    return packets, ending


def flipped(bit):
    data = bytearray(WHOLE)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def test_a_file_cut_anywhere_yields_the_whole_packets_before_the_cut(path, original):
    ends = Counter(check(path, original, WHOLE[:length]) for length in range(len(WHOLE) + 1))
    assert ends["refused"] == len(START)
    assert ends["cut, some packets"] == len(KINDS)
    assert ends["cut, all packets"] == ends["complete, all packets"] == 1
    assert ends["damage, some packets"] == len(BODY) - len(START) - len(KINDS)
    assert ends["damage, all packets"] == len(WHOLE) - len(BODY) - 1


def test_a_file_cut_anywhere_is_read_from_any_frame_on_as_far_as_it_goes(path, original):
    for length in range(len(START), len(WHOLE), 3):
        for first in (2, 4, 9):
            packets, _ = check_seek(path, original, WHOLE[:length], first)
            whole = original[: sum(offset <= length for offset in OFFSETS) - 1]
            begin = max((p.frame for p in whole if p.kind == "I" and p.frame <= first), default=0)
            assert packets == whole[begin:]


def test_every_flipped_bit_of_the_header_is_noticed(path, original):
    ends = Counter(check(path, original, flipped(bit)) for bit in range(8 * len(START)))
    assert ends == {"refused": 8 * len(START)}


def test_every_flipped_bit_of_the_packets_is_noticed_at_its_packet(path, original):
    bits = range(8 * len(START), 8 * len(BODY))
    ends = Counter(check(path, original, flipped(bit)) for bit in bits)
    assert ends == {"damage, some packets": len(bits)}


def test_every_flipped_bit_of_index_and_trailer_is_noticed_behind_all_packets(path, original):
    bits = range(8 * len(BODY), 8 * len(WHOLE))
    ends = Counter(check(path, original, flipped(bit)) for bit in bits)
    assert ends == {"damage, all packets": len(bits)}


def spoil(source):
    """A copy of the file with one random damage, and the name of its kind."""
    at = source.randrange(len(WHOLE))
    until = min(len(WHOLE), at + source.randint(1, 64))
    length = until - at
    kind = source.choice(
        ["bit", "bits", "noise", "zeros", "ones", "lost", "more", "twice", "moved"]
    )
    if kind == "bit":
        return kind, flipped(source.randrange(8 * len(WHOLE)))
    if kind == "bits":
        data = bytearray(WHOLE)
        for _ in range(source.randint(2, 20)):
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        return kind, bytes(data)
    if kind == "moved":
        begin, end = sorted(source.sample(range(len(KINDS)), 2))
        frames = [*FRAMES]
        frames[begin], frames[end] = frames[end], frames[begin]
        return kind, START + b"".join(frames) + WHOLE[len(BODY) :]
    burst = {
        "noise": source.randbytes(length),
        "zeros": bytes(length),
        "ones": b"\xff" * length,
        "lost": b"",
        "more": source.randbytes(length) + WHOLE[at:until],
        "twice": WHOLE[at:until] * 2,
    }
    return kind, WHOLE[:at] + burst[kind] + WHOLE[until:]


def test_ten_thousand_random_damages_are_noticed_where_they_are(path, original):
    source = random.Random(20240607)
    kinds, ends = Counter(), Counter()
    for _ in range(10_000):
        kind, data = spoil(source)
        kinds[kind] += 1
        ends[check(path, original, data) if data != WHOLE else "unchanged"] += 1
    assert min(kinds.values()) > 1000 and len(kinds) == 9
    assert ends.keys() == ENDS
    assert ends["unchanged"] < 50, "damage is to be damage"
    assert ends["refused"] > 2000 and ends["damage, some packets"] > 4000
    assert ends["damage, all packets"] > 500


ENDS = {"unchanged", "refused", "damage, some packets", "damage, all packets"}


def test_damaged_files_are_read_from_any_frame_on_without_wrong_packets(path, original):
    source = random.Random(7)
    ends = Counter()
    for _ in range(2000):
        _, data = spoil(source)
        packets, ending = check_seek(path, original, data, source.randrange(1, 12))
        ends[ending] += 1
        if ending in ("complete", "cut"):
            assert packets[-1] == original[-1], "only damage may take packets away"
    assert ends["complete"] > 100 and ends["damage"] > 500 and ends["refused"] > 300


# ---------------------------------------------------------------------- forged packets

FORGED_PACKETS = {
    "a P frame at first": (0, packet("P", 0), "not an I frame"),
    "a number left out": (3, packet("I", 4), "out of order"),
    "a number twice": (3, packet("P", 2), "out of order"),
    "the largest number": (3, packet("I", 2**32 - 1), "out of order"),
    "an unknown kind": (3, packet("B", 3), "unknown kind 0x42"),
    "a small letter": (3, packet("i", 3), "unknown kind 0x69"),
    "unknown flags": (3, packet("P", 3, flags=4), "unknown flags 0x04"),
    "all flags": (3, packet("P", 3, b"x" * 12, flags=255), "unknown flags 0xff"),
    "a length beyond the file": (3, packet("P", 3, b"short", length=10**6), "truncated"),
    "the largest length": (3, packet("P", 3, b"short", length=2**32 - 1), "truncated"),
    "flags without their fields": (9, packet("P", 9, flags=3), "truncated"),
    "a rate of NaN": (3, packet("P", 3, flags=2, extra=b"\0\0\xc0\x7f"), "rate is nan"),
    "an infinite rate": (3, packet("P", 3, flags=2, extra=b"\0\0\x80\x7f"), "rate is inf"),
    "zeros": (3, bytes(64), "unknown kind 0x00"),
    "another file": (3, WHOLE, "unknown kind 0x89"),
    "an index that counts more": (3, index(4, INTRA[:1]), "the index counts 4 frames"),
    "an index that counts fewer": (3, index(2, INTRA[:1]), "the index counts 2 frames"),
    "an index with flags": (3, packet("X", 3, flags=1, extra=bytes(8)), "unknown flags"),
    "an index of 357913941 entries": (3, index(3, INTRA[:1], 2**32 - 4), "truncated"),
}


@pytest.mark.parametrize("name", FORGED_PACKETS)
def test_a_forged_packet_ends_the_video_before_it(name, path):
    number, forged, problem = FORGED_PACKETS[name]
    data = START + b"".join(FRAMES[:number]) + forged
    for tail in (b"", b"".join(FRAMES[number + 1 :])) if number < 9 else (b"",):
        frames, error = damage(path, data + tail)
        assert frames == list(range(number))
        assert (error.frame, error.offset) == (number, OFFSETS[number])
        assert problem in str(error)


def test_a_length_without_its_bytes_costs_no_memory(path):
    tracemalloc.start()
    try:
        for length in (2**24, 2**31, 2**32 - 1):
            damage(path, START + packet("I", 0, b"short", length=length))
            refusal(path, START[:9] + struct.pack("<I", length) + START[13:])
            attempt(path, BODY + index(len(KINDS), INTRA, length) + trailer(len(BODY)))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------- forged ends

FORGED_ENDS = {
    "an index alone": (INDEX, "truncated"),
    "half a trailer": (INDEX + trailer(len(BODY))[:10], "truncated"),
    "a trailer alone": (trailer(len(BODY)), "unknown kind"),
    "a trailer to byte 0": (INDEX + trailer(0), "not the trailer"),
    "a trailer into the header": (INDEX + trailer(len(START) - 1), "not the trailer"),
    "a trailer to a P frame": (INDEX + trailer(OFFSETS[1]), "not the trailer"),
    "a trailer to itself": (INDEX + trailer(len(BODY + INDEX)), "not the trailer"),
    "a trailer beyond the file": (INDEX + trailer(2**40), "not the trailer"),
    "a trailer to the largest offset": (INDEX + trailer(2**64 - 1), "not the trailer"),
    "a trailer with another magic": (INDEX + trailer(len(BODY), b"LVCindex"), "not the trailer"),
    "a byte too many": (WHOLE[len(BODY) :] + b"\0", "1 bytes behind"),
    "a second trailer": (WHOLE[len(BODY) :] + trailer(len(BODY)), "20 bytes behind"),
    "a second index": (INDEX + WHOLE[len(BODY) :], "not the trailer"),
    "a second file": (WHOLE[len(BODY) :] + WHOLE, "behind the end"),
    "a frame behind the end": (WHOLE[len(BODY) :] + packet("P", 10), "behind the end"),
    "half an entry": (
        packet("X", 10, INDEX[10:-10]) + trailer(len(BODY)),
        "the index ends inside an entry",
    ),
}


@pytest.mark.parametrize("name", FORGED_ENDS)
def test_an_end_that_is_not_right_is_told_behind_all_packets(name, path, original):
    end, problem = FORGED_ENDS[name]
    path.write_bytes(BODY + end)
    with Reader(path) as reader:
        assert (reader.frames, reader.complete) == (None, False)
    for first in range(len(KINDS)):
        packets, ending = check_seek(path, original, BODY + end, first)
        assert ending == "damage"
        assert packets == original[KINDS.rindex("I", 0, first + 1) :]
    frames, error = damage(path, BODY + end)
    assert frames == list(range(len(KINDS)))
    assert error.frame == len(KINDS) and error.offset >= len(BODY)
    assert problem in str(error)


LISTS = {
    "no entries": [],
    "the first frame left out": INTRA[1:],
    "the first frame elsewhere": [(0, OFFSETS[3]), (6, OFFSETS[6])],
    "a first entry that is not frame 0": [(1, OFFSETS[0]), *INTRA[1:]],
    "frames that go down": [INTRA[0], INTRA[2], INTRA[1]],
    "a frame twice": [*INTRA, INTRA[-1]],
    "a frame behind the last": [*INTRA, (10, OFFSETS[9])],
    "the largest frame": [*INTRA, (2**32 - 1, OFFSETS[9])],
    "offsets that go down": [INTRA[0], (3, OFFSETS[6]), (6, OFFSETS[3])],
    "the index itself": [*INTRA, (9, OFFSETS[10])],
    "an offset beyond the file": [*INTRA[:2], (6, 2**40)],
    "an offset beyond any file": [*INTRA[:2], (6, 2**63)],
    "the largest offset": [*INTRA[:2], (6, 2**64 - 1)],
    "an offset inside the header": [(0, 13), *INTRA[1:]],
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_cannot_be_right_is_no_index(name, path, original):
    data = BODY + index(len(KINDS), LISTS[name]) + trailer(len(BODY))
    path.write_bytes(data)
    with Reader(path) as reader:
        assert (reader.frames, reader.complete) == (None, False)
    for first in range(len(KINDS)):
        packets, ending = check_seek(path, original, data, first)
        assert (packets, ending) == (original[KINDS.rindex("I", 0, first + 1) :], "damage")
    assert "the index does not fit the file" in str(damage(path, data)[1])


WRONG_LISTS = {
    "a P frame": [INTRA[0], (4, OFFSETS[4])],
    "a byte beside": [INTRA[0], (3, OFFSETS[3] + 1), (6, OFFSETS[6] - 1)],
    "another I frame's offset": [INTRA[0], (4, OFFSETS[3]), (7, OFFSETS[6])],
    "frames too early": [INTRA[0], (1, OFFSETS[3]), (2, OFFSETS[6])],
    "frames too late": [INTRA[0], (8, OFFSETS[3]), (9, OFFSETS[6])],
    "an I frame left out": [INTRA[0], INTRA[2]],
    "only the first": INTRA[:1],
    "every byte": [(n, len(START) + n) for n in range(10)],
}


@pytest.mark.parametrize("name", WRONG_LISTS)
def test_a_list_that_contradicts_the_packets_changes_nothing(name, path, original):
    data = BODY + index(len(KINDS), WRONG_LISTS[name]) + trailer(len(BODY))
    for first in range(len(KINDS)):
        packets, ending = check_seek(path, original, data, first)
        assert (packets, ending) == (original[KINDS.rindex("I", 0, first + 1) :], "complete")


@pytest.mark.parametrize("count", [7, 9, 11, 2**31, 2**32 - 1])
def test_a_count_of_frames_that_is_not_that_of_the_packets_is_damage(count, path, original):
    data = BODY + index(count, INTRA) + trailer(len(BODY))
    for first in range(len(KINDS)):
        packets, ending = check_seek(path, original, data, first)
        assert (packets, ending) == (original[KINDS.rindex("I", 0, first + 1) :], "damage")
    assert f"counts {count} frames, not 10" in str(damage(path, data)[1])


def neutral(before, after):
    """Four bytes to stand between, with which the checksum of everything is that of nothing."""

    def crc(number):
        return google_crc32c.value(before + number.to_bytes(4, "little") + after)

    found, left, basis = 0, crc(0), []
    for bit in range(32):  # a checksum is linear: 32 equations, solved by elimination
        effect, number = crc(1 << bit) ^ left, 1 << bit
        for other, its_number in basis:
            if effect ^ other < effect:
                effect, number = effect ^ other, number ^ its_number
        basis.append((effect, number))
    for effect, number in basis:
        if left ^ effect < left:
            left, found = left ^ effect, found ^ number
    assert left == 0
    return found.to_bytes(4, "little")


def test_an_index_inside_the_last_payload_is_not_that_of_the_video(path):
    begin = len(START) + 10 + 4
    listed = index(1, [(0, len(START))])
    head = struct.pack("<BBII", ord("I"), 0, 0, 4 + len(listed) + 16)
    # With these four bytes, the trailer's checksum is the packet's as well: both are right.
    data = START + head + neutral(head, listed) + listed + trailer(begin)
    path.write_bytes(data)
    with Reader(path) as reader:
        assert reader.complete, "which is all that can be known before reading"
    frames, error = damage(path, data)
    assert frames == [0]
    assert (error.frame, error.offset) == (1, len(data))
    assert "ends inside its index" in str(error)
