"""Times, geometry and colours of video files, kept from the source to what is decoded."""

import json
import os
import struct
import threading
from fractions import Fraction

import av
import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference_fill import fill_codec

import vcodecs
from lvc.container import Header, Reader, Writer
from lvc.display import MATRICES, PLAIN, Display
from lvc.errors import UserError
from lvc.exif import orientation as orientation_of
from lvc.packets import DamageError
from lvc.video import open_sink, open_source
from prune.data import open_source as open_clips
from vcodecs import registry
from vcodecs.__main__ import main

WIDTH, HEIGHT = 64, 48
UNEVEN = [0, 4, 8, 120, 1200, 1204, 3600]
"""In 1/400 s: seven frames in nine seconds."""


def still(value=90):
    """A picture whose corners differ, so that a turn shows."""
    picture = np.full((3, HEIGHT, WIDTH), value, np.uint8)
    picture[:, : HEIGHT // 2, : WIDTH // 2] = np.array([200, 40, 40])[:, None, None]
    return picture


def write(path, times=range(5), rate=25, turn=0, mirror="", pixel_format="yuv444p", **tags):
    """A file by another program: frames at `times` of 1/400 s, or at a rate."""
    codec = {".mp4": "libx264", ".avi": "mjpeg", ".h264": "libx264"}.get(path.suffix, "ffv1")
    with av.open(str(path), "w", format="h264" if path.suffix == ".h264" else None) as container:
        stream = container.add_stream(
            codec, rate=rate, options={"crf": "1"} if "264" in codec else {}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        tick = Fraction(1, 400) if times is UNEVEN else 1 / Fraction(rate)
        stream.codec_context.time_base = tick
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if turn or mirror:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV writes no turned files")
            stream.set_display_rotation(turn, **({mirror: True} if mirror else {}))
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(still(60 + 9 * number).transpose(1, 2, 0).copy())
            frame = frame.reformat(
                format=pixel_format,
                dst_colorspace=MATRICES[tags.get("colorspace", 1)],
                dst_color_range=tags.get("color_range", 1),
            )
            frame.pts, frame.time_base = time, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown(path):
    """Seconds at which the frames of a file are shown, as another program reads it."""
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def codec():
    return fill_codec(vcodecs.create("dcvc", "tiny")).eval()


@pytest.fixture
def weights(codec, monkeypatch):
    """Named on the command line; only I frames are coded here, so it is loaded once."""
    monkeypatch.setattr(registry, "codec_of", lambda _: codec)
    return "weights"


@pytest.fixture
def through(weights, tmp_path):
    """Encode a file, I frames alone, and decode it to another kind."""

    def run(source, suffix):
        coded, target = tmp_path / "coded.lvc", tmp_path / f"decoded{suffix}"
        more = ["--weights", weights, "--intra", "lossless", "--intra-period", 1]
        assert main([str(part) for part in ("encode", source, coded, *more)]) == 0
        given = ["decode", coded, target, "--weights", weights]
        assert main([str(part) for part in given]) == 0
        return target

    return run


# ---------------------------------------------------------------------- times


@pytest.mark.parametrize(("source", "target"), [("a.mkv", ".mp4"), ("a.mp4", ".mkv")])
def test_a_file_of_no_constant_rate_keeps_its_times(source, target, through, tmp_path):
    decoded = through(write(tmp_path / source, UNEVEN), target)
    assert shown(decoded) == pytest.approx([time / 400 for time in UNEVEN], abs=0.002)


def test_times_go_on_from_a_frame_in_the_middle(through, weights, tmp_path):
    through(write(tmp_path / "a.mkv", UNEVEN), ".mkv")
    target = tmp_path / "late.mkv"
    given = ["decode", tmp_path / "coded.lvc", target, "--weights", weights, "--start", 3]
    assert main([str(part) for part in given]) == 0
    assert shown(target) == pytest.approx([(t - 120) / 400 for t in UNEVEN[3:]], abs=0.002)


@pytest.mark.parametrize("target", [".y4m", ""])
def test_a_kind_without_times_says_so_in_one_line(target, through, tmp_path, caplog):
    through(write(tmp_path / "a.mkv", UNEVEN), target)
    (said,) = caplog.messages
    assert "no place for presentation times" in said


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), Fraction(24000, 1001), 60])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_a_constant_rate_is_found_by_both_readers_and_takes_no_bytes(name, rate, tmp_path):
    pixel_format = "yuvj420p" if name == "a.avi" else "yuv444p"
    path = write(tmp_path / name, range(40), rate, pixel_format=pixel_format)
    with open_source(path) as source:
        assert (source.fps, source.frames, source.display.time_base) == (rate, 40, None)
    assert open_clips(path).info(0).fps == float(rate)


