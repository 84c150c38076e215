"""Video files to .lvc and back on the command line, with torch and without."""

import subprocess
import sys
from pathlib import Path

import hem
import numpy as np
import pytest
import torch
from reference_fill import picture
from test_real_bits import make

import lvc
from lvc.container import Reader
from lvc.pictures import as_picture
from lvc.video import open_sink, open_source
from prune.export import Size, export_bundle
from vcodecs import checkpoints
from vcodecs.__main__ import main

WIDTH, HEIGHT, FRAMES = 100, 72, 5
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
    folder = tmp_path_factory.mktemp("player")
    with open_sink(folder / "clip.mkv", WIDTH, HEIGHT, 25) as sink:
        for i in range(FRAMES):
            sink.write(as_picture(picture(HEIGHT, WIDTH, phase=0.1 * i).numpy()))
    for name in ("dcvc", "dcvc_hem", "fvc"):
        codec = make(name)
        checkpoints.save(codec, folder / f"{name}.safetensors")
        export_bundle(codec, folder / name, Size(128, 128))
    intra = hem.lively(hem.INTRA)
    checkpoints.save(intra, folder / "intra.safetensors")
    export_bundle(intra, folder / "dcvc_hem" / "intra", Size(128, 128))
    for name in ("dcvc", "dcvc_hem", "fvc"):
        assert encode(folder, name) == 0
    return folder


def encode(folder, name, *more, target=None):
    intra = (
        f"network:checkpoint={folder / 'intra.safetensors'}" if name == "dcvc_hem" else "lossless"
    )
    rate = ["--rate", "1.3"] if name == "dcvc_hem" else []
    weights = folder / f"{name}.safetensors"
    common = ["--weights", weights, "--intra", intra, "--intra-period", 3, *rate, *more]
    target = target or folder / f"{name}.lvc"
    return main([str(a) for a in ("encode", folder / "clip.mkv", target, *common)])


def decode(folder, name, target, *more):
    intra = ["--intra-weights", folder / "intra.safetensors"] if name == "dcvc_hem" else []
    given = ["decode", folder / f"{name}.lvc", target, *more, *intra]
    return main([str(argument) for argument in given])


def pictures(path):
    with open_source(path) as source:
        return np.stack(list(source))


by_codec = pytest.mark.parametrize("name", ["dcvc", "dcvc_hem", "fvc"])


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
    torch_made, player_made = pictures(tmp_path / "torch.mkv"), pictures(tmp_path / "player.mkv")
    assert torch_made.shape == (FRAMES, 3, HEIGHT, WIDTH)
    # Pictures are floats until they are shown: now and then one is rounded the other way.
    difference = np.abs(torch_made.astype(int) - player_made)
    assert difference.max() <= 1 and difference.mean() < 0.01


@by_codec
def test_what_onnxruntime_encoded_torch_decodes(folder, name, tmp_path):
    file = tmp_path / "onnx.lvc"
    assert encode(folder, name, "--bundle", folder / name, target=file) == 0
    torch.set_flush_denormal(False)
    with Reader(file) as there, Reader(folder / f"{name}.lvc") as here:
        assert [p.digest for p in there.packets()] == [p.digest for p in here.packets()]
    intra = ["--intra-weights", folder / "intra.safetensors"] if name == "dcvc_hem" else []
    weights = folder / f"{name}.safetensors"
    given = ["decode", file, tmp_path / "out.mkv", "--weights", weights, *intra]
    assert main([str(argument) for argument in given]) == 0
    assert len(pictures(tmp_path / "out.mkv")) == FRAMES


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
