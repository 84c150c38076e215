"""Sources of clips: what each kind reads, and what it says of input it cannot read."""

import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from lvc.errors import UserError
from prune.data import ClipError, SourceSpec, check_sources, open_source, render
from prune.data.cache import DecodedCache

LUMA = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}  # weights of red and blue


def moving(frames=12, height=48, width=64):
    return render(7, 1, height, width, frames)


def write_video(path: Path, clip: np.ndarray, codec="ffv1", pix_fmt="yuv420p", **options) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[2:], pix_fmt
        for frame in clip:
            picture = np.ascontiguousarray(frame.transpose(1, 2, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_images(folder: Path, clip: np.ndarray, pattern="{:03d}.png", first=0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(clip, first):
        Image.fromarray(frame.transpose(1, 2, 0)).save(folder / pattern.format(number))
    return folder


def yuv_to_rgb(y, u, v, matrix, full_range, bits):
    """The definition of BT.709 and BT.601 for one colour; RGB in 0 to 255."""
    red, blue = LUMA[matrix]
    y, u, v = (value / 2 ** (bits - 8) for value in (y, u, v))
    y, u, v = (
        (y / 255, (u - 128) / 255, (v - 128) / 255)
        if full_range
        else ((y - 16) / 219, (u - 128) / 224, (v - 128) / 224)
    )
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.array([r, g, b]), 0, 255)


# Synthetic clips


@settings(max_examples=15, deadline=None)
@given(index=st.integers(0, 10**6), start=st.integers(0, 8), count=st.integers(1, 4))
def test_any_window_of_a_synthetic_clip_equals_that_part_of_the_whole(index, start, count):
    source = open_source(
        SourceSpec(kind="procedural", seed=3, height=32, width=40, frames=start + count)
    )
    whole = source.read(index)
    assert whole.shape == (start + count, 3, 32, 40) and whole.dtype == np.uint8
    assert np.array_equal(source.read(index, start, count), whole[start:])


def test_synthetic_clips_differ_by_seed_and_index_and_by_nothing_else():
    first = render(0, 0, 32, 32, 3)
    assert np.array_equal(first, render(0, 0, 32, 32, 5)[:3])
    assert not np.array_equal(first, render(0, 1, 32, 32, 3))
    assert not np.array_equal(first, render(1, 0, 32, 32, 3))


def test_synthetic_clips_move_smoothly():
    clips = np.stack([render(0, index, 64, 64, 9) for index in range(12)]).astype(float)
    next_frame = np.abs(clips[:, 1:] - clips[:, :-1]).mean()
    far_frame = np.abs(clips[:, 8] - clips[:, 0]).mean()
    other_clip = np.abs(clips[1:] - clips[:-1]).mean()
    assert 0.5 < next_frame < far_frame < other_clip


# Video files


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
def test_colours_follow_the_stated_matrix_and_range(tmp_path, matrix, full_range, pix_fmt):
    bits = 10 if pix_fmt.endswith("10le") else 8
    colours = np.random.default_rng(5).integers(40, 200, (6, 3)) * 2 ** (bits - 8)
    with av.open(str(tmp_path / "flat.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, pix_fmt
        for colour in colours:
            frame = av.VideoFrame(32, 16, pix_fmt)
            for plane, value in zip(frame.planes, colour, strict=True):
                kind = np.uint16 if bits > 8 else np.uint8
                samples = np.full(plane.buffer_size // kind().itemsize, value, kind)
                plane.update(samples.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    spec = SourceSpec(
        path=tmp_path / "flat.mkv", matrix=matrix, range="full" if full_range else "limited"
    )
    for frame, colour in zip(open_source(spec).read(0), colours, strict=True):
        expected = yuv_to_rgb(*colour, matrix, full_range, bits)
        assert np.abs(frame - expected[:, None, None]).max() <= 0.51  # rounding to a byte


def test_an_rgb_video_is_read_without_loss(tmp_path):
    clip = moving()
    source = open_source(write_video(tmp_path / "clip.mkv", clip, pix_fmt="bgr0"))
    info = source.info(0)
    assert (info.name, info.frames, info.height, info.width, info.fps) == ("clip", 12, 48, 64, 25)
    assert np.array_equal(source.read(0), clip)
    assert source.read(0, 3, 2).flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "5", "bf": "2"}),
        ("b.avi", "mpeg4", {"g": "5", "bf": "2"}),
        ("c.ts", "libx264", {"g": "5"}),
        ("d.264", "libx264", {"g": "5"}),  # no times in the file
        ("e.webm", "libvpx", {"g": "5"}),
        ("f.y4m", "wrapped_avframe", {}),
    ],
)
def test_frames_found_by_seeking_are_those_of_the_whole_clip(tmp_path, name, codec, options):
    source = open_source(write_video(tmp_path / name, moving(), codec, **options))
    whole = source.read(0)
    source.keep = False  # as for files too large to keep in memory
    assert len(whole) == source.info(0).frames == 12
    for start in range(11):
        assert np.array_equal(source.read(0, start, 2), whole[start : start + 2])


def test_a_folder_of_videos_has_a_clip_per_file_in_the_order_of_their_names(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b.mkv", "a.mp4", "more/c.mkv"):
        write_video(tmp_path / name, moving(3), "libx264")
    (tmp_path / "notes.txt").write_text("not a clip")
    source = open_source(tmp_path)
    assert [source.info(i).name for i in range(len(source))] == ["a", "b", "c"]


def test_files_that_cannot_be_opened_are_left_out_and_listed_with_the_reason(tmp_path):
    good = write_video(tmp_path / "good.mp4", moving(3), "libx264")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:-300])  # its index is at the end
    (tmp_path / "empty.mkv").touch()
    source = open_source(tmp_path)
    assert len(source) == 1
    assert {Path(file).name for file in source.skipped} == {"cut.mp4", "empty.mkv"}
    assert all("not a readable video" in reason for reason in source.skipped.values())


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
@pytest.mark.parametrize("keep", [True, False])
def test_damage_within_a_clip_is_an_error_that_names_the_file(tmp_path, codec, keep):
    noise = np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64), np.uint8)
    path = write_video(tmp_path / "noise.mkv", noise, codec, g="3", threads="1")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    source = open_source(path)
    source.keep = keep
    with pytest.raises(ClipError, match=r"noise\.mkv: (cannot be decoded|has damaged frames)"):
        source.read(0, 2, 3)


