"""I frames and anchors: real bytes, explicit colour, the same result every time."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lvc import anchor as anchors
from lvc import encoders
from lvc.anchor import ClipCoder, Colour, anchor
from lvc.intra import PICTURE_CODERS, PictureCoder, create_pictures
from prune.evaluation import metrics as quality
from rd.anchors import Kind
from vcodecs import UserError
from vcodecs.intra import create_intra, intra_names, register_intra


def textured(height=64, width=96, frames=1, seed=0):
    """A moving picture with detail and colour: uint8 RGB (T, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 4 + 3, width // 4 + 3 + frames, generator=generator)
    canvas = F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)
    views = [canvas[0, :, 2 : 2 + height, 2 * t : 2 * t + width] for t in range(frames)]
    return (torch.stack(views) * 255).round().to(torch.uint8).numpy()


def as_tensor(picture):
    return torch.from_numpy(picture)[None].float() / 255


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize("codec", ["hevc", "h264"])
def test_a_lower_qp_gives_a_better_picture_and_more_bits(codec):
    frame = as_tensor(textured()[0])
    coded = [create_intra(f"{codec}:qp={qp}").encode(frame) for qp in (12, 24, 36)]
    psnrs = [psnr(one.frame, frame) for one in coded]
    bits = [one.bits for one in coded]
    assert psnrs == sorted(psnrs, reverse=True) and psnrs[0] > psnrs[2] + 6
    assert bits == sorted(bits, reverse=True) and bits[0] > 2 * bits[2]


@pytest.mark.parametrize("spec", ["hevc:qp=22", "h264:qp=22", "lossless"])
def test_the_same_frame_always_gives_the_same_bytes_and_picture(spec):
    frame = as_tensor(textured()[0])
    first, second = create_intra(spec), create_intra(spec)
    coded, again = first.encode(frame), second.encode(frame)
    assert coded.payload == again.payload == first.encode(frame).payload
    assert torch.equal(coded.frame, again.frame) and coded.digest == again.digest


@pytest.mark.parametrize("spec", ["hevc:qp=30", "h264:qp=30", "lossless"])
def test_the_picture_comes_out_of_the_bytes_that_are_counted(spec):
    intra = create_intra(spec)
    frame = as_tensor(textured()[0])
    coded = intra.encode(frame)
    shown, digest = create_pictures(spec).decode(coded.payload, 64, 96)
    assert coded.bits == 8 * len(coded.payload)
    assert torch.equal(coded.frame, torch.from_numpy(shown)) and coded.digest == digest


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    spec=st.sampled_from(["hevc:qp=8", "h264:qp=8", "lossless"]),
)
def test_a_frame_of_any_size_comes_back_in_its_own_size(height, width, spec):
    frame = torch.full((1, 3, height, width), 0.5)
    frame[..., : height // 2, :] = 0.25
    coded = create_intra(spec).encode(frame)
    picture, bits = coded.frame, coded.bits
    assert picture.shape == frame.shape and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    assert bits > 0
    assert (picture - frame).abs().mean() < 0.02


def test_lossless_gives_the_original_back_for_fewer_bits_than_raw():
    frame = as_tensor(textured()[0])
    coded = create_intra("lossless").encode(frame)
    assert torch.equal(coded.frame, frame)
    assert 0 < coded.bits < 24 * 64 * 96


def test_lossless_noise_takes_about_its_raw_bits():
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96))) / 255.0
    assert create_intra("lossless").encode(noise).bits > 0.95 * 24 * 64 * 96


@pytest.mark.parametrize(
    ("matrix", "kr", "kb"), [("bt709", 0.2126, 0.0722), ("bt601", 0.299, 0.114)]
)
@pytest.mark.parametrize(("range_", "black", "span"), [("limited", 16, 219), ("full", 0, 255)])
def test_luma_follows_the_matrix_and_the_range(matrix, kr, kb, range_, black, span):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [255, 255, 255]])
    for red, green, blue in colours:
        picture = np.empty((3, 16, 16), np.uint8)
        picture[:] = np.array([red, green, blue]).reshape(3, 1, 1)
        luma = Colour(matrix, range_).to_yuv(picture).to_ndarray()[:16]
        expected = black + span * (kr * red + (1 - kr - kb) * green + kb * blue) / 255
        assert np.abs(luma - expected).max() <= 1