def test_a_rate_that_is_only_guessed_is_guessed_alike(tmp_path):
    path = write(tmp_path / "a.h264", range(33), 50, pixel_format="yuv420p")
    with open_source(path) as source:
        assert open_clips(path).info(0).fps == float(source.fps)


def test_info_counts_the_rate_by_the_time_that_the_frames_take(through, tmp_path, capsys):
    through(write(tmp_path / "a.mkv", UNEVEN), ".mkv")
    capsys.readouterr()
    assert main(["info", str(tmp_path / "coded.lvc")]) == 0
    assert "length:   10.50 s" in capsys.readouterr().out  # 9 seconds, and the last frame's own


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.y4m")
    with open_sink(tmp_path / "a.y4m", WIDTH, HEIGHT, 24) as sink:
        for value in range(4):
            sink.write(still(value))
    data = (tmp_path / "a.y4m").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe.y4m").write_bytes, args=(data,))
    writer.start()
    with open_source(tmp_path / "pipe.y4m") as source:
        assert source.fps == 24 and len(list(source)) == 4
    writer.join()


# ---------------------------------------------------------------------- geometry


def corner(picture):
    """Which corner of a picture is the red one, by row and column."""
    red = picture[0].astype(int) - picture[1]
    rows, columns = np.nonzero(red > 80)
    return int(rows.mean() > picture.shape[1] / 2), int(columns.mean() > picture.shape[2] / 2)


@pytest.mark.parametrize(
    ("turn", "size", "red"),
    [
        (90, (WIDTH, HEIGHT), (1, 0)),
        (-90, (WIDTH, HEIGHT), (0, 1)),
        (180, (HEIGHT, WIDTH), (1, 1)),
    ],
)
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_both_readers_show_pictures_upright(name, turn, size, red, tmp_path):
    path = write(tmp_path / name, turn=turn)
    with open_source(path) as source:
        picture = next(iter(source))
        assert (source.height, source.width) == size == picture.shape[1:]
    clips = open_clips(path)
    assert (clips.info(0).height, clips.info(0).width) == size
    assert np.array_equal(clips.read(0, 0, 1)[0], picture)
    assert corner(picture) == red


def test_a_turn_by_other_angles_is_not_carried_out_and_said(tmp_path, caplog):
    with open_source(write(tmp_path / "a.mkv", turn=30)) as source:
        assert (source.width, source.height) == (WIDTH, HEIGHT)
    (said,) = caplog.messages
    assert "not turned by 30 degrees" in said


MIRRORED = {"hflip": (0, 1), "vflip": (1, 0)}


@pytest.mark.parametrize("flip", MIRRORED)
def test_both_readers_mirror_what_is_mirrored(flip, tmp_path):
    path = write(tmp_path / "a.mp4", mirror=flip)
    with open_source(path) as source:
        picture = next(iter(source))
    assert corner(picture) == corner(open_clips(path).read(0, 0, 1)[0]) == MIRRORED[flip]


CORNERS = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)]
"""Of a red upper left corner, by the orientations of Exif from 1 on."""


@pytest.mark.parametrize(("orientation", "red"), [*enumerate(CORNERS, 1)])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_photographs_are_shown_as_their_exif_says(suffix, orientation, red, tmp_path):
    image = Image.fromarray(still().transpose(1, 2, 0))
    exif = image.getexif()
    exif[0x112] = orientation
    (tmp_path / "photos").mkdir()
    image.save(tmp_path / "photos" / f"1{suffix}", exif=exif, quality=95)
    with open_source(tmp_path / "photos") as source:
        picture = next(iter(source))
    stills = open_clips({"path": tmp_path / "photos", "kind": "frames"})
    assert corner(picture) == corner(stills.read(0)[0]) == red
    assert (stills.info(0).height, stills.info(0).width) == picture.shape[1:]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    record=st.binary(max_size=60),
    start=st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\xff\xff"]),
)
def test_no_exif_breaks_its_reader(record, start):
    record = b"Exif\0\0" + start + record
    for data in (
        b"\xff\xd8\xff\xe1" + struct.pack(">H", len(record) + 2) + record,
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", len(record) - 6, b"eXIf") + record[6:],
        record,
    ):
        assert 1 <= orientation_of(data) <= 8


def test_the_aspect_of_pixels_is_kept(through, tmp_path):
    path = write(tmp_path / "a.mp4", sample_aspect_ratio=Fraction(16, 11))
    with av.open(str(through(path, ".mp4"))) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_a_turned_file_has_its_aspect_turned(tmp_path):
    path = write(tmp_path / "a.mp4", turn=90, sample_aspect_ratio=Fraction(16, 11))
    with open_source(path) as source:
        assert source.display.aspect == (11, 16)


