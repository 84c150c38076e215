"""Videos go in and out picture by picture, in the right colours; damage is named, not shown."""

import subprocess
import sys
import tracemalloc
import wave
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest
from PIL import Image

from lvc.anchor import Colour
from lvc.errors import UserError
from lvc.intra import create_pictures
from lvc.video import open_sink, open_source

SIZES = [(64, 48), (33, 17)]
KINDS = ["clip.mkv", "clip.mp4", "clip.y4m", "clip"]


def moving(width=64, height=48, count=5):
    """Smooth colourful pictures, each unlike the others: uint8 (3, H, W)."""
    y, x = np.mgrid[:height, :width]
    for t in range(count):
        waves = [np.sin((x + 3 * t) / 9 + c) * np.cos(y / 7 + c * t) for c in range(3)]
        yield (127.5 + 100 * np.stack(waves)).round().astype(np.uint8)


def noise(width, height, count, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (3, height, width), np.uint8) for _ in range(count)]


def write(path, pictures, fps=25):
    pictures = list(pictures)
    height, width = pictures[0].shape[1:]
    with open_sink(path, width, height, fps) as sink:
        for picture in pictures:
            sink.write(picture)
    return path


def read(path, **options):
    with open_source(path, **options) as source:
        return list(source)


def psnr(a, b):
    error = np.mean((np.asarray(a, float) - np.asarray(b)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def save(path, picture, mode="RGB"):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture.transpose(1, 2, 0)).convert(mode).save(path)


def encode(path, frames, codec="ffv1", **tags):
    """A file by another program: frames as they are, with these colour tags or none."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = frames[0].format.name
        for key, value in tags.items():
            setattr(stream.codec_context, key, value)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# Out and in again


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["clip.mkv", "clip"])
def test_lossless_kinds_give_the_same_pictures_bit_for_bit(tmp_path, name, width, height):
    pictures = noise(width, height, 4)
    back = read(write(tmp_path / name, pictures))
    assert len(back) == 4 and all(map(np.array_equal, back, pictures))
    assert back[0].dtype == np.uint8 and back[0].flags.c_contiguous


@pytest.mark.parametrize(("width", "height"), [*SIZES, (1, 1)])
@pytest.mark.parametrize(("name", "least"), [("clip.y4m", 48), ("clip.mp4", 37)])
def test_the_other_kinds_come_close_at_any_size(tmp_path, name, least, width, height):
    pictures = list(moving(width, height))
    back = read(write(tmp_path / name, pictures))
    assert np.shape(back) == np.shape(pictures)
    assert psnr(back, pictures) > least


def test_mp4_is_the_format_of_every_player_unless_a_side_is_odd(tmp_path):
    for size, expected in (((64, 48), "yuv420p"), ((33, 17), "yuv444p")):
        path = write(tmp_path / "clip.mp4", moving(*size))
        with av.open(str(path)) as container:
            assert container.streams.video[0].pix_fmt == expected


def test_mp4_says_where_its_chroma_lies(tmp_path):
    """Half a chroma sample aside, coarse colours would be off by much more than coding does."""
    coarse = [np.kron(x, np.ones((1, 4, 4), np.uint8)) for x in noise(16, 12, 3)]
    back = read(write(tmp_path / "clip.mp4", coarse))
    converted = [Colour().to_rgb(Colour().to_yuv(picture)) for picture in coarse]
    assert psnr(back, converted) > 36


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15, 2)])
@pytest.mark.parametrize("name", KINDS[:3])
def test_the_frame_rate_is_kept(tmp_path, name, fps):
    with open_source(write(tmp_path / name, moving(), fps)) as source:
        assert source.fps == fps


@pytest.mark.parametrize("name", KINDS)
def test_a_source_knows_its_size_and_about_its_length(tmp_path, name):
    with open_source(write(tmp_path / name, moving(count=7))) as source:
        assert (source.width, source.height, source.frames) == (64, 48, 7)


def test_a_frame_rate_that_is_given_counts_more_than_the_file_s(tmp_path):
    with open_source(write(tmp_path / "clip.mkv", moving(), 25), fps=59.94) as source:
        assert source.fps == Fraction(2997, 50)


def test_a_path_may_be_a_string_with_any_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a:%03d [b].mkv", "c:%d [d]/"):
        assert all(map(np.array_equal, read(write(path, moving())), moving()))


# Folders of pictures


def test_pictures_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    pictures = noise(8, 8, 12)
    for number, picture in enumerate(pictures):
        save(tmp_path / f"take2_{number}.png", picture)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".take2_0.png.part").write_text("nor this")
    (tmp_path / "._take2_1.png").write_text("nor this")
    assert all(map(np.array_equal, read(tmp_path), pictures))


def test_a_folder_has_30_pictures_a_second_unless_told_otherwise(tmp_path):
    write(tmp_path / "clip", moving())
    assert open_source(tmp_path / "clip").fps == 30
    assert open_source(tmp_path / "clip", fps=Fraction(24000, 1001)).fps == Fraction(24000, 1001)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_pngs_of_every_kind_are_read(tmp_path, mode):
    (picture,) = moving(count=1)
    save(tmp_path / "0.png", picture, mode)
    expected = Image.open(tmp_path / "0.png").convert("RGB")
    assert np.array_equal(read(tmp_path)[0], np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpegs_are_of_full_range(tmp_path, mode):
    (picture,) = moving(count=1)
    save(tmp_path / "0.JPG", picture, mode)
    expected = Image.open(tmp_path / "0.JPG").convert("RGB")
    assert psnr(read(tmp_path)[0], np.asarray(expected).transpose(2, 0, 1)) > 38


def test_written_pictures_have_five_digits_from_zero_on(tmp_path):
    write(tmp_path / "new" / "folder", moving(count=2))
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["00000.png", "00001.png"]


@pytest.mark.parametrize("name", ["there.is.a.dot/", "there"])
def test_a_slash_or_an_empty_folder_asks_for_pictures(tmp_path, name):
    (tmp_path / "there").mkdir()
    write(f"{tmp_path}/{name}", moving(count=2))
    assert len(list((tmp_path / name).glob("*.png"))) == 2


# Colours


@pytest.mark.parametrize(
    ("colour", "tags"),
    [
        (Colour("bt709", "limited", "yuv444p"), {"colorspace": 1, "color_range": 1}),
        (Colour("bt709", "full", "yuv444p"), {"colorspace": 1, "color_range": 2}),
        (Colour("bt601", "limited", "yuv444p"), {"colorspace": 5, "color_range": 1}),
        (Colour("bt601", "full", "yuv444p"), {"colorspace": 6, "color_range": 2}),
        (Colour("bt709", "limited", "yuv444p"), {}),
    ],
)
def test_colours_are_those_that_the_file_states_or_bt709_limited(tmp_path, colour, tags):
    pictures = list(moving())
    frames = [bare(colour.to_yuv(picture)) for picture in pictures]
    back = read(encode(tmp_path / "clip.mkv", frames, **tags))
    assert psnr(back, pictures) > 45


def bare(frame):
    """The same samples without a word on their colours."""
    return av.VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name)


def test_a_matrix_that_cannot_be_converted_is_refused(tmp_path):
    frames = [bare(Colour(pixel_format="yuv444p").to_yuv(picture)) for picture in moving()]
    path = encode(tmp_path / "clip.mkv", frames, colorspace=8, color_range=2)
    with pytest.raises(UserError, match=r"clip\.mkv has a colour matrix \(number 8\)"):
        open_source(path)


@pytest.mark.parametrize("name", ["clip.y4m", "clip.mp4"])
def test_what_is_written_states_limited_range(tmp_path, name):
    path = write(tmp_path / name, moving())
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert int(frame.color_range) == 1
    assert int(frame.colorspace) == (1 if name == "clip.mp4" else 2)  # Y4M knows no matrices


# Raw files


def test_a_raw_file_needs_its_size(tmp_path):
    pictures = list(moving())
    raw = b"".join(Colour().to_yuv(picture).to_ndarray().tobytes() for picture in pictures)
    (tmp_path / "clip.yuv").write_bytes(raw)
    with open_source(tmp_path / "clip.yuv", size=(64, 48)) as source:
        assert (source.width, source.height, source.fps, source.frames) == (64, 48, 30, 5)
        assert psnr(list(source), pictures) > 38
    with pytest.raises(UserError, match="no header that tells its size"):
        open_source(tmp_path / "clip.yuv")
    (tmp_path / "clip.yuv").write_bytes(raw[:-1])
    with pytest.raises(UserError, match=r"clip\.yuv is cut off"):
        read(tmp_path / "clip.yuv", size=(64, 48))


def test_another_size_than_the_video_s_is_refused(tmp_path):
    path = write(tmp_path / "clip.mkv", moving())
    assert len(read(path, size=(64, 48))) == 5
    with pytest.raises(UserError, match=r"clip\.mkv is 64x48, not 48x64"):
        open_source(path, size=(48, 64))


# What is no video


def silence(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("absent.mkv", lambda path: None, "not a readable video (No such file"),
        ("empty.mp4", lambda path: path.write_bytes(b""), "not a readable video"),
        ("junk.mkv", lambda path: path.write_bytes(b"junk" * 100), "not a readable video"),
        ("sound.wav", silence, "holds no video"),
        ("none.y4m", lambda path: path.write_bytes(b"YUV4MPEG2 W8 H8 F25:1\n"), "no picture"),
        ("folder", lambda path: path.mkdir(), "holds no picture"),
    ],
)
def test_what_holds_no_video_is_refused_by_name(tmp_path, name, make, said):
    make(tmp_path / name)
    with pytest.raises(UserError) as caught:
        open_source(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fps", [0, -25, float("nan"), float("inf")])
def test_a_frame_rate_of_no_sense_is_refused(tmp_path, fps):
    path = write(tmp_path / "clip.mkv", moving())
    with pytest.raises(UserError, match="give a rate above 0"):
        open_source(path, fps=fps)
    with pytest.raises(UserError, match="give a rate above 0"):
        open_sink(path, 64, 48, fps)


# Damage


@pytest.mark.parametrize("name", ["clip.mkv", "clip.y4m"])
def test_a_file_that_is_cut_off_is_refused_after_its_whole_pictures(tmp_path, name):
    path = write(tmp_path / name, noise(64, 48, 6))
    whole, data = read(path), path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    for _ in range(2):  # FFmpeg says the same thing only once if it is allowed to
        seen = []
        with (
            pytest.raises(UserError, match=f"{name} is (damaged|cut off)"),
            open_source(path) as source,
        ):
            seen.extend(source)
        assert 2 <= len(seen) <= 4 and all(map(np.array_equal, seen, whole))


def test_one_wrong_bit_of_a_lossless_file_is_found(tmp_path):
    path = write(tmp_path / "clip.mkv", noise(64, 48, 6))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"clip\.mkv is damaged at picture [23]"):
        read(path)


@pytest.mark.parametrize(
    ("name", "codec", "litter"),
    # So many that H.264 shows them wherever they fall; of a few bytes it may say nothing.
    [("a.mp4", "libx264", b"\xff" * 200), ("a.avi", "mjpeg", b"\xff\x13")],
)
def test_a_coded_file_with_overwritten_bytes_is_refused(tmp_path, name, codec, litter):
    """Decoders would rather paint over the damage."""
    frames = [Colour().to_yuv(picture) for picture in moving(64, 48, 12)]
    if codec == "mjpeg":
        frames = [frame.reformat(format="yuvj420p") for frame in frames]
    path = encode(tmp_path / name, frames, codec)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(litter)] = litter
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{name} is damaged at picture \\d"):
        read(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :],
        lambda data: b"",
        lambda data: b"GIF89a",
    ],
)
def test_a_damaged_picture_of_a_folder_is_named(tmp_path, harm):
    write(tmp_path / "clip", noise(16, 16, 3))
    bad = tmp_path / "clip" / "00002.png"
    bad.write_bytes(harm(bad.read_bytes()))
    with pytest.raises(UserError, match=r"00002\.png is not a readable picture"):
        read(tmp_path / "clip")


def test_a_picture_of_another_size_is_named(tmp_path):
    write(tmp_path / "clip", moving(count=3))
    save(tmp_path / "clip" / "00001.png", noise(64, 50, 1)[0])
    with pytest.raises(UserError, match=r"00001\.png is 64x50, those before it 64x48"):
        read(tmp_path / "clip")


# What cannot be written


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"clip\.webm .* \.y4m, \.mkv, \.mp4"):
        open_sink(tmp_path / "clip.webm", 64, 48, 25)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not an empty folder"):
        open_sink(tmp_path, 64, 48, 25)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="not an empty folder"):
        open_sink(tmp_path / "file", 64, 48, 25)


@pytest.mark.parametrize("name", KINDS)
def test_a_place_where_nothing_can_be_is_one_clear_error(tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(UserError, match="cannot be written"),
        open_sink(tmp_path / "file" / name, 64, 48, 25),
    ):
        pass


@pytest.mark.parametrize("name", KINDS)
def test_a_video_without_pictures_is_not_made(tmp_path, name):
    with (
        pytest.raises(UserError, match=f"{name} is not made"),
        open_sink(tmp_path / name, 64, 48, 25),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_another_shape_or_type_are_a_bug(tmp_path):
    for wrong in (np.zeros((3, 64, 48), np.uint8), np.zeros((3, 48, 64), np.float32)):
        with (
            pytest.raises(ValueError, match=r"expected uint8 \(3, 48, 64\)"),
            open_sink(tmp_path / "clip.mkv", 64, 48, 25) as sink,
        ):
            sink.write(wrong)


# Exceptions on the way


class Crash(BaseException):
    """Stands for anything that can end a write: an error, Ctrl-C."""


def interrupted(path, keep, count=3):
    with open_sink(path, 64, 48, 25) as sink:
        if keep:
            sink.keep()
        for picture in moving(count=count):
            sink.write(picture)
        raise Crash


@pytest.mark.parametrize("name", KINDS)
def test_after_an_exception_nothing_is_left(tmp_path, name):
    with pytest.raises(Crash):
        interrupted(tmp_path / name, keep=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", KINDS)
def test_what_was_written_before_an_exception_can_be_kept(tmp_path, name):
    with pytest.raises(Crash):
        interrupted(tmp_path / name, keep=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert psnr(read(tmp_path / name), list(moving(count=3))) > 40


@pytest.mark.parametrize("name", KINDS)
def test_where_nothing_was_written_there_is_nothing_to_keep(tmp_path, name):
    with pytest.raises(Crash):
        interrupted(tmp_path / name, keep=True, count=0)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_that_was_there_stays(tmp_path):
    with pytest.raises(Crash):
        interrupted(tmp_path, keep=False)
    assert tmp_path.exists() and list(tmp_path.iterdir()) == []


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    path = write(tmp_path / "clip.mkv", moving(count=2))
    with pytest.raises(Crash):
        interrupted(path, keep=False)
    assert len(read(path)) == 2
    with open_sink(path, 64, 48, 25) as sink:
        for picture in moving(count=4):
            sink.write(picture)
        assert len(read(path)) == 2
    assert len(read(path)) == 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("lvc.sink.av.open", to_full_disk(av.open))
    with (
        pytest.raises(UserError, match=r"clip\.y4m cannot be written \(No space left"),
        open_sink(tmp_path / "clip.y4m", 64, 48, 25) as sink,
    ):
        for picture in moving(count=100):
            sink.write(picture)
    assert list(tmp_path.iterdir()) == []


def to_full_disk(open_file):
    return lambda path, *rest, **options: open_file("file:/dev/full", *rest, **options)


# Long videos


@pytest.mark.parametrize("name", ["clip.mkv", "clip"])
def test_memory_does_not_grow_with_the_length(tmp_path, name):
    pictures, size = 200, 3 * 48 * 64
    tracemalloc.start()
    try:
        with open_sink(tmp_path / name, 64, 48, 25) as sink:
            for number in range(pictures):
                sink.write(np.full((3, 48, 64), number, np.uint8))
        _, written = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        with open_source(tmp_path / name) as source:
            seen = sum(1 for _ in source)
        _, read_again = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == pictures
    assert written < 20 * size and read_again < 20 * size


def test_pictures_are_read_as_they_are_asked_for(tmp_path):
    write(tmp_path / "clip", moving(count=5))
    with open_source(tmp_path / "clip") as source:
        first = list(islice(source, 2))
        (tmp_path / "clip" / "00002.png").unlink()
        assert len(first) == 2
        with pytest.raises(UserError, match=r"00002\.png is not a readable picture"):
            next(iter(source))


# I frames, which the same conversions serve


@pytest.mark.parametrize("spec", ["hevc:qp=4", "h264:qp=4,matrix=bt601,range=full", "lossless"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_single_pictures_are_coded_without_torch(spec, width, height):
    (picture,) = moving(width, height, count=1)
    coder = create_pictures(spec)
    back = coder.decompress(coder.compress(picture), height, width)
    assert back.shape == picture.shape and back.dtype == np.uint8
    assert np.array_equal(back, picture) if spec == "lossless" else psnr(back, picture) > 36
    with pytest.raises(UserError):
        coder.decompress(b"", height, width)


def test_learned_pictures_are_not_among_them():
    with pytest.raises(
        UserError, match=r"'network' is unknown: choose one of hevc, h264, lossless"
    ):
        create_pictures("network:checkpoint=x")
    with pytest.raises(UserError, match=r"option 'q=3' is unknown; options: qp="):
        create_pictures("hevc:q=3")


def test_none_of_this_loads_torch():
    code = "import sys, lvc.intra, lvc.video; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