@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
@pytest.mark.parametrize("range_", ["limited", "full"])
@pytest.mark.parametrize("pixel_format", list(anchors.PIXEL_FORMATS))
def test_every_colour_returns_smooth_pictures_within_rounding(matrix, range_, pixel_format):
    ramp = np.linspace(20, 235, 64).astype(np.uint8)
    picture = np.stack(
        [np.tile(ramp, (64, 1)), np.tile(ramp[::-1], (64, 1)), np.tile(ramp, (64, 1)).T]
    )
    colour = Colour(matrix, range_, pixel_format)
    back = colour.to_rgb(colour.to_yuv(picture))
    assert np.sqrt(np.mean((back.astype(float) - picture) ** 2)) < 1.5


@pytest.mark.parametrize("pixel_format", list(anchors.PIXEL_FORMATS))
def test_coding_adds_no_loss_of_colour_to_that_of_the_conversion(pixel_format):
    picture = textured()
    colour = Colour(pixel_format=pixel_format)
    converted = colour.to_rgb(colour.to_yuv(picture[0]))
    for codec, qp, least in (("h264", 4, 45), ("hevc", 4, 45)):
        coder = ClipCoder(codec, qp, colour, all_intra=True)
        decoded = coder.decompress(coder.compress(picture), 64, 96)
        assert psnr(as_tensor(decoded[0]), as_tensor(converted)) > least


def test_x264_at_qp_0_is_lossless_but_for_the_colour_conversion():
    picture, colour = textured(), Colour()
    coder = ClipCoder("h264", 0, colour, all_intra=True)
    decoded = coder.decompress(coder.compress(picture), 64, 96)
    assert np.array_equal(decoded[0], colour.to_rgb(colour.to_yuv(picture[0])))


def test_reading_with_another_matrix_shows_in_the_picture():
    picture = np.empty((3, 16, 16), np.uint8)
    picture[:] = np.array([220, 40, 40]).reshape(3, 1, 1)
    wrong = Colour("bt601").to_rgb(Colour("bt709").to_yuv(picture))
    assert np.abs(wrong.astype(int) - picture).max() > 10


def test_the_name_says_what_was_used():
    name = create_intra("hevc:qp=22").name
    assert name == "x265 intra, QP 22, BT.709 limited 4:2:0"
    name = create_intra("h264:qp=20,matrix=bt601,range=full,pixel_format=yuv444p").name
    assert name == "x264 intra, QP 20, BT.601 full 4:4:4"
    assert "lossless" in create_intra("lossless").name


@pytest.mark.parametrize("codec", ["hevc", "h264"])
def test_the_stream_holds_no_informational_sei(codec):
    data = create_pictures(f"{codec}:qp=40").compress(textured()[0])
    headers = [unit[0] for unit in data.split(b"\0\0\1")[1:]]
    if codec == "hevc":
        assert [header >> 1 & 63 for header in headers] == [32, 33, 34, 20]  # VPS SPS PPS IDR
    else:
        assert [header & 31 for header in headers] == [7, 8, 5]  # SPS PPS IDR


def test_encoders_are_quiet(capfd):
    for spec in ("hevc:qp=30", "h264:qp=30", "lossless"):
        create_intra(spec).encode(as_tensor(textured()[0]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("webp", "'webp' is unknown: choose one of hevc, h264, lossless"),
        ("", "choose one of"),
        ("hevc:quality=3", "options: qp=..., matrix="),
        ("hevc:qp", "'qp' is unknown"),
        ("hevc:qp=", "'qp=' is unknown"),
        ("hevc:qp=high", "not a whole number"),
        ("hevc:qp=52", "0 (best) to 51"),
        ("h264:qp=-1", "0 (best) to 51"),
        ("hevc:matrix=bt2020", "bt709, bt601"),
        ("hevc:range=tv", "limited, full"),
        ("hevc:pixel_format=nv12", "yuv420p"),
        ("lossless:qp=3", "options: none"),
    ],
)
def test_a_wrong_spec_is_one_line_that_says_what_is_allowed(spec, said):
    with pytest.raises(UserError) as caught:
        create_intra(spec)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_encoder_is_named_with_those_that_are_there(monkeypatch):
    without = replace(encoders.ENCODERS["hevc"], library="libx265_left_out")
    monkeypatch.setitem(encoders.ENCODERS, "hevc", without)
    with pytest.raises(UserError, match=r"without libx265_left_out.*h264 \(libx264\), lossless"):
        create_intra("hevc:qp=22")