def test_a_kind_without_aspect_says_so(through, tmp_path, caplog):
    through(write(tmp_path / "a.mp4", sample_aspect_ratio=Fraction(16, 11)), ".mkv")
    (said,) = caplog.messages
    assert ".mkv has no place for the pixels' aspect of 16:11" in said


# ---------------------------------------------------------------------- colours

TAGS = {"colorspace": 9, "color_range": 2, "color_primaries": 9, "color_trc": 16}


def test_colour_tags_are_given_back_and_colours_stay(through, tmp_path):
    path = write(tmp_path / "a.mp4", **TAGS)
    decoded = through(path, ".mp4")
    with av.open(str(decoded)) as container:
        context = container.streams.video[0].codec_context
        assert {name: getattr(context, name) for name in TAGS} == TAGS
    with open_source(path) as one, open_source(decoded) as other:
        before, after = next(iter(one)).astype(int), next(iter(other))
    assert np.abs(before - after)[:, :20, :28].max() <= 4


def test_full_range_is_given_back_by_y4m(through, tmp_path):
    decoded = through(write(tmp_path / "a.mkv", color_range=2), ".y4m")
    assert b"COLORRANGE=FULL" in decoded.read_bytes()[:200]
    with open_source(decoded) as source:
        assert np.abs(next(iter(source))[:, 9, 9].astype(int) - (200, 40, 40)).max() <= 4


def test_training_reads_the_colours_that_a_file_states(tmp_path):
    path = write(tmp_path / "a.mkv", color_range=2, colorspace=5)
    with open_source(path) as source:
        assert np.array_equal(np.stack(list(source)), open_clips(path).read(0))


def test_a_recipe_that_says_otherwise_counts_and_is_told(tmp_path, caplog):
    path = write(tmp_path / "a.mkv", color_range=2)
    clip = open_clips({"path": path, "range": "limited"}).read(0)
    assert not np.array_equal(clip, open_clips(path).read(0))
    (said,) = caplog.messages
    assert "1 of 1 files, such as a.mkv, state other colours than the source's `range: lim" in said


def test_a_recipe_that_says_the_same_is_no_matter(tmp_path, caplog):
    path = write(tmp_path / "a.mkv", color_range=2)
    assert len(open_clips({"path": path, "range": "full", "matrix": "bt601"})) == 1
    assert caplog.messages == []


# ---------------------------------------------------------------------- the container