def test_frames_beyond_the_end_are_refused_with_the_clips_length(tmp_path):
    source = open_source(write_video(tmp_path / "clip.mkv", moving(4)))
    for start, count in ((2, 3), (-1, 1), (0, 0), (4, None)):
        with pytest.raises(UserError, match="the clip has 4"):
            source.read(0, start, count)


# Raw video


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_raw_video_equals_the_same_planes_in_a_container(tmp_path, pixel_format):
    video = write_video(tmp_path / "clip.mkv", moving(5, 30, 34), pix_fmt=pixel_format)
    raw = tmp_path / "clip_34x30_12.5.yuv"
    with av.open(str(video)) as container, open(raw, "wb") as file:
        for frame in container.decode(video=0):
            file.write(frame.to_ndarray().tobytes())
    source = open_source(SourceSpec(path=raw, pixel_format=pixel_format))
    assert (source.info(0).frames, source.info(0).fps) == (5, 12.5)
    assert np.array_equal(source.read(0, 1, 3), open_source(video).read(0, 1, 3))


def test_the_size_of_raw_video_comes_from_the_recipe_or_the_name(tmp_path):
    unnamed = tmp_path / "clip.yuv"
    unnamed.write_bytes(bytes(3 * 16 * 8 * 3 // 2))
    with pytest.raises(UserError, match=r"clip\.yuv is raw video of unknown size: set `size"):
        open_source(unnamed)
    info = open_source(SourceSpec(path=unnamed, size="16x8", fps=50)).info(0)
    assert (info.frames, info.height, info.width, info.fps) == (3, 8, 16, 50)
    with pytest.raises(UserError, match="576 bytes, not a whole number of yuv420p frames of 16x16"):
        open_source(SourceSpec(path=unnamed, size="16x16"))


# Images


def test_a_folder_of_numbered_images_is_a_clip_in_the_order_of_the_numbers(tmp_path):
    clip = moving(11, 16, 24)
    folder = write_images(tmp_path / "walk", clip, "im{}.png", first=1)  # im10 after im9
    source = open_source(SourceSpec(path=folder, fps=24))
    assert (len(source), source.info(0).name, source.info(0).fps) == (1, "walk", 24)
    assert np.array_equal(source.read(0), clip)


def test_a_folder_of_folders_of_frames_has_a_clip_per_folder(tmp_path):
    clip = moving(6, 16, 24)
    write_images(tmp_path / "b" / "left", clip[:3])
    write_images(tmp_path / "a", clip[3:])
    source = open_source(tmp_path)
    assert [source.info(i).name for i in range(2)] == ["a", "b/left"]
    assert np.array_equal(source.read(1, 1, 2), clip[1:3])


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "002.png").unlink(), r"a gap after 001\.png"),
        (
            lambda folder: shutil.copy(folder / "002.png", folder / "x2.png"),
            r"a number twice, that of 002\.png",
        ),
        (lambda folder: shutil.copy(folder / "002.png", folder / "cover.png"), "without a number"),
    ],
)
def test_frames_out_of_sequence_are_refused(tmp_path, spoil, complaint):
    spoil(write_images(tmp_path / "clip", moving(5, 16, 24)))
    with pytest.raises(UserError, match=complaint):
        open_source(SourceSpec(path=tmp_path, kind="frames"))


def test_a_frame_of_another_size_or_of_no_image_is_an_error_that_names_it(tmp_path):
    folder = write_images(tmp_path / "clip", moving(4, 16, 24))
    source = open_source(folder)
    Image.new("RGB", (8, 8)).save(folder / "002.png")
    with pytest.raises(ClipError, match=r"002\.png: is 8x8, the clip 24x16"):
        source.read(0)
    (folder / "002.png").write_bytes(b"nothing")
    with pytest.raises(ClipError, match=r"002\.png: cannot be decoded"):
        source.read(0)