@pytest.mark.parametrize("codec", ["hevc", "h264"])
@pytest.mark.parametrize("data", [b"", b"\0" * 40, b"nonsense" * 10])
def test_bytes_that_hold_no_picture_are_refused(codec, data):
    with pytest.raises(UserError):
        create_pictures(f"{codec}:qp=30").decompress(data, 64, 96)


def test_a_picture_of_another_size_is_refused():
    coder = create_pictures("hevc:qp=30")
    with pytest.raises(UserError, match="1 pictures of 64x64"):
        coder.decompress(coder.compress(textured()[0]), 64, 64)


def test_a_picture_of_another_pixel_format_is_refused():
    data = create_pictures("hevc:qp=30,pixel_format=yuv444p").compress(textured()[0])
    with pytest.raises(UserError, match=r"in BT\.709 limited 4:2:0"):
        create_pictures("hevc:qp=30").decompress(data, 64, 96)


def test_lossless_data_that_is_cut_off_is_refused():
    with pytest.raises(UserError, match="ffv1"):
        create_pictures("lossless").decompress(b"", 64, 96)


def test_another_intra_codec_can_be_registered(monkeypatch):
    class Flat(PictureCoder):
        def __init__(self, level=1):
            self.name = f"flat {level}"
            self.level = level

        def compress(self, picture):
            return bytes([self.level])

        def decompress(self, data, height, width):
            return np.full((3, height, width), data[0], np.uint8)

    monkeypatch.setattr("vcodecs.intra.PICTURE_CODERS", registry := dict(PICTURE_CODERS))
    monkeypatch.setattr("lvc.intra.PICTURE_CODERS", registry)
    register_intra("flat", Flat)
    assert "flat" in intra_names()
    intra = create_intra("flat:level=51")
    coded = intra.encode(torch.zeros(1, 3, 20, 30))
    assert coded.bits == 8 and torch.equal(coded.frame, torch.full((1, 3, 20, 30), 51 / 255))
    assert intra.said() == {"codec": "flat", "options": "level=51"}
    shown, digest = create_pictures("flat").decode(coded.payload, 20, 30)
    assert np.array_equal(shown, coded.frame.numpy()) and digest == coded.digest
    with pytest.raises(ValueError, match="already"):
        register_intra("flat", Flat)


# Anchors


@pytest.mark.parametrize("codec", ["hevc", "h264", "av1"])
def test_an_anchor_measures_real_bits_and_the_quality_of_what_they_decode_to(codec):
    frames = textured(64, 96, frames=4)
    result = anchor(frames, 25.0, codec, qp=28)
    coder = ClipCoder(codec, 28)
    packets = coder.compress(frames, 25.0)
    decoded = coder.decompress(packets, 64, 96)
    assert result.bpp == 8 * sum(map(len, packets)) / (4 * 64 * 96)
    for t in range(4):
        mse = np.mean((decoded[t].astype(float) - frames[t]) ** 2)
        assert result.psnr_by_frame[t] == pytest.approx(10 * math.log10(255**2 / mse))
    assert result.psnr == pytest.approx(np.mean(result.psnr_by_frame))
    assert result.qp == 28 and "BT.709 limited" in result.name


@pytest.mark.parametrize("codec", ["hevc", "h264"])
def test_p_frames_cost_less_than_the_i_frame_they_follow(codec):
    packets = ClipCoder(codec, 28).compress(textured(64, 96, frames=4))
    alone = ClipCoder(codec, 28, all_intra=True).compress(textured(64, 96, frames=4))
    assert all(len(packet) < len(packets[0]) / 2 for packet in packets[1:])
    assert sum(map(len, packets)) < sum(map(len, alone)) / 2