HEADER = {
    "codec": "dcvc",
    "preset": "tiny",
    "weights": "0" * 64,
    "width": WIDTH,
    "height": HEIGHT,
    "fps": (25, 1),
    "intra_period": 3,
    "intra": {"codec": "lossless"},
    "margin": 0.001,
}
displays = st.builds(
    Display,
    time_base=st.none() | st.tuples(st.integers(1, 999), st.integers(1000, 2**31 - 1)),
    aspect=st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)),
    primaries=st.integers(4, 255),
    transfer=st.integers(4, 255),
    matrix=st.sampled_from(sorted(MATRICES)),
    full_range=st.booleans(),
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(display=displays, times=st.sets(st.integers(0, 2**31), min_size=1, max_size=9))
def test_what_is_written_of_a_display_is_read(display, times, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "display.lvc"
    timed = sorted(times) if display.time_base else [None] * len(times)
    with Writer(path, Header(**HEADER, display=display)) as writer:
        lengths = [writer.write("I", b"x", digest=7, time=time) for time in timed]
    with Reader(path) as reader:
        packets = list(reader.packets())
        assert reader.header.display == display and reader.complete
    assert [packet.time for packet in packets] == timed
    assert [packet.length for packet in packets] == lengths


def test_a_plain_video_is_written_for_players_of_version_1(tmp_path):
    with Writer(tmp_path / "a.lvc", Header(**HEADER)) as writer:
        writer.write("I", b"x")
    assert (tmp_path / "a.lvc").read_bytes()[8] == 1
    with Reader(tmp_path / "a.lvc") as reader:
        assert reader.header.display == PLAIN


def test_times_have_to_rise_when_they_are_written(tmp_path):
    with Writer(tmp_path / "a.lvc", Header(**HEADER, display=Display((1, 90)))) as writer:
        writer.write("I", b"x", time=3)
        for time in (3, 2, None, 2**40):
            with pytest.raises(ValueError, match="time"):
                writer.write("P", b"x", time=time)


def sealed(data):
    return data + struct.pack("<I", google_crc32c.value(data))


def forged(path, display, packets=(), version=2):
    """A file by docs/bitstream.md and not by `lvc.container`; packets as (flags, extra)."""
    fields = HEADER | {"fps": [25, 1]} | ({} if display is None else {"display": display})
    record = json.dumps(fields).encode()
    data = sealed(b"\x89LVC\r\n\x1a\n" + struct.pack("<BI", version, len(record)) + record)
    for frame, (flags, extra) in enumerate(packets):
        data += sealed(struct.pack("<BBII", ord("I"), flags, frame, 0) + extra)
    path.write_bytes(data)
    return path


GOOD = {
    "time_base": [1, 90],
    "aspect": [16, 11],
    "primaries": 9,
    "transfer": 16,
    "matrix": 9,
    "full_range": True,
}


def test_a_file_by_the_document_is_read(tmp_path):
    packets = [(4, struct.pack("<Q", 5)), (5, struct.pack("<QQ", 1, 9))]
    with Reader(forged(tmp_path / "a.lvc", GOOD, packets)) as reader:
        assert reader.header.display == Display((1, 90), (16, 11), 9, 16, 9, True)
        assert [(p.time, p.digest) for p in reader.packets()] == [(5, None), (9, 1)]


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"time_base": value}
            for value in ([2, 1], [1], [0, 1], [1, 2**31], 1, "1/90", [1.0, 90])
        ),
        *({"aspect": value} for value in (None, [0, 1], [1, 0], [1, 2**31], [True, 1])),
        *({"primaries": value} for value in (0, 3, 256, -1, True, None, "9")),
        {"transfer": 3},
        *({"matrix": value} for value in (0, 3, 8, 10, 256, None)),
        *({"full_range": value} for value in (1, None, "full")),
        {"rotation": 90},
    ],
    ids=str,
)
def test_a_display_that_the_document_does_not_allow_is_refused(wrong, tmp_path):
    with pytest.raises(UserError, match="header: display: ") as caught:
        Reader(forged(tmp_path / "a.lvc", GOOD | wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("display", "version"), [(None, 2), ([], 2), (3, 2), (GOOD, 1)])
def test_a_display_belongs_to_version_2(display, version, tmp_path):
    with pytest.raises(UserError, match=r"header: .*display"):
        Reader(forged(tmp_path / "a.lvc", display, version=version))


FIVE = (4, struct.pack("<Q", 5))


@pytest.mark.parametrize(
    ("display", "packets", "said"),
    [
        (GOOD, [FIVE, FIVE], "its time 5 is not behind 5"),
        (GOOD, [FIVE, (4, struct.pack("<Q", 4))], "its time 4 is not behind 5"),
        (GOOD, [FIVE, (0, b"")], "it has no time"),
        (
            GOOD,
            [FIVE, (4, struct.pack("<Q", 2**64 - 1))],
            "its time 18446744073709551615 is 68 years away",
        ),
        (GOOD | {"time_base": None}, [(0, b""), FIVE], "unknown flags 0x04"),
        (GOOD, [FIVE, (12, struct.pack("<Q", 9))], "unknown flags 0x0c"),
    ],
)
def test_a_time_that_cannot_be_ends_the_video_there(display, packets, said, tmp_path):
    with Reader(forged(tmp_path / "a.lvc", display, packets)) as reader:
        frames = reader.packets()
        next(frames)
        with pytest.raises(DamageError, match="packet 1: " + said):
            next(frames)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(display=displays, seconds=st.integers(1, 2**31 - 2))
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".y4m"])
def test_no_display_of_a_stranger_breaks_what_is_written(
    suffix, display, seconds, tmp_path_factory
):
    """It is written, or one line says that it cannot be; then there is no file."""
    path = tmp_path_factory.getbasetemp() / f"stranger{suffix}"
    path.unlink(missing_ok=True)
    base = display.time_base
    times = [0, seconds * base[1] // base[0]] if base else [None, None]
    try:
        with open_sink(path, WIDTH, HEIGHT, 25, display) as sink:
            for time in times:
                sink.write(still(), time)
    except UserError as error:
        assert "\n" not in str(error) and not path.exists()
    else:
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 2


# ---------------------------------------------------------------------- what encode says


def test_a_stream_without_a_count_of_frames_is_counted(weights, tmp_path, capsys):
    source = write(tmp_path / "a.h264", range(33), pixel_format="yuv420p")
    more = ["--weights", weights, "--intra", "lossless", "--intra-period", 1]
    assert main([str(p) for p in ("encode", source, tmp_path / "a.lvc", *more)]) == 0
    said = capsys.readouterr().err
    assert "33/33 frames" in said
    assert main(["info", str(tmp_path / "a.lvc")]) == 0
    rate = capsys.readouterr().out.partition("rate:")[2].split()[0]
    assert f"  {rate} bpp" in said, "what encode prints is what info counts"


def test_a_total_that_is_too_small_is_not_shown():
    from lvc.decode import FrameProgress

    progress = FrameProgress(2)
    for _ in range(2):
        progress.step(8, 64)
    assert str(progress).startswith("[========================] 2/2 frames")
    progress.step(8, 64)
    assert str(progress).startswith("3 frames")
