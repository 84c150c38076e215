"""All bundled codecs side by side: parameters, MACs and channel groups, counted on shapes alone.

    python benchmarks/codecs_table.py
    python benchmarks/codecs_table.py --presets small --codecs dcvc elf_vc

Parameters in millions, of everything and of the receiver; the receiver's MACs of one P frame of
1920x1080 (an I frame's for picture codecs), as it is padded, by pixel of the picture shown, in
thousands; channel groups of the receiver, and the share of its MACs in layers that can lose
channels of their own. The table goes to standard output in Markdown: it is that of
docs/codecs/README.md.
"""

import argparse
import sys

import torch

import vcodecs
from prune.groups.find import find_groups
from prune.measure.macs import decoder_macs

SIZE = 1080, 1920
CODECS = ("dcvc", "dcvc_hem", "dcvc_hem_intra", "dcvc_sdd", "elf_vc", "fvc", "slimvc")
WIDEST = {"slimvc": "{}@1"}
"""Of codecs of several widths the widest is counted."""
FIRST = {("slimvc", "official"): "full_interfaces"}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    parser.add_argument("--presets", nargs="+", default=["official", "small"])
    return parser.parse_args()


def on_shapes(name, preset):
    with torch.device("meta"):
        return vcodecs.create(name, preset).to("meta").eval()


def millions(codec, modules):
    return sum(p.numel() for name in modules for p in part_of(codec, name)) / 1e6


def part_of(codec, name):
    """Parameters of a module, or one that the codec holds itself."""
    holder, _, last = name.rpartition(".")
    found = getattr(codec.get_submodule(holder) if holder else codec, last)
    return [found] if isinstance(found, torch.nn.Parameter) else found.parameters()


def row(name, preset):
    preset = WIDEST.get(name, "{}").format(FIRST.get((name, preset), preset))
    codec = on_shapes(name, preset)
    macs = decoder_macs(codec, *SIZE)
    channels = find_groups(codec)
    free = {m.layer for g in channels.groups for m in g.producers()}
    share = sum(n for layer, n in macs.by_layer.items() if layer in free or bare(layer) in free)
    cells = (
        name,
        preset,
        f"{sum(p.numel() for p in codec.parameters()) / 1e6:.2f}",
        f"{millions(codec, codec.decoder_modules()):.2f}",
        f"{macs.total / (SIZE[0] * SIZE[1]) / 1e3:.1f}",
        str(len(channels.groups)),
        f"{100 * share / macs.total:.0f} %",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def bare(layer):
    """A sub-pixel convolution's inside is counted, the whole of it is in a group."""
    return layer.rpartition(".")[0]


def main():
    arguments = parse()
    heads = ("codec", "preset", "parameters, M", "receiver, M", "kMAC a pixel", "groups", "free")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for preset in arguments.presets:
        for name in arguments.codecs:
            row(name, preset)


if __name__ == "__main__":
    sys.exit(main())