@pytest.mark.parametrize("codec", ["hevc", "h264", "av1"])
@pytest.mark.parametrize("size", [(32, 48), (32, 200), (46, 66)])
def test_the_same_clip_always_gives_the_same_bytes(codec, size):
    frames, coder = textured(*size, frames=3), ClipCoder(codec, 30)
    streams = set()
    for level in range(6):
        # Freed memory of another content, which an encoder that reads unset memory would see.
        litter = [np.full(20_000 * n, 40 * level, np.uint8) for n in range(1, 12)]
        del litter
        streams.add(b"".join(coder.compress(frames, 25.0)))
    assert len(streams) == 1


@pytest.mark.parametrize("codec", ["hevc", "h264", "av1"])
def test_no_further_i_frame_comes_in_a_long_clip(codec):
    # Encoders put a key frame every 250 frames unless they are told not to.
    still = np.repeat(textured(16, 16), 260, axis=0)
    packets = ClipCoder(codec, 30).compress(still)
    assert max(map(len, packets[1:])) < len(packets[0]) / 4


@pytest.mark.parametrize("target", [0.3, 1.0])
def test_the_qp_nearest_to_a_target_is_found(target):
    frames = textured(64, 96, frames=3)
    found = anchor(frames, 25.0, "h264", target_bpp=target)
    distance = abs(math.log(found.bpp / target))
    for qp in range(max(0, found.qp - 3), min(51, found.qp + 3) + 1):
        other = anchor(frames, 25.0, "h264", qp=qp)
        assert abs(math.log(other.bpp / target)) >= distance - 1e-12


def test_a_target_out_of_reach_gives_the_nearest_end():
    frames = textured(32, 32, frames=2)
    assert anchor(frames, 25.0, "h264", target_bpp=1e-6).qp == 51


@pytest.mark.parametrize(
    "arguments",
    [{}, {"qp": 30, "target_bpp": 0.1}, {"target_bpp": 0.0}, {"target_bpp": math.nan}, {"qp": 99}],
)
def test_an_anchor_needs_one_sensible_operating_point(arguments):
    with pytest.raises(UserError):
        anchor(textured(16, 16, frames=2), 25.0, "hevc", **arguments)


def test_an_unknown_anchor_codec_is_refused():
    with pytest.raises(UserError, match="choose hevc or h264"):
        anchor(textured(16, 16, frames=2), 25.0, "vp9", qp=30)


def test_a_frame_rate_that_is_not_known_does_no_harm():
    assert anchor(textured(16, 16, frames=2), math.nan, "hevc", qp=30).bpp > 0
    assert anchor(textured(16, 16, frames=2), 29.97, "hevc", qp=30).bpp > 0


def test_a_slower_preset_makes_more_of_its_bits():
    frames = textured(64, 96, frames=8)
    for codec, fast, slow in (("h264", "ultrafast", "medium"), ("av1", "10", "4")):
        fast, slow = (anchor(frames, 25, codec, qp=36, preset=preset) for preset in (fast, slow))
        assert math.log(slow.bpp / fast.bpp) < (slow.psnr - fast.psnr) * math.log(2) / 6
    assert slow == anchor(frames, 25, "av1", qp=36)
    assert slow.name == "SVT-AV1 4, low delay, QP 36, BT.709 limited 4:2:0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"codec": "h264", "qp": 30, "preset": "4"},
            "x264 has no preset '4': choose one of ultraf",
        ),
        ({"codec": "av1", "qp": 30, "preset": "medium"}, "SVT-AV1 has no preset 'medium'"),
        ({"codec": "av1", "qp": 64}, "0 (best) to 63"),
        ({"codec": "av1", "qp": 30, "all_intra": True}, "av1 codes clips alone"),
    ],
)
def test_what_an_encoder_does_not_have_is_refused(arguments, said):
    with pytest.raises(UserError) as caught:
        ClipCoder(**arguments)
    assert said in str(caught.value)


def test_av1_frames_follow_each_other_without_delay():
    """Low delay: with one frame more, the frames before keep their bytes."""
    frames, coder = textured(64, 96, frames=5), ClipCoder("av1", 40)
    assert coder.compress(frames)[:4] == coder.compress(frames[:4])


