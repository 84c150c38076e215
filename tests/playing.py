"""Clips, weights and bundles of tiny codecs in a folder, and what is coded with them."""

import hem
import numpy as np
from reference_fill import picture
from test_real_bits import make

from lvc.pictures import as_picture
from lvc.video import open_sink, open_source
from prune.onnx_export.bundle import Size, export_bundle
from vcodecs import checkpoints
from vcodecs.__main__ import main

WIDTH, HEIGHT, FRAMES = 100, 72, 5
CODECS = ("dcvc", "dcvc_hem", "dcvc_sdd", "elf_vc", "fvc", "slimvc")
RATED = ("dcvc_hem", "dcvc_sdd", "elf_vc", "slimvc")


def write_clip(path, frames=FRAMES):
    """A lossless video."""
    with open_sink(path, WIDTH, HEIGHT, 25) as sink:
        for i in range(frames):
            sink.write(as_picture(picture(HEIGHT, WIDTH, phase=0.1 * i).numpy()))


def save_and_export(name, folder):
    """NAME.safetensors and the bundle NAME; for DCVC-HEM those of its I frames as well."""
    codec = make(name)
    checkpoints.save(codec, folder / f"{name}.safetensors")
    export_bundle(codec, folder / name, Size(128, 128))
    if name == "dcvc_hem":
        intra = hem.lively(hem.INTRA)
        checkpoints.save(intra, folder / "intra.safetensors")
        export_bundle(intra, folder / name / "intra", Size(128, 128))


def make_coded(folder, *names):
    """The clip, and for each codec its weights, its bundle and NAME.lvc."""
    write_clip(folder / "clip.mkv")
    for name in names:
        save_and_export(name, folder)
        assert encode(folder, name) == 0
    return folder


def encode(folder, name, *more, source=None, target=None):
    """NAME.lvc of the clip, with torch; the exit status."""
    intra = (
        f"network:checkpoint={folder / 'intra.safetensors'}" if name == "dcvc_hem" else "lossless"
    )
    rate = ["--rate", "1.3"] if name in RATED else []
    weights = folder / f"{name}.safetensors"
    common = ["--weights", weights, "--intra", intra, "--intra-period", 3, *rate, *more]
    target = target or folder / f"{name}.lvc"
    return main([str(a) for a in ("encode", source or folder / "clip.mkv", target, *common)])


def decode(folder, name, target, *more, source=None):
    """Decode NAME.lvc; the exit status."""
    intra = ["--intra-weights", folder / "intra.safetensors"] if name == "dcvc_hem" else []
    given = ["decode", source or folder / f"{name}.lvc", target, *more, *intra]
    return main([str(argument) for argument in given])


def pictures(path):
    """All pictures of a video, uint8 (T, 3, H, W)."""
    with open_source(path) as source:
        return np.stack(list(source))


def assert_same_video(torch_made, player_made):
    """Pictures are floats until they are shown: now and then one is rounded the other way."""
    torch_made, player_made = pictures(torch_made), pictures(player_made)
    assert torch_made.shape == player_made.shape == (FRAMES, 3, HEIGHT, WIDTH)
    difference = np.abs(torch_made.astype(int) - player_made)
    assert difference.max() <= 1 and difference.mean() < 0.01
