"""The .lvc container keeps header and packets as they were, from any frame on, in little memory."""

import errno
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lvc
from lvc import container
from lvc.container import Header, Reader, Writer
from lvc.errors import UserError

HEADER = Header(
    codec="dcvc_hem",
    preset="small",
    weights=hashlib.sha256(b"weights").hexdigest(),
    width=1920,
    height=1080,
    fps=(30000, 1001),
    intra_period=32,
    intra={"codec": "hevc", "options": "qp=22"},
    margin=1e-3,
)


def write(path, frames, header=HEADER):
    """A complete file of (kind, payload, rate, digest)."""
    with Writer(path, header) as writer:
        for frame in frames:
            writer.write(*frame)
    return path


def plain(kinds):
    """Frames of these kinds with payloads that tell them apart."""
    return [(kind, f"frame {n}".encode(), None, None) for n, kind in enumerate(kinds)]


def content(packets):
    return [(p.kind, p.payload, p.rate, p.digest) for p in packets]


def read(path, start=0):
    with Reader(path) as reader:
        return list(reader.packets(start))


def without_index(path):
    """Take the index and the trailer off a file, as if its writer had been killed."""
    with path.open("rb+") as file:
        file.seek(-20, os.SEEK_END)
        file.truncate(struct.unpack("<Q", file.read(8))[0])
    return path


# ---------------------------------------------------------------------- round trip

