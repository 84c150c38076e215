"""Auto-regressive latents in wavefronts against raster order: the time to decode one frame's.

    python benchmarks/wavefront.py
    python benchmarks/wavefront.py --weights WEIGHTS.safetensors --bundle BUNDLE

One P frame is encoded in either order and decoded in turn, `--repeat` times; what counts are the
steps that read a latent by waves, everything else of the frame is left out. Raster order is the
same program with one position a wave. `--preset official` takes made-up weights of full width.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import vcodecs
from lvc.bundle import BundleNetworks
from lvc.coder import SymbolReader
from lvc.pictures import as_float, padded
from lvc.program import code_frame
from lvc.runtimes import Setting
from lvc.wavefront import waves
from prune.cli import main
from prune.data.procedural import render
from vcodecs.coding import TorchNetworks, compress
from vcodecs.registry import codec_of


def raster(height, width):
    """Every position a wave of its own."""
    for y in range(height):
        for x in range(width):
            yield np.array([y]), np.array([x])


ORDERS = {"raster": raster, "wavefronts": waves}


class Watch:
    """Networks with a clock on the steps by waves, and on their graphs."""

    def __init__(self, networks):
        self.networks = networks
        self.spent = Counter()

    def __getattr__(self, name):
        return getattr(self.networks, name)

    def at(self, rate):
        return self

    @property
    def steps(self):
        for step in self.networks.steps:
            begin, coded = time.perf_counter(), self.spent["coder"]
            yield step
            if step.kind == "waves":
                self.spent["all"] += time.perf_counter() - begin
                self.spent["coder in waves"] += self.spent["coder"] - coded

    def run(self, graph, inputs):
        begin = time.perf_counter()
        made = self.networks.run(graph, inputs)
        if any(step.graph == graph and step.kind == "waves" for step in self.networks.steps):
            self.spent["networks"] += time.perf_counter() - begin
            self.spent["steps"] += 1
        return made


class TimedReader(SymbolReader):
    """A reader with a clock."""

    def __init__(self, payload, spent):
        super().__init__(payload)
        self.spent = spent

    def symbols(self, values, which, tables):
        begin = time.perf_counter()
        found = super().symbols(values, which, tables)
        self.spent["coder"] += time.perf_counter() - begin
        return found

    def marks(self, values, count):
        begin = time.perf_counter()
        found = super().marks(values, count)
        self.spent["coder"] += time.perf_counter() - begin
        return found


def decode(networks, payload, before, size, order):
    """Seconds by what they went into, and the symbols."""
    watch = Watch(networks)
    with patch("lvc.latents.waves", ORDERS[order]):
        coded = code_frame(watch, TimedReader(payload, watch.spent), before, size)
    return watch.spent, coded.symbols


def prepare(codec, width, height):
    """One P frame as coded in either order, and what its receiver starts from."""
    clip = render(0, 0, height, width, 2)
    before, frame = {"reference": padded(as_float(clip[0]))}, padded(as_float(clip[1]))
    coded = {}
    for order, positions in ORDERS.items():
        with patch("lvc.latents.waves", positions):
            coded[order] = compress(TorchNetworks(codec), torch.from_numpy(frame), before)
    return coded, before, frame.shape[2:]


def compare(name, networks, coded, before, size, repeat):
    """A row: medians of both orders, and the ratio's median and spread."""
    spent = {order: [] for order in ORDERS}
    for _ in range(repeat):
        for order, made in coded.items():
            seconds, symbols = decode(networks, made.payload, before, size, order)
            assert all(np.array_equal(symbols[key], made.symbols[key]) for key in symbols)
            spent[order].append(seconds)
    ratios = [a["all"] / b["all"] for a, b in zip(*spent.values(), strict=True)]
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    cells = [shown(spent[order]) for order in ORDERS]
    return name, *cells, f"{middle:.1f}x ({low:.1f} to {high:.1f})"


def shown(runs):
    """Seconds in all, and what they went into."""
    mean = {key: np.median([run[key] for run in runs]) for key in runs[0]}
    rest = mean["all"] - mean["networks"] - mean["coder in waves"]
    return (
        f"{mean['all']:.2f} s in {mean['steps']:.0f} steps: networks {mean['networks']:.2f}, "
        f"entropy coder {mean['coder in waves']:.2f}, gathering {rest:.2f}"
    )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="dcvc_small", help="file, or name of bundled weights")
    parser.add_argument("--preset", help="made-up weights of this preset of dcvc instead")
    parser.add_argument("--bundle", type=Path, help="of the same weights, for onnxruntime")
    parser.add_argument("--size", default="1920x1088", help="WIDTHxHEIGHT (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of both runtimes (default: all)")
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def command():
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    preset = arguments.preset
    codec = vcodecs.create("dcvc", preset) if preset else codec_of(arguments.weights)
    coded, before, size = prepare(codec.eval(), *map(int, arguments.size.split("x")))
    receivers = {"torch": TorchNetworks(codec)}
    if arguments.bundle:
        receivers["onnxruntime"] = BundleNetworks(
            arguments.bundle, setting=Setting(threads=arguments.threads)
        )
    title = f"Both latents of a P frame, {arguments.size}, {preset or arguments.weights}"
    table = Table("decoder", *ORDERS, "raster / wavefronts", title=title)
    for name, networks in receivers.items():
        table.add_row(*compare(name, networks, coded, before, size, arguments.repeat))
    Console(width=150).print(table)


if __name__ == "__main__":
    main(command)
