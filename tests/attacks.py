"""Attacks on .lvc files: damaged and forged copies of one, and how decoding them may end.

targets.py decodes them. Used by test_hostile_decoding.py and benchmarks/hostile.py.
"""

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from lvc.container import MAGIC, Reader
from lvc.packets import CRC, ENTRY, packed, sealed, trailer

# ------------------------------------------------------------------------------ bytes


class Original:
    """A file in its parts: `header` as JSON has it, `packets`, and `ends` of header and packets."""

    def __init__(self, path):
        self.data = path.read_bytes()
        with Reader(path) as reader:
            self.packets = list(reader.packets())
            self.header = asdict(reader.header)
            for later in ("display", "arithmetic"):  # plain: such files are of version 1
                del self.header[later]
        self.start = self.data[: self.packets[0].offset]
        self.ends = [packet.offset for packet in self.packets]
        self.ends.append(self.packets[-1].offset + self.packets[-1].length)

    def whole_packets(self, length):
        """How many packets end within the first `length` bytes; -1 where not even the header."""
        return sum(end <= length for end in self.ends) - 1

    def heads(self):
        """The bytes that are no payload."""
        places = list(range(len(self.start)))
        for packet in self.packets:
            end = packet.offset + packet.length
            payload = end - CRC.size - len(packet.payload)
            places += [*range(packet.offset, payload), *range(end - CRC.size, end)]
        return places + list(range(self.ends[-1], len(self.data)))


def assembled(start, packets):
    """A file of these packets, with all checksums and the index right."""
    data, index = start, b""
    for packet in packets:
        if packet.kind == "I":
            index += ENTRY.pack(packet.frame, len(data))
        data += packed(packet.kind, packet.frame, packet.payload, packet.rate, packet.digest)
    return data + packed("X", len(packets), index) + trailer(len(data))


def header_of(fields):
    """The header's bytes, whatever its fields are."""
    record = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return sealed(MAGIC + struct.pack("<BI", 1, len(record)) + record)


