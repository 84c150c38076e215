"""Do coded files decode to the same symbols under other arithmetic than they were coded in?

    python benchmarks/arithmetic.py CLIPS
    python benchmarks/arithmetic.py CLIPS --codecs dcvc_small,fvc_small --frames 3 --json FILE

Every clip of the folder is coded once with each bundled codec, by torch with one thread; each file
is then decoded under every arithmetic, in a process of its own with the environment that chooses
it. Equal: every packet's digest is that of the symbols that were coded. Refused: the player ended
with one message, at the packet where they were not, and showed nothing behind. Whatever else (a
frame missing, an exception) counts as wrong, and the exit status is 1 then.

What is done is kept in --folder: stopped and started again, it goes on.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import vcodecs
from lvc.bundle import BundleNetworks
from lvc.container import Reader, Writer
from lvc.decode import INTRA_FOLDER
from lvc.files import atomic_write
from lvc.intra import NetworkPictures, create_pictures
from lvc.packets import MismatchError
from lvc.player import Player
from lvc.runtimes import Setting
from prune.data import open_source
from prune.evaluation.clips import read_clips
from prune.measure.latency import cpu_name
from prune.onnx_export.bundle import Size, export_bundle
from vcodecs.coding import TorchNetworks
from vcodecs.encode import Encoder
from vcodecs.intra import create_intra

CODECS = ("dcvc_small", "dcvc_hem_small", "fvc_small", "dcvc_base", "fvc_base")
INTRA = {"dcvc_hem_small": "dcvc_hem_intra_small"}
"""Learned I frames; the others' are x265's."""
COMMON = "hevc:qp=22"
RATE = {"dcvc_hem_small": 1.5}

FORCED = "LEANVC_BENCHMARK_BF16"
"""Tells a child to decode under autocast: torch may not heed oneDNN's mode (see docs/scale.md)."""