def test_av1_is_quiet(capfd):
    anchor(textured(64, 96, frames=2), 25, "av1", qp=40)
    assert capfd.readouterr() == ("", "")


# The anchors' benchmark


def write_video(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[-2:]
        stream.pix_fmt = "bgr0"
        for picture in frames:
            pixels = np.ascontiguousarray(picture.transpose(1, 2, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def run_anchors(monkeypatch, capsys, *arguments):
    path = Path(__file__).parents[1] / "benchmarks" / "anchors.py"
    specification = importlib.util.spec_from_file_location("anchors_benchmark", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["anchors.py", *arguments])
    module.run()
    return capsys.readouterr()


def test_the_anchor_benchmark_prints_what_the_anchors_measure(tmp_path, monkeypatch, capsys):
    frames = textured(32, 48, frames=3)
    write_video(tmp_path / "[a].mkv", frames)
    (tmp_path / "torn.mkv").write_bytes(b"not a video")
    options = ("--source", str(tmp_path), "--frames", "3", "--qp", "30", "40")
    shown = run_anchors(monkeypatch, capsys, *options)
    rows = json.loads(shown.out)
    measured = [(row["codec"], row["qp"]) for row in rows]
    assert measured == [(codec, qp) for codec in ("hevc", "h264") for qp in (30, 40)]
    assert rows[0]["clip"] == "[a]" and "[a]" in shown.err
    assert "torn.mkv" in shown.err.replace("\n", "")
    expected = anchor(frames, 25, "hevc", qp=30)
    assert (rows[0]["bpp"], rows[0]["psnr"]) == (expected.bpp, expected.psnr)


def test_the_anchor_benchmark_comes_near_to_a_rate(tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "a.mkv", textured(32, 48, frames=2))
    options = ("--source", str(tmp_path), "--frames", "2", "--bpp", "2", "--codec", "h264")
    (row,) = json.loads(run_anchors(monkeypatch, capsys, *options).out)
    assert row["target_bpp"] == 2 and row["bpp"] == pytest.approx(2, rel=0.15)


def test_the_anchor_benchmark_takes_presets(tmp_path, monkeypatch, capsys):
    frames = textured(32, 48, frames=2)
    write_video(tmp_path / "a.mkv", frames)
    options = ("--source", str(tmp_path), "--frames", "2", "--qp", "35")
    shown = run_anchors(monkeypatch, capsys, *options, "--codec", "h264:veryfast", "av1")
    rows = json.loads(shown.out)
    assert [(row["codec"], row["preset"]) for row in rows] == [("h264", "veryfast"), ("av1", "4")]
    assert rows[0]["bpp"] == anchor(frames, 25, "h264", qp=35, preset="veryfast").bpp
    assert "h264:veryfast" in shown.err


def test_the_anchor_benchmark_fills_the_store(tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "a.mkv", textured(32, 48, frames=2))
    monkeypatch.setattr("rd.anchors.KINDS", (Kind("h264", "fast", (30, 40)),))
    monkeypatch.setattr("rd.anchors.STORE", tmp_path / "anchors.json")
    for said in ("a: x264 fast measured\n", ""):
        assert run_anchors(monkeypatch, capsys, "--source", str(tmp_path), "--store").err == said
    (curve,) = json.loads((tmp_path / "anchors.json").read_text())["curves"]
    expected = anchor(textured(32, 48, frames=2), 25, "h264", qp=40, preset="fast")
    assert curve["points"][1] == [40, round(expected.bpp, 6), round(expected.psnr, 4)]


def test_anchors_and_evaluation_measure_psnr_alike():
    frames, coder = textured(32, 48, frames=2), ClipCoder("h264", 30)
    decoded = coder.decompress(coder.compress(frames, 25), 32, 48)
    expected = quality.psnr(torch.from_numpy(decoded) / 255, torch.from_numpy(frames) / 255)
    result = anchor(frames, 25, "h264", qp=30)
    assert result.psnr_by_frame == pytest.approx(expected.tolist(), abs=1e-4)