texts = st.text(st.characters(codec="utf-8"), max_size=20).filter(str.isprintable)
counts = st.integers(1, 2**31 - 1)
headers = st.builds(
    Header,
    codec=texts,
    preset=texts,
    weights=st.binary(min_size=32, max_size=32).map(bytes.hex),
    width=st.integers(1, 16384),
    height=st.integers(1, 8192),
    fps=st.tuples(counts, counts),
    intra_period=counts,
    intra=st.dictionaries(texts, texts, max_size=4).map(lambda intra: {"codec": "hevc"} | intra),
    margin=st.floats(0, 0.25, exclude_min=True, exclude_max=True),
)
packets = st.tuples(
    st.sampled_from("IP"),
    st.binary(max_size=50),
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.none() | st.integers(0, 2**64 - 1),
)
videos = st.lists(packets, max_size=12).map(
    lambda video: [("I", *video[0][1:]), *video[1:]] if video else []
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(header=headers, video=videos)
def test_what_is_written_is_what_is_read(header, video, tmp_path_factory):
    path = write(tmp_path_factory.getbasetemp() / "round_trip.lvc", video, header)
    with Reader(path) as reader:
        assert reader.header == header
        assert (reader.frames, reader.complete) == (len(video), True)
        found = list(reader.packets())
    assert content(found) == video
    assert [packet.frame for packet in found] == list(range(len(video)))


def test_a_packet_says_at_which_byte_it_begins(tmp_path):
    path = write(tmp_path / "video.lvc", plain("IPP"))
    data = path.read_bytes()
    for packet in read(path):
        assert data[packet.offset :].startswith(packet.kind.encode() + b"\0")
        assert data[packet.offset + 10 :].startswith(packet.payload)


def test_the_rate_is_what_single_precision_makes_of_it(tmp_path):
    [packet] = read(write(tmp_path / "video.lvc", [("I", b"", 0.1, None)]))
    assert packet.rate == struct.unpack("<f", struct.pack("<f", 0.1))[0] != 0.1


def test_equal_content_gives_equal_bytes(tmp_path):
    turned = replace(HEADER, intra=dict(reversed(HEADER.intra.items())))
    one = write(tmp_path / "one.lvc", plain("IPI"))
    other = write(tmp_path / "other.lvc", plain("IPI"), turned)
    assert one.read_bytes() == other.read_bytes()


def test_headers_and_packets_cannot_be_changed(tmp_path):
    with pytest.raises(FrozenInstanceError):
        HEADER.width = 1
    [packet] = read(write(tmp_path / "video.lvc", plain("I")))
    with pytest.raises(FrozenInstanceError):
        packet.frame = 1


# ---------------------------------------------------------------------- seeking


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kinds", ["I", "IPPPIPPPIPP", "IIIIII", "IPPPPPP", "IPPIIPIPPPPI"])
def test_reading_begins_with_the_last_i_frame_at_or_before_the_start(kinds, index, tmp_path):
    path = write(tmp_path / "video.lvc", plain(kinds))
    if not index:
        without_index(path)
    everything = read(path)
    assert len(everything) == len(kinds)
    for start in range(len(kinds)):
        assert read(path, start) == everything[kinds.rindex("I", 0, start + 1) :]


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("start", [6, 2**32, 2**70])
def test_a_start_behind_the_end_gives_the_last_i_frame_and_what_follows(start, index, tmp_path):
    path = write(tmp_path / "video.lvc", plain("IPPIPP"))
    if not index:
        without_index(path)
    assert [packet.frame for packet in read(path, start)] == [3, 4, 5]


def test_the_index_spares_reading_what_lies_before(tmp_path):
    path = write(tmp_path / "video.lvc", plain("IPPIPPIPP"))
    data = bytearray(path.read_bytes())
    data[read(path)[1].offset + 12] ^= 1
    path.write_bytes(data)
    assert [packet.frame for packet in read(path, 7)] == [6, 7, 8]


def test_two_iterators_of_one_reader_do_not_disturb_each_other(tmp_path):
    path = write(tmp_path / "video.lvc", plain("IPPIPP"))
    with Reader(path) as reader:
        pairs = list(zip(reader.packets(), reader.packets(3), strict=False))
    assert [(a.frame, b.frame) for a, b in pairs] == [(0, 3), (1, 4), (2, 5)]


def test_frames_before_the_first_are_refused(tmp_path):
    path = write(tmp_path / "video.lvc", plain("I"))
    with pytest.raises(ValueError, match="count from 0"):
        read(path, -1)


# ---------------------------------------------------------------------- without an end


def test_a_file_without_an_index_has_all_its_packets_and_says_that_it_is_not_complete(tmp_path):
    path = write(tmp_path / "video.lvc", plain("IPPIP"))
    before = read(path)
    with Reader(without_index(path)) as reader:
        assert (reader.frames, reader.complete) == (None, False)
        assert list(reader.packets()) == before


def test_a_file_can_be_read_while_it_is_written(tmp_path):
    path = tmp_path / "video.lvc"
    with Writer(path, HEADER) as writer:
        assert read(path) == []
        for count in range(1, 5):
            writer.write("I", bytes(count))
            assert [len(packet.payload) for packet in read(path)] == list(range(1, count + 1))


class Crash(BaseException):
    """Stands for anything that can end a block: an error, Ctrl-C."""


def test_a_block_that_fails_leaves_whole_packets_and_no_index(tmp_path):
    path = tmp_path / "video.lvc"
    with pytest.raises(Crash), Writer(path, HEADER) as writer:
        writer.write("I", b"first")
        writer.write("P", b"second")
        raise Crash
    whole = without_index(write(tmp_path / "whole.lvc", [("I", b"first"), ("P", b"second")]))
    assert path.read_bytes() == whole.read_bytes()


def test_a_process_that_is_killed_leaves_its_packets_behind(tmp_path):
    path = tmp_path / "video.lvc"
    program = f"""if True:
        import os, signal
        from lvc.container import Header, Writer
        with Writer({str(path)!r}, {HEADER!r}) as writer:
            for number in range(5):
                writer.write("I", b"frame %d" % number)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(lvc.__file__).parents[1]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root)
    assert ended.returncode == -signal.SIGKILL
    with Reader(path) as reader:
        assert not reader.complete
        assert content(reader.packets()) == plain("IIIII")


class Interrupted(io.FileIO):
    """A file whose write number `at` (the header is 0) ends halfway with `error`."""

    at, error, written = 0, Crash(), 0

    def write(self, data):
        self.written += 1
        if self.written <= self.at:
            return super().write(data)
        super().write(data[: len(data) // 2])
        raise self.error


def interrupt(monkeypatch, at, error):
    monkeypatch.setattr(Interrupted, "at", at)
    monkeypatch.setattr(Interrupted, "error", error)
    monkeypatch.setattr(container, "open", lambda path, *_, **__: Interrupted(path, "w"), False)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_write_that_is_interrupted_takes_back_its_half_packet(at, tmp_path, monkeypatch):
    interrupt(monkeypatch, at, KeyboardInterrupt())
    path = tmp_path / "video.lvc"
    with pytest.raises(KeyboardInterrupt), Writer(path, HEADER) as writer:
        for frame in plain("IPP"):
            writer.write(*frame)
    with Reader(path) as reader:
        assert not reader.complete
        assert content(reader.packets()) == plain("IPP")[: at - 1]


def test_behind_an_interrupted_write_nothing_more_is_written(tmp_path, monkeypatch):
    interrupt(monkeypatch, 2, KeyboardInterrupt())
    path = tmp_path / "video.lvc"
    with Writer(path, HEADER) as writer:
        writer.write("I", b"whole")
        with pytest.raises(KeyboardInterrupt):
            writer.write("P", b"half")
        with pytest.raises(ValueError, match="closed"):
            writer.write("P", b"another")
    assert content(read(path)) == [("I", b"whole", None, None)]


def test_a_full_disk_is_an_error_for_the_user_and_leaves_whole_packets(tmp_path, monkeypatch):
    interrupt(monkeypatch, 2, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    path = tmp_path / "video.lvc"
    with pytest.raises(UserError) as caught, Writer(path, HEADER) as writer:
        for frame in plain("IPP"):
            writer.write(*frame)
    assert str(caught.value) == f"{path}: {os.strerror(errno.ENOSPC)}"
    assert content(read(path)) == plain("I")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_device_is_an_error_for_the_user():
    with pytest.raises(UserError, match=r"/dev/full: No space left"):
        Writer("/dev/full", HEADER)


def test_a_system_that_writes_a_few_bytes_at_a_time_gets_the_same_file(tmp_path, monkeypatch):
    class Slow(io.FileIO):
        def write(self, data):
            return super().write(data[:7])

    whole = write(tmp_path / "whole.lvc", plain("IPPI"))
    monkeypatch.setattr(container, "open", lambda path, *_, **__: Slow(path, "w"), raising=False)
    slow = write(tmp_path / "slow.lvc", plain("IPPI"))
    assert slow.read_bytes() == whole.read_bytes()


# ---------------------------------------------------------------------- writing


def test_an_old_longer_file_is_replaced(tmp_path):
    path = tmp_path / "video.lvc"
    path.write_bytes(bytes(100_000))
    assert content(read(write(path, plain("IP")))) == plain("IP")


def test_closing_twice_changes_nothing(tmp_path):
    path = tmp_path / "video.lvc"
    with Writer(path, HEADER) as writer:
        writer.write("I", b"data")
        writer.close()
        once = path.read_bytes()
        writer.close()
    assert path.read_bytes() == once


def test_a_video_without_frames_is_complete(tmp_path):
    with Reader(write(tmp_path / "video.lvc", [])) as reader:
        assert (reader.frames, reader.complete, list(reader.packets())) == (0, True, [])


@pytest.mark.parametrize("place", ["folder", "missing/video.lvc", "file/video.lvc"])
def test_a_place_that_cannot_be_written_is_an_error_for_the_user(place, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError) as caught:
        Writer(tmp_path / place, HEADER)
    assert str(caught.value).startswith(f"{tmp_path / place}: ")


@pytest.mark.parametrize(
    "frame", [("P", b""), ("X", b""), ("", b""), ("IP", b""), (None, b""), ("i", b"")]
)
def test_a_video_begins_with_an_i_frame_and_has_no_other_kinds(frame, tmp_path):
    with Writer(tmp_path / "video.lvc", HEADER) as writer, pytest.raises(ValueError, match="kind"):
        writer.write(*frame)
    assert read(tmp_path / "video.lvc") == []


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -float("inf"), 1e39, -1e300])
def test_a_rate_that_single_precision_does_not_hold_is_refused(rate, tmp_path):
    with Writer(tmp_path / "video.lvc", HEADER) as writer, pytest.raises(ValueError, match="rate"):
        writer.write("I", b"", rate=rate)
    assert read(tmp_path / "video.lvc") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": "x" * 257},
        {"preset": "two\nlines"},
        {"weights": "abc"},
        {"width": 0},
        {"height": 16385},
        {"width": True},
        {"width": 64.0},
        {"width": 16384, "height": 16384},
        {"fps": (25, 0)},
        {"fps": (25,)},
        {"intra_period": 2**31},
        {"intra": {}},
        {"intra": {"codec": "hevc", "qp": 22}},
        {"intra": {"codec": "hevc"} | {f"{n:0250}": "x" * 250 for n in range(200)}},
        {"margin": 0.0},
        {"margin": float("nan")},
    ],
)
def test_a_header_that_no_reader_would_take_is_not_written(wrong, tmp_path):
    path = tmp_path / "video.lvc"
    with pytest.raises(UserError) as caught:
        Writer(path, replace(HEADER, **wrong))
    assert str(caught.value).startswith(f"{path}: header: ")
    assert not path.exists()


# ---------------------------------------------------------------------- memory


def test_neither_writing_nor_reading_needs_memory_for_more_than_a_few_packets(tmp_path):
    path, payload = tmp_path / "video.lvc", bytes(100_000)
    tracemalloc.start()
    try:
        with Writer(path, HEADER) as writer:
            for _ in range(200):
                writer.write("I", payload)
        assert path.stat().st_size > 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        for index in (True, False):
            tracemalloc.reset_peak()
            with Reader(path if index else without_index(path)) as reader:
                assert sum(1 for _ in reader.packets()) == 200
                assert next(reader.packets(150)).frame == 150
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_a_writer_keeps_for_the_index_is_a_few_bytes_an_i_frame(tmp_path):
    with Writer(tmp_path / "video.lvc", HEADER) as writer:
        writer.write("I", b"")
        tracemalloc.start()
        try:
            for number in range(1, 5000):
                writer.write("I" if number % 2 else "P", b"")
            assert tracemalloc.get_traced_memory()[0] < 20 * 2500
        finally:
            tracemalloc.stop()
