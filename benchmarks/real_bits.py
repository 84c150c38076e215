"""Real bits of finished runs: do all decoders agree, how large are files, and how fast is coding?

    python benchmarks/real_bits.py runs/dcvc runs/dcvc_hem runs/fvc --source CLIPS

Every clip is encoded to a file at every rate by each sender, with the dense and the sparse codec
of each run, and each file is decoded by every receiver but its sender. Senders and receivers are
torch or the run's ONNX bundle with a number of threads: torch1, torch2, onnx2. A decoding counts as
equal where every packet's digest is that of the symbols that were coded. Real bits are those of
payloads, estimates those of the consistent path (`vcodecs.coding.compress`), both of P frames.

Times are by frame, P frames alone; ratios of dense to sparse are of the same clip in turn.
The tables go to standard output, all rows as JSON to `--json`.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lvc.anchor import psnr
from lvc.bundle import BundleNetworks
from lvc.container import Reader, Writer
from lvc.decode import INTRA_FOLDER
from lvc.errors import UserError
from lvc.files import atomic_write
from lvc.intra import NetworkPictures, create_pictures
from lvc.player import Player
from lvc.runtimes import Setting
from prune.cli import main
from prune.data import open_source
from prune.evaluation.clips import read_clips
from prune.report.schema import load_report
from vcodecs.coding import TorchNetworks
from vcodecs.encode import Encoder
from vcodecs.intra import NetworkIntra, create_intra
from vcodecs.registry import codec_of

console = Console(stderr=True)


@dataclass
class File:
    """One clip as one sender coded it; bits and seconds of P frames."""

    run: str
    kind: str
    clip: str
    rate: float | None
    sender: str
    pixels: int
    psnr: float
    real: list[int]
    estimated: list[float]
    seconds: list[float]


@dataclass
class Decoding:
    """One file as one receiver decoded it; `wrong` says why it is not what was coded."""

    run: str
    kind: str
    clip: str
    rate: float | None
    sender: str
    receiver: str
    seconds: list[float]
    wrong: str = ""


class Codec:
    """The dense or the sparse codec of a run, by torch and by its bundle."""

    def __init__(self, run, kind):
        step, bundle = {"dense": ("teacher", "onnx_dense"), "sparse": ("finetune", "onnx")}[kind]
        self.run, self.kind, self.folder = run.name, kind, run / bundle
        self.bundles = {}
        self.torch = TorchNetworks(codec_of(run / step / "weights.safetensors"))
        self.spec = load_report(run / "report.json").recipe["evaluate"]["intra"]
        self.intra = create_intra(self.spec)
        self.learned = isinstance(self.intra, NetworkIntra)
        if self.learned:
            self.torch_intra = TorchNetworks(self.intra.network)

    def encoder(self, party, rate, frames):
        networks, intra = self.networks(party)
        if self.learned:
            self.intra.code_by(self.torch_intra, intra)
        return Encoder(self.torch, self.intra, frames, rate, networks)

    def decoder(self, party):
        networks, intra = self.networks(party)
        if self.learned:
            return networks, NetworkPictures(intra)
        return networks, create_pictures(self.spec)

    def networks(self, party):
        """Those of P frames and of learned I frames, at the party's number of threads."""
        torch.set_flush_denormal(False)
        torch.set_num_threads(int(party[-1]))
        if party.startswith("torch"):
            return self.torch, self.torch_intra if self.learned else None
        if party not in self.bundles:
            self.bundles[party] = self.bundle(int(party[-1]))
        return self.bundles[party]

    def bundle(self, threads):
        """The bundle, and that of its learned I frames; sessions stay open from file to file."""
        inside = self.folder / INTRA_FOLDER
        intra = BundleNetworks(inside, setting=Setting(threads=threads)) if self.learned else None
        return BundleNetworks(self.folder, setting=Setting(threads=threads)), intra


def encode(codec, clip, frames, fps, rate, sender, path):
    """Write the file; what was measured of it."""
    encoder = codec.encoder(sender, rate, len(frames))
    real, estimated, seconds, quality = [], [], [], []
    height, width = frames.shape[-2:]
    with Writer(path, encoder.header(width, height, fps)) as writer:
        for picture in frames:
            begin = time.perf_counter()
            coded = encoder.code(picture)
            taken = time.perf_counter() - begin
            writer.write(coded.kind, coded.payload, encoder.rate, coded.digest)
            if coded.kind == "P":
                seconds.append(taken)
                real.append(8 * len(coded.payload))
                estimated.append(coded.details.estimate)
                quality.append(psnr(picture, coded.picture))
    return File(
        codec.run, codec.kind, clip, rate, sender, height * width, float(np.mean(quality)),
        real, estimated, seconds,
    )  # fmt: skip


def decode(codec, file, receiver, path):
    decoding = Decoding(*list(asdict(file).values())[:5], receiver, [])
    networks, intra = codec.decoder(receiver)
    with Reader(path) as reader:
        pictures = Player(reader, networks, intra).pictures()
        try:
            while True:
                begin = time.perf_counter()
                shown = next(pictures, None)
                if shown is None:
                    break
                if shown.kind == "P":
                    decoding.seconds.append(time.perf_counter() - begin)
        except UserError as error:
            decoding.wrong = str(error)
    if not decoding.wrong and len(decoding.seconds) != len(file.real):
        decoding.wrong = "frames are missing"
    return decoding