def flipped(data, bits):
    wrong = bytearray(data)
    for bit in bits:
        wrong[bit // 8] ^= 1 << bit % 8
    return bytes(wrong)


# ------------------------------------------------------------------------------ attacks


@dataclass(frozen=True)
class Attack:
    """A file that is not the original: `packet` is the first that differs, -1 the header.

    `ends`: how decoding it may end. `others`: whether it may show other pictures.
    """

    name: str
    data: bytes = field(repr=False)
    packet: int
    ends: frozenset
    others: bool = False


REFUSED, DAMAGE, CUT, WHOLE = "refused", "damage", "cut", "whole"
DECODED = frozenset({DAMAGE, WHOLE})


def truncations(original, step=1) -> Iterator[Attack]:
    """The file cut at every byte."""
    for length in range(0, len(original.data), step):
        packet = original.whole_packets(length)
        end = REFUSED if packet < 0 else CUT if length in original.ends else DAMAGE
        yield Attack(f"cut at {length}", original.data[:length], packet, frozenset({end}))


def flipped_heads(original, step=1) -> Iterator[Attack]:
    """Every bit of the header, the packets' heads and checksums, the index and the trailer."""
    bits = [8 * place + bit for place in original.heads() for bit in range(8)]
    for bit in bits[::step]:
        packet = original.whole_packets(bit // 8)
        end = frozenset({REFUSED if packet < 0 else DAMAGE})
        yield Attack(f"bit {bit}", flipped(original.data, [bit]), packet, end)


def _flips(source, original):
    """A packet, and 1 to 8 different bits of its payload."""
    packet = source.choice(original.packets)
    bits = 8 * len(packet.payload)
    return packet, source.sample(range(bits), min(bits, source.randint(1, 8)))


def flipped_payloads(original, seeds) -> Iterator[Attack]:
    """1 to 8 bits of a payload flipped, the checksum as it was."""
    for seed in seeds:
        packet, bits = _flips(random.Random(seed), original)
        begin = packet.offset + packet.length - CRC.size - len(packet.payload)
        data = flipped(original.data, [8 * begin + bit for bit in bits])
        yield Attack(f"seed {seed}", data, packet.frame, frozenset({DAMAGE}))


def resealed_payloads(original, seeds, digests=True) -> Iterator[Attack]:
    """The same, with the checksum made right again; without `digests` no packet has any."""
    for seed in seeds:
        packet, bits = _flips(random.Random(seed), original)
        yield _spoilt(original, f"seed {seed}", packet, flipped(packet.payload, bits), digests)


def made_up_payloads(original, seeds, digests=False) -> Iterator[Attack]:
    """A payload of another kind in place of one: noise, zeros, ones, nothing, one of the others."""
    for seed in seeds:
        source = random.Random(seed)
        packet, other = source.choice(original.packets), source.choice(original.packets)
        words = bytes([source.randrange(24)])
        long, short = 4 * source.randrange(500), 4 * source.randrange(4)
        kind, payload = source.choice(
            [
                ("noise", words + source.randbytes(long)),
                ("a little noise", words + source.randbytes(short)),
                ("zeros", words + bytes(long)),
                ("ones", words + b"\xff" * long),
                ("nothing", b""),
                ("another packet's", other.payload),
                ("twice", packet.payload + packet.payload[1:]),
                ("half", packet.payload[: len(packet.payload) // 8 * 4 + 1]),
            ]
        )
        yield _spoilt(original, f"seed {seed}, {kind}", packet, payload, digests)


def _spoilt(original, name, packet, payload, digests):
    packets = [replace(p, payload=payload) if p is packet else p for p in original.packets]
    if not digests:
        packets = [replace(p, digest=None) for p in packets]
    data = assembled(original.start, packets)
    return Attack(name, data, packet.frame, DECODED, others=not digests)


def forged_rates(original) -> Iterator[Attack]:
    """A P frame's rate that no codec has, or none."""
    target = original.packets[1]
    for rate in (None, float("nan"), float("inf"), -float("inf"), -1.0, -1e-30, 3.5, 64.0, 3e38):
        packets = [replace(p, rate=rate) if p is target else p for p in original.packets]
        yield Attack(f"rate {rate}", assembled(original.start, packets), target.frame, DECODED)


SIDES = (0, -1, 1, 2, 17, 64, 65, 128, 4096, 16384, 65535, 2**31, 2**32, 2**63, 60.0, None, "60")
SPECS = (
    *({"codec": "hevc", "options": f"qp={value}"} for value in (999, -1, "--5", "+5", "²", "nan")),
    *({"codec": "hevc", "options": f"qp={value}"} for value in ("1e3", "", "9" * 250, "5,qp=6")),
    *(
        {"codec": "hevc", "options": text}
        for text in ("qp", "=", "=5", ",,,", "matrix=5", "qp=5=6")
    ),
    *({"codec": "hevc", "options": f"pixel_format={text}"} for text in ("rgb24", "../x", "0")),
    *({"codec": "hevc", "options": text} for text in ("range=0", "codec=h264", "self=1", "qp:5")),
    *({"codec": text} for text in ("", "av1", "hevc", "h264", "hevc:qp=999", "lossless:qp=1")),
    *({"codec": text} for text in ("/etc/passwd", "../../x.so", "file:/dev/zero", "network", "%s")),
    *({"codec": text} for text in ("network:checkpoint=/etc/passwd", "__class__", "{0}", "[red]")),
    {"codec": "dcvc_hem_intra", "weights": "0" * 64},
    {"codec": "dcvc_hem_intra", "weights": ""},
    {"codec": "dcvc_hem_intra", "preset": "x"},
    {"codec": "hevc", "weights": "hevc", "options": "qp=5"},
)


def forged_fields(original):
    """(name, header) of headers whose checksum is right and whose content is absurd."""
    fields = original.header | {"fps": list(original.header["fps"])}
    changes = [{"width": side} for side in SIDES] + [{"height": side} for side in SIDES]
    sizes = ((1, 1), (2, 2), (63, 51), (4096, 2304), (8192, 4320), (16384, 8192), (65535, 65535))
    changes += [{"width": width, "height": height} for width, height in sizes]
    most = 2**31 - 1
    rates = ([0, 0], [0, 1], [1, 0], [1, most], [most, 1], [most, most], [most, most - 1], [2, 2])
    changes += [{"fps": rate} for rate in (*rates, [2**31, 1], [-25, 1], [1], [], 25, None)]
    changes += [{"intra_period": n} for n in (0, 1, -1, most, 2**31, 2**32, 1.5, None)]
    margins = (float("nan"), float("inf"), -float("inf"), -0.1, 0.0, 1e300, 0.25, 1e-300, 0.2499)
    changes += [{"margin": margin} for margin in (*margins, 0, None, "0.1")]
    changes += [{"codec": codec} for codec in ("unknown", "", "../x", "x" * 257, "\x1b[2J", None)]
    changes += [{"preset": preset} for preset in ("unknown", "", "/etc/passwd", "x" * 257)]
    own = fields["weights"]
    changes += [{"weights": text} for text in ("0" * 64, own[::-1], own.upper(), own[:-1], "", 7)]
    changes += [{"intra": spec} for spec in SPECS]
    changes += [{"intra": {"codec": fields["codec"], "weights": own}}]
    for change in changes:
        yield ", ".join(f"{k} {str(v)[:60]!r}" for k, v in change.items()), fields | change


def forged_headers(original) -> Iterator[Attack]:
    """Files that have such a header before the original's packets.

    Another size that is rounded to the same multiples of 64 may show other parts of the frames.
    """
    size = original.header["height"], original.header["width"]
    for name, fields in forged_fields(original):
        others = (fields["height"], fields["width"]) != size
        data = assembled(header_of(fields), original.packets)
        yield Attack(name, data, -1, DECODED | {REFUSED}, others)
