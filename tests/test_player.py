"""Video files to .lvc and back on the command line, with torch and without."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from playing import (
    CODECS,
    FRAMES,
    HEIGHT,
    WIDTH,
    assert_same_video,
    decode,
    encode,
    make_coded,
    pictures,
    write_clip,
)

import lvc
from lvc.container import Reader
from lvc.decode import open_bundle
from lvc.intra import NetworkPictures
from lvc.packets import DamageError
from lvc.player import Player
from lvc.runtimes import Setting
from vcodecs.__main__ import main

pytestmark = pytest.mark.player

WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "compressai", "vcodecs", "prune", "distill"):
    sys.modules[name] = None
from lvc.decode import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip, weights of every codec, their bundles, and the clip as coded by each."""
    return make_coded(tmp_path_factory.mktemp("player"), *CODECS)


by_codec = pytest.mark.parametrize("name", CODECS)


@by_codec
def test_torch_and_a_player_without_torch_show_the_same_video(folder, name, tmp_path):
    weights = folder / f"{name}.safetensors"
    assert decode(folder, name, tmp_path / "torch.mkv", "--weights", weights) == 0
    command = [sys.executable, "-c", WITHOUT_TORCH, "decode", folder / f"{name}.lvc"]
    command += [tmp_path / "player.mkv", "--bundle", folder / name, "--threads", "1"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=Path(lvc.__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert_same_video(tmp_path / "torch.mkv", tmp_path / "player.mkv")


@by_codec
def test_what_onnxruntime_encoded_torch_decodes(folder, name, tmp_path):
    file = tmp_path / "onnx.lvc"
    assert encode(folder, name, "--bundle", folder / name, target=file) == 0
    torch.set_flush_denormal(False)
    with Reader(file) as there, Reader(folder / f"{name}.lvc") as here:
        assert [p.digest for p in there.packets()] == [p.digest for p in here.packets()]
    weights = folder / f"{name}.safetensors"
    assert decode(folder, name, tmp_path / "out.mkv", "--weights", weights, source=file) == 0
    assert len(pictures(tmp_path / "out.mkv")) == FRAMES


@pytest.mark.parametrize(("start", "frames"), [(0, 2), (2, 9), (3, 1), (4, 1)])
def test_decoding_can_start_at_any_frame(folder, start, frames, tmp_path):
    weights = ["--weights", folder / "fvc.safetensors"]
    assert decode(folder, "fvc", tmp_path / "whole.mkv", *weights) == 0
    part = ["--start", start, "--frames", frames]
    assert decode(folder, "fvc", tmp_path / "part.mkv", *weights, *part) == 0
    expected = pictures(tmp_path / "whole.mkv")[start : start + frames]
    assert np.array_equal(pictures(tmp_path / "part.mkv"), expected)


@pytest.mark.parametrize("part", [["--start", -1], ["--start", FRAMES], ["--frames", 0]])
def test_a_part_that_is_not_there_is_told(folder, part, tmp_path, capsys):
    weights = ["--weights", folder / "fvc.safetensors"]
    assert decode(folder, "fvc", tmp_path / "x.mkv", *weights, *part) == 2
    assert part[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@by_codec
def test_info_tells_what_a_file_holds(folder, name, capsys):
    assert main(["info", str(folder / f"{name}.lvc")]) == 0
    told = capsys.readouterr().out
    assert f"{name} tiny" in told and f"{WIDTH}x{HEIGHT}" in told
    assert f"{FRAMES} (2 I, 3 P)" in told and "bits a pixel" in told


def test_other_weights_are_refused(folder, tmp_path, capsys):
    assert decode(folder, "dcvc", tmp_path / "x.mkv", "--weights", folder / "fvc.safetensors") == 2
    assert "was encoded with" in capsys.readouterr().err
    assert decode(folder, "dcvc", tmp_path / "x.mkv", "--bundle", folder / "fvc") == 2
    assert "was encoded with" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", ["codec=dcvc_hem_intra,", "codec=dcvc_hem_intra,rate=0.5,"])
def test_learned_i_frames_are_named_as_in_a_recipe(folder, options, tmp_path):
    file, intra = tmp_path / "x.lvc", f"network:{options}checkpoint={folder / 'intra.safetensors'}"
    assert encode(folder, "dcvc_hem", "--intra", intra, target=file) == 0
    weights = folder / "dcvc_hem.safetensors"
    target = tmp_path / "x.mkv"
    assert decode(folder, "dcvc_hem", target, "--weights", weights, source=file) == 0
    assert len(pictures(target)) == FRAMES
    with Reader(file) as reader:
        rates = {packet.kind: packet.rate for packet in reader.packets()}
    assert rates["P"] == pytest.approx(1.3)
    assert rates["I"] == pytest.approx(0.5 if "rate" in options else 1.3)


@pytest.mark.parametrize(
    ("intra", "told"),
    [
        ("network:checkpoint=none", "checkpoint none: no such file"),
        ("network:weights=x", "option 'weights=x' is unknown"),
        ("network", "checkpoint=... is needed"),
    ],
)
def test_learned_i_frames_that_cannot_be_are_explained(folder, intra, told, tmp_path, capsys):
    assert encode(folder, "dcvc_hem", "--intra", intra, target=tmp_path / "x.lvc") == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_bundle_of_other_weights_does_not_encode(folder, tmp_path, capsys):
    assert encode(folder, "dcvc", "--bundle", folder / "fvc", target=tmp_path / "x.lvc") == 2
    assert "exported from other weights" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_bundle_with_a_file_missing_is_refused(folder, tmp_path, capsys):
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in (folder / "fvc").iterdir():
        if path.name != "reconstruction.onnx":
            (copy / path.name).write_bytes(path.read_bytes())
    assert decode(folder, "fvc", tmp_path / "x.mkv", "--bundle", copy) == 2
    assert "reconstruction.onnx: missing" in capsys.readouterr().err


def test_damage_keeps_what_is_whole_and_is_told(folder, tmp_path, capsys):
    data = bytearray((folder / "fvc.lvc").read_bytes())
    with Reader(folder / "fvc.lvc") as reader:
        offset = [packet.offset for packet in reader.packets()][3]
    data[offset + 30] ^= 1
    (tmp_path / "bad.lvc").write_bytes(data)
    given = ["decode", tmp_path / "bad.lvc", tmp_path / "x.mkv", "--bundle", folder / "fvc"]
    assert main([str(argument) for argument in given]) == 2
    assert "packet 3: CRC mismatch" in capsys.readouterr().err
    assert len(pictures(tmp_path / "x.mkv")) == 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--intra-period", "0"], "--intra-period"),
        (["--margin", "0.5"], "--margin"),
        (["--rate", "1"], "--rate: dcvc has one rate"),
        (["--weights", "nowhere"], "nowhere: no such file"),
        (["--intra", "jpeg"], "jpeg"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_told(folder, tmp_path, capsys, more, told):
    assert encode(folder, "dcvc", *more, target=tmp_path / "x.lvc") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x.lvc").exists()


def test_half_an_encode_can_be_decoded(folder, tmp_path, capsys):
    data = (folder / "fvc.lvc").read_bytes()
    with Reader(folder / "fvc.lvc") as reader:
        end = [packet.offset for packet in reader.packets()][4]
    (tmp_path / "cut.lvc").write_bytes(data[:end])
    given = ["decode", tmp_path / "cut.lvc", tmp_path / "x.mkv", "--bundle", folder / "fvc"]
    assert main([str(argument) for argument in given]) == 0
    assert "cut short" in capsys.readouterr().err
    assert len(pictures(tmp_path / "x.mkv")) == 4


def test_the_player_imports_neither_torch_nor_compressai():
    check = "import sys, lvc.decode, lvc.video; sys.exit('torch' in sys.modules)"
    root = Path(lvc.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", check], cwd=root).returncode == 0


def test_memory_does_not_grow_with_the_length_of_the_video(folder, tmp_path):
    def peak(frames):
        """Bytes at most, coding and decoding that many frames."""
        write_clip(tmp_path / "long.mkv", frames)
        tracemalloc.start()
        coded = tmp_path / "long.lvc"
        assert encode(folder, "fvc", source=tmp_path / "long.mkv", target=coded) == 0
        bundle = ["--bundle", folder / "fvc"]
        assert decode(folder, "fvc", tmp_path / "out.mkv", *bundle, source=coded) == 0
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(24)  # fills the caches of tables
    of_a_picture = 4 * 3 * WIDTH * HEIGHT
    assert peak(24) - peak(6) < 6 * of_a_picture


class OtherArithmetic:
    """Networks whose results are some way off, as those of a processor's bfloat16 mode are."""

    def __init__(self, networks, off):
        self.networks, self.off = networks, off

    def __getattr__(self, name):
        return getattr(self.networks, name)

    def at(self, rate):
        return OtherArithmetic(self.networks.at(rate), self.off)

    def run(self, *given):
        found = self.networks.run(*given)
        return {name: value * np.float32(1 + self.off) for name, value in found.items()}


@by_codec
@pytest.mark.parametrize("where", ["P", "I"])
def test_a_whole_file_is_not_called_damaged_where_this_machine_computes_otherwise(
    folder, name, where
):
    path = folder / f"{name}.lvc"
    if where == "I" and name != "dcvc_hem":
        pytest.skip("its I frames are lossless here: no network decodes them")
    with Reader(path) as reader:
        networks, intra = open_bundle(folder / name, reader.header, Setting(threads=1))
        if where == "P":
            networks = OtherArithmetic(networks, 2.0**-8)
        else:
            intra = NetworkPictures(OtherArithmetic(intra.networks, 2.0**-8))
        with pytest.raises(DamageError) as told:
            list(Player(reader, networks, intra).pictures())
    message = str(told.value)
    assert "damaged" not in message and "is whole by its checksum" in message
    assert "this machine computes the networks with other results" in message
    assert "bfloat16" in message and f"margin of {reader.header.margin:g}" in message


def test_a_damaged_file_is_still_called_damaged(folder, tmp_path):
    data = bytearray((folder / "fvc.lvc").read_bytes())
    with Reader(folder / "fvc.lvc") as reader:
        packet = list(reader.packets())[1]
    data[packet.offset + packet.length // 2] ^= 1
    (tmp_path / "a.lvc").write_bytes(data)
    with Reader(tmp_path / "a.lvc") as reader:
        networks, intra = open_bundle(folder / "fvc", reader.header, Setting(threads=1))
        with pytest.raises(DamageError, match="damaged at byte"):
            list(Player(reader, networks, intra).pictures())