def measure(arguments):
    codecs = [Codec(run, kind) for run in arguments.runs for kind in ("dense", "sparse")]
    source, skipped = open_source(arguments.source), {}
    files, decodings = [], []
    clips = read_clips(source, arguments.p_frames + 1, arguments.clips, skipped)
    for info, frames in clips:
        frames = cropped(frames, arguments.crop)
        for codec in codecs:
            wanted = arguments.rates or codec.torch.codec.rates()
            for rate in wanted if len(codec.torch.codec.rates()) > 1 else (None,):
                for sender in arguments.senders:
                    file, decoded = attempt(codec, info, frames, rate, sender, arguments)
                    files.append(file)
                    decodings += decoded
                wrong = sum(bool(one.wrong) for one in decodings)
                console.print(
                    f"{info.name}, {codec.run} {codec.kind}, rate {rate}: "
                    f"{len(decodings)} decodings so far, {wrong} of them wrong"
                )
    return files, decodings, skipped | source.skipped


def attempt(codec, info, frames, rate, sender, arguments):
    """A file, and what its receivers made of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.lvc"
        file = encode(codec, info.name, frames, info.fps, rate, sender, path)
        receivers = [r for r in arguments.receivers if r != sender or arguments.same]
        return file, [decode(codec, file, receiver, path) for receiver in receivers]


def cropped(frames, side):
    """The middle `side` x `side` of frames, where they are larger."""
    if not side:
        return frames
    top, left = (max(0, s - side) // 2 for s in frames.shape[-2:])
    return np.ascontiguousarray(frames[..., top : top + side, left : left + side])


def sizes(files):
    """Estimated and real rates of P frames, and how far the worst frame is above its estimate."""
    heads = ("run", "codec", "rate", "P frames", "bpp estimated", "bpp real", "real - estimated")
    table = Table(*heads, "frames within 1 % + 64 B", "PSNR, dB", title="Rates of P frames")
    for (run, kind, rate), group in grouped(files, "run", "kind", "rate").items():
        estimated, real = (
            np.mean([np.mean(getattr(f, which)) / f.pixels for f in group])
            for which in ("estimated", "real")
        )
        pairs = [pair for f in group for pair in zip(f.real, f.estimated, strict=True)]
        near = sum(abs(r - e) <= 0.01 * e + 8 * 64 for r, e in pairs)
        table.add_row(
            run,
            kind,
            "one" if rate is None else f"{rate:g}",
            str(len(pairs)),
            f"{estimated:.4f}",
            f"{real:.4f}",
            f"{100 * (real / estimated - 1):+.2f} %",
            f"{near} of {len(pairs)}",
            f"{np.mean([f.psnr for f in group]):.2f}",
        )
    return table


def agreement(decodings):
    """Files decoded to the symbols that were coded, by sender and receiver."""
    table = Table(
        "run", "codec", "sender", "receiver", "equal", title="Files decoded, every digest equal"
    )
    for key, group in grouped(decodings, "run", "kind", "sender", "receiver").items():
        table.add_row(*key, f"{sum(not one.wrong for one in group)} of {len(group)}")
    return table


def speeds(files, decodings):
    """Median frames a second over the clips, p10 and p90; ratios of dense to sparse by clip."""
    title = "P frames a second: median (p10 to p90)"
    table = Table("run", "side", "dense, fps", "sparse, fps", "sparse against dense", title=title)
    for side, rows, party in (("encode", files, "sender"), ("decode", decodings, "receiver")):
        for (run, name), group in grouped(rows, "run", party).items():
            dense, sparse = (
                {
                    (r.clip, r.rate, r.sender): 1 / np.median(r.seconds)
                    for r in group
                    if r.kind == kind and r.seconds
                }
                for kind in ("dense", "sparse")
            )
            pairs = [sparse[key] / dense[key] for key in dense.keys() & sparse.keys()]
            cells = spread(list(dense.values())), spread(list(sparse.values())), spread(pairs, "x")
            table.add_row(run, f"{side}, {name}", *cells)
    return table


def spread(values, unit=""):
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:.2f}{unit} ({low:.2f} to {high:.2f})"


def grouped(rows, *names):
    found = defaultdict(list)
    for row in rows:
        found[tuple(getattr(row, name) for name in names)].append(row)
    return found


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--source", required=True, help="a clip, a folder, or procedural")
    parser.add_argument("--clips", type=int, help="at most so many")
    parser.add_argument("--p-frames", type=int, default=2, help="of each clip, behind an I frame")
    parser.add_argument("--crop", type=int, default=0, help="middle of the frames, in pixels")
    parser.add_argument("--rates", nargs="+", type=float, help="of codecs of many rates")
    parties = ("torch1", "torch2", "onnx1", "onnx2")
    parser.add_argument("--senders", nargs="+", default=["torch1", "torch2", "onnx2"])
    parser.add_argument("--receivers", nargs="+", default=parties)
    parser.add_argument("--same", action="store_true", help="the sender decodes as well")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def command():
    arguments = parse()
    files, decodings, skipped = measure(arguments)
    shown = Console(width=160)
    shown.print(sizes(files), agreement(decodings), speeds(files, decodings))
    tried = {(f.run, f.kind, f.clip, f.rate) for f in files}
    wrong = [one for one in decodings if one.wrong]
    lost = {(d.run, d.kind, d.clip, d.rate) for d in wrong}
    equal = f"{len(decodings) - len(wrong)} of {len(decodings)} decodings"
    shown.print(
        f"{len(tried) - len(lost)} of {len(tried)} clips and rates: every receiver read what "
        f"every sender coded ({equal})"
    )
    for one in wrong:
        shown.print(f"wrong: {one}")
    for name, reason in skipped.items():
        shown.print(f"left out: {name}: {reason}")
    if arguments.json:
        rows = {"files": list(map(asdict, files)), "decodings": list(map(asdict, decodings))}
        atomic_write(arguments.json, json.dumps(rows) + "\n")


if __name__ == "__main__":
    main(command)