def test_vimeo_septuplets_are_those_that_the_list_names(tmp_path):
    clip = moving(7, 16, 24)
    for name in ("00001/0001", "00001/0002"):
        write_images(tmp_path / "sequences" / name, clip, "im{}.png", first=1)
    (tmp_path / "sep_trainlist.txt").write_text("00001/0002\n00009/0001\n\n")
    source = open_source(tmp_path)
    assert [source.info(i).name for i in range(len(source))] == ["00001/0002"]
    assert [Path(folder).name for folder in source.skipped] == ["0001"]
    assert np.array_equal(source.read(0, 2, 5), clip[2:])
    with pytest.raises(UserError, match=r"other\.txt: cannot be read"):
        open_source(SourceSpec(path=tmp_path, kind="vimeo", list="other.txt"))


def test_stills_are_set_in_motion(tmp_path):
    for number, still in enumerate(moving(3, 90, 120)):
        Image.fromarray(still.transpose(1, 2, 0)).save(tmp_path / f"photo_{'abc'[number]}.png")
    source = open_source(SourceSpec(path=tmp_path, height=64, width=200, frames=5, clips=7))
    assert len(source) == 7
    assert (source.info(6).height, source.info(6).width) == (64, 120)  # no wider than the still
    clips = [source.read(index) for index in range(7)]
    assert all(clip.shape == (5, 3, 64, 120) for clip in clips)
    assert np.array_equal(source.read(4, 2, 2), clips[4][2:4])
    assert any(not np.array_equal(clip[0], clip[4]) for clip in clips)
    assert not np.array_equal(clips[0], clips[3])  # the same still under another motion


def test_grey_sixteen_bit_images_keep_their_brightness(tmp_path):
    for number in range(2):
        grey = np.full((8, 8), 200 * 257, np.uint16)
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    assert np.all(open_source(tmp_path).read(0) == 200)


# Opening


def test_a_bare_string_is_a_path_or_the_synthetic_source(tmp_path):
    assert SourceSpec.model_validate("procedural").kind == "procedural"
    assert SourceSpec.model_validate("clips/a.mkv").path == Path("clips/a.mkv")
    write_video(tmp_path / "clip.mkv", moving(2))
    assert len(open_source("clip.mkv", base=tmp_path)) == 1


@pytest.mark.parametrize(
    "spec",
    [
        {"path": "x", "colour": "bt709"},
        {"path": "x", "matrix": "bt2020"},
        {"path": "x", "weight": 0},
        {"path": "x", "size": "16 by 9"},
        {"kind": "videos"},
        "",
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(spec):
    with pytest.raises(ValidationError):
        SourceSpec.model_validate(spec)


def test_paths_that_lead_nowhere_are_told_in_one_line(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "clip.mp4").write_text("not a video")
    (tmp_path / "empty").mkdir()
    file = write_video(tmp_path / "clip.mkv", moving(2))
    complaints = {
        SourceSpec(path=tmp_path / "no"): "no: no such file or folder",
        SourceSpec(path="x" * 5000): "no such file or folder",
        SourceSpec(path=tmp_path / "empty"): "empty: the folder holds no video, .yuv or image",
        SourceSpec(path=tmp_path / "empty", kind="frames"): "empty: nothing of `kind: frames`",
        SourceSpec(path=tmp_path / "text"): "clip.mp4 is not a readable video",
        SourceSpec(path=file, kind="frames"): "is a file, but `kind: frames` needs a folder",
        SourceSpec(path=file, kind="images"): "clip.mkv is not a readable image",
    }
    for spec, complaint in complaints.items():
        with pytest.raises(UserError) as raised:
            open_source(spec)
        assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_a_folder_of_several_kinds_asks_which(tmp_path):
    write_video(tmp_path / "clip.mkv", moving(2))
    write_images(tmp_path, moving(2))
    with pytest.raises(UserError, match=r"1 for `videos`, 2 for `images`\): set `kind`"):
        open_source(tmp_path)
    assert len(open_source(SourceSpec(path=tmp_path, kind="videos"))) == 1


def test_sources_without_a_clip_long_and_large_enough_are_named(tmp_path):
    source = open_source(write_video(tmp_path / "clip.mkv", moving(4)))
    check_sources([source, open_source("procedural")], frames=4, crop=48)
    with pytest.raises(UserError, match=r"clip\.mkv: none of its 1 clips .* 4 frames, 5 needed"):
        check_sources([source], frames=5, crop=48)
    with pytest.raises(UserError, match="64x48 pixels, 49x49 needed"):
        check_sources([source], frames=4, crop=49)


def test_sources_travel_to_other_processes(tmp_path):
    source = open_source(write_video(tmp_path / "clip.mkv", moving(4)))
    assert np.array_equal(pickle.loads(pickle.dumps(source)).read(0), source.read(0))


def test_the_cache_drops_what_was_used_longest_ago():
    cache = DecodedCache(limit=2)
    loaded = []

    def get(key):
        return cache.get(key, lambda: loaded.append(key) or key, lambda _: 1)

    assert [get(key) for key in "abacab"] == list("abacab")
    assert loaded == ["a", "b", "c", "b"]
