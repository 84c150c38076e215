"""A dense codec on real clips, beside x265 and x264 at like rates: the tables of a teacher's card.

    python benchmarks/teacher.py dcvc small dcvc_small --source FOLDER [--p-frames 8]
    python benchmarks/teacher.py dcvc_hem small dcvc_hem_small --source FOLDER \
        --intra network:checkpoint=dcvc_hem_intra_small

Closed loop: one I frame, then P frames that each reference the last reconstruction, at each of the
codec's rate points. Its rates are estimates, with the real bits of I frames that have some; x265
and x264 (medium, low delay P) code the same frames with the QP whose real rate comes nearest.
"""

import argparse
from dataclasses import dataclass

import vcodecs
from lvc.anchor import anchor
from prune.cli import main
from prune.data import open_source
from prune.evaluate import evaluate_clip
from prune.quality import bd, mean
from vcodecs.intra import create_intra

ANCHORS = ("hevc", "h264")


@dataclass
class Row:
    """One clip at one rate: bits per pixel and PSNR in dB."""

    clip: str
    rate: float | None
    p_frames: tuple[float, float]
    last_psnr: float
    all_frames: tuple[float, float]
    anchors: dict[str, tuple[float, float]]


def command():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec")
    parser.add_argument("preset")
    parser.add_argument("checkpoint")
    parser.add_argument("--source", required=True)
    parser.add_argument("--p-frames", type=int, default=8)
    parser.add_argument("--intra", default="hevc:qp=22")
    arguments = parser.parse_args()
    codec = vcodecs.create(arguments.codec, arguments.preset, arguments.checkpoint).eval()
    source, intra = open_source(arguments.source), create_intra(arguments.intra)
    rows = []
    for index in range(len(source)):
        info = source.info(index)
        clip = source.read(index, 0, arguments.p_frames + 1)
        rows += [measure(codec, rate, info, clip, intra) for rate in codec.rates()]
    averages(rows, codec.rates())
    clips(rows, codec.rates())


def measure(codec, rate, info, clip, intra):
    result = evaluate_clip(codec, clip, intra, rate, len(clip))
    found = {name: anchor(clip, info.fps, name, target_bpp=result.bpp) for name in ANCHORS}
    return Row(
        info.name,
        rate,
        (result.p_bpp, result.p_psnr),
        result.frame_psnr[-1],
        (result.bpp, result.psnr),
        {name: (a.bpp, a.psnr) for name, a in found.items()},
    )


def averages(rows, rates):
    """Means over clips by rate, and the Bjontegaard rates of those curves."""
    print("| rate | P frames: bpp | PSNR | last P: PSNR | all: bpp | PSNR | x265: bpp | PSNR "
          "| x264: bpp | PSNR |")  # fmt: skip
    print("|---|" + 9 * "---|")
    curves = {name: [] for name in ("codec", *ANCHORS)}
    for rate in rates:
        here = [row for row in rows if row.rate == rate]
        pairs = [means(row.p_frames for row in here), means(row.all_frames for row in here)]
        pairs += [means(row.anchors[name] for row in here) for name in ANCHORS]
        for name, pair in zip(curves, pairs[1:], strict=True):
            curves[name].append(pair)
        last = mean(row.last_psnr for row in here)
        cells = [shown(pairs[0]), f"{last:.2f}", *map(shown, pairs[1:])]
        print(f"| {'one' if rate is None else f'{rate:g}'} | {' | '.join(cells)} |")
    for name in ANCHORS:
        delta = bd(*zip(*curves[name], strict=True), *zip(*curves["codec"], strict=True))
        print(f"\nagainst {name}: BD-PSNR {delta.psnr_db}, BD-rate {delta.rate_percent} "
              f"({delta.why or 'four rate points'})")  # fmt: skip


def clips(rows, rates):
    """Rate and PSNR of every clip, all frames, one pair of columns a rate."""
    heads = [("one rate" if rate is None else f"rate {rate:g}") for rate in rates]
    print(f"\n| clip | {' | '.join(f'{head}: bpp | PSNR' for head in heads)} |")
    print("|---|" + 2 * len(rates) * "---|")
    for name in dict.fromkeys(row.clip for row in rows):
        mine = [row for row in rows if row.clip == name]
        print(f"| {name} | {' | '.join(shown(row.all_frames) for row in mine)} |")


def means(pairs):
    return tuple(map(mean, zip(*pairs, strict=True)))


def shown(pair):
    return f"{pair[0]:.3f} | {pair[1]:.2f}"


if __name__ == "__main__":
    main(command)