ARITHMETIC = {
    "torch, 1 thread": ("torch", 1, {}),
    "torch, 2 threads": ("torch", 2, {}),
    "torch, 4 threads": ("torch", 4, {}),
    "torch, oneDNN up to SSE4.1": ("torch", 1, {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "torch, oneDNN up to AVX2": ("torch", 1, {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "torch, oneDNN's BF16 mode": ("torch", 1, {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}),
    "torch, convolutions in bfloat16": ("torch", 1, {FORCED: "1"}),
    "onnxruntime, 1 thread": ("onnxruntime", 1, {}),
    "onnxruntime, 2 threads": ("onnxruntime", 2, {}),
    "onnxruntime, 4 threads": ("onnxruntime", 4, {}),
}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path)
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--frames", type=int, default=3, help="of each clip, the I frame included")
    parser.add_argument("--crop", type=int, help="the middle so many pixels squared of each frame")
    parser.add_argument("--folder", type=Path, default=Path("runs/arithmetic"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--receive", nargs=3, metavar=("CODEC", "RUNTIME", "THREADS"))
    return parser.parse_args()


def codec_of(weights):
    return vcodecs.create(weights.rpartition("_")[0], checkpoint=weights).eval()


def code(name, arguments):
    """A file for each clip, and the bundle, below the folder."""
    place = arguments.folder / name
    if (place / "coded.json").exists():
        return
    torch.set_num_threads(1)
    codec = codec_of(name)
    networks, learned = TorchNetworks(codec), INTRA.get(name)
    export_bundle(codec, place / "bundle", Size(256, 448))
    if learned:
        intra = codec_of(learned)
        export_bundle(intra, place / "bundle" / INTRA_FOLDER, Size(256, 448))
    names = []
    for info, frames in read_clips(open_source(arguments.clips), arguments.frames, None, {}):
        pictures = create_intra(f"network:checkpoint={learned}" if learned else COMMON)
        frames = cropped(frames, arguments.crop)
        encoder = Encoder(networks, pictures, len(frames), RATE.get(name))
        height, width = frames.shape[-2:]
        path = place / f"{Path(info.name).stem}.lvc"
        with Writer(path, encoder.header(width, height, info.fps)) as writer:
            for picture in frames:
                coded = encoder.code(picture)
                writer.write(coded.kind, coded.payload, encoder.rate, coded.digest)
        names.append(path.name)
        print(f"{name}: {path.name} coded", file=sys.stderr, flush=True)
    atomic_write(place / "coded.json", json.dumps(names))


def cropped(frames, side):
    if not side:
        return frames
    top, left = (max(0, size - side) // 2 for size in frames.shape[-2:])
    return np.ascontiguousarray(frames[..., top : top + side, left : left + side])


def receive(arguments):
    """The child's part: decodes every file of some codecs, and says of each how it ended."""
    names, runtime, threads = arguments.receive
    torch.set_num_threads(int(threads))
    torch.set_flush_denormal(False)
    with torch.autocast("cpu", torch.bfloat16, enabled=FORCED in os.environ):
        found = {n: ends(n, runtime, int(threads), arguments) for n in names.split(",")}
    print(json.dumps(found))


def ends(name, runtime, count, arguments):
    place = arguments.folder / name
    if runtime == "torch":
        networks = TorchNetworks(codec_of(name))
        intra = TorchNetworks(codec_of(INTRA[name])) if name in INTRA else None
    else:
        networks = BundleNetworks(place / "bundle", setting=Setting(threads=count))
        inside = place / "bundle" / INTRA_FOLDER
        intra = (
            BundleNetworks(inside, setting=Setting(threads=count), intra=True)
            if name in INTRA
            else None
        )
    pictures = NetworkPictures(intra) if intra else create_pictures(COMMON)
    found = {}
    for file in json.loads((place / "coded.json").read_text()):
        with Reader(place / file) as reader:
            shown, end = 0, "equal"
            try:
                for _ in Player(reader, networks, pictures).pictures():
                    shown += 1
            except MismatchError as error:
                end = f"refused at packet {error.frame}"
                if shown != error.frame:
                    end = f"wrong: {shown} frames shown, {end}"
            if end == "equal" and shown != reader.frames:
                end = f"wrong: {shown} of {reader.frames} frames"
        found[file] = end
    return found


def decoded(names, arithmetic, arguments):
    """By codec and file, how it ended."""
    runtime, threads, environment = ARITHMETIC[arithmetic]
    options = ["--receive", ",".join(names), runtime, str(threads)]
    options += ["--folder", str(arguments.folder)]
    done = subprocess.run(
        [sys.executable, __file__, str(arguments.clips), *options],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)} | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {name: {"": f"wrong: {done.stderr.strip().splitlines()[-1]}"} for name in names}
    return json.loads(done.stdout.splitlines()[-1])


def study():
    arguments = parse()
    if arguments.receive:
        receive(arguments)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    state, names = arguments.folder / "found.json", arguments.codecs.split(",")
    found = json.loads(state.read_text()) if state.exists() else {}
    for name in names:
        code(name, arguments)
    for arithmetic in ARITHMETIC:
        known = found.setdefault(arithmetic, {})
        if left := [name for name in names if name not in known]:
            known |= decoded(left, arithmetic, arguments)
            save(state, arguments, found)
        for name in names:
            print(f"{arithmetic}; {name}: {counted(known[name].values())}", flush=True)
    every = [end for known in found.values() for one in known.values() for end in one.values()]
    sys.exit(1 if any(end.startswith("wrong") for end in every) else 0)


def save(state, arguments, found):
    atomic_write(state, json.dumps(found))
    if arguments.json:
        result = {"cpu": cpu_name(), "torch": torch.__version__, "frames": arguments.frames}
        result |= {"crop": arguments.crop, "ends": found}
        atomic_write(arguments.json, json.dumps(result, indent=1) + "\n")


def counted(ends):
    kinds = [end.split()[0].rstrip(":") for end in ends]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


if __name__ == "__main__":
    study()
