"""x265, x264 and SVT-AV1 on the same clips: rate and RGB-PSNR, with real bits.

    python benchmarks/anchors.py --source CLIPS --frames 9
    python benchmarks/anchors.py --source CLIPS --frames 9 --bpp 0.05 0.1 0.2 > anchors.json
    python benchmarks/anchors.py --source CLIPS --frames 9 --codec h264:veryfast av1:8
    python benchmarks/anchors.py --source CLIPS --store

All are tuned for PSNR, low delay P: the first frame I, all others P. `--codec` takes NAME:PRESET;
without one the preset is medium, of av1 4. `--qp` measures fixed QPs; `--bpp` searches each clip's
QP whose bits are nearest to the ones given. The table goes to standard error, the JSON list of all
results to standard output.

`--store` measures the anchors that `teachers.py` compares with, at QPs of their own, over 32 frames
(a clip with fewer: all), into benchmarks/results/anchors.json, and goes on from what is there.
"""

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lvc.anchor import Colour, anchor
from prune.cli import main
from prune.data import open_source
from prune.evaluation.clips import read_clips
from prune.evaluation.metrics import mean
from rd.anchors import KINDS, STORE, Store
from rd.clips import FRAMES
from rd.clips import read_clips as first_frames

CODECS = ("hevc", "h264")
QPS = (22, 27, 32, 37)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="a clip, a folder, or procedural")
    parser.add_argument("--frames", type=int, default=9, help="first frames of each clip")
    parser.add_argument("--clips", type=int, help="at most so many clips")
    parser.add_argument("--codec", nargs="+", default=CODECS, help="hevc, h264 or av1, :PRESET")
    points = parser.add_mutually_exclusive_group()
    points.add_argument("--qp", nargs="+", type=int, default=QPS, help="0 (best) to 51, av1 to 63")
    points.add_argument("--bpp", nargs="+", type=float, help="bits per pixel to come near to")
    parser.add_argument("--matrix", default="bt709", help="bt709 or bt601")
    parser.add_argument("--range", default="limited", help="limited or full")
    parser.add_argument(
        "--store", action="store_true", help="those of teachers.py, into their file"
    )
    return parser.parse_args()


def measure(arguments):
    """All results, one dict for each clip, codec and point; clips left out with the reason."""
    source = open_source(arguments.source)
    colour = Colour(arguments.matrix, arguments.range)
    if arguments.bpp:
        points = [{"target_bpp": bpp} for bpp in arguments.bpp]
    else:
        points = [{"qp": qp} for qp in arguments.qp]
    rows, skipped = [], {}
    for info, frames in read_clips(source, arguments.frames, arguments.clips, skipped):
        for spec in arguments.codec:
            codec, _, preset = spec.partition(":")
            for point in points:
                result = anchor(
                    frames, info.fps, codec, colour=colour, preset=preset or None, **point
                )
                rows.append({"clip": info.name, **asdict(result), **point})
    return rows, source.skipped | skipped


def show(rows, skipped, console):
    table = Table(title="anchors, averages over all frames, I frame included")
    for heading in ("clip", "codec", "asked for"):
        table.add_column(heading)
    for heading in ("QP", "bpp", "PSNR, dB"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(escape(row["clip"]), coder(row), asked(row), str(row["qp"]), *figures([row]))
    table.add_section()
    for codec, point in dict.fromkeys((coder(row), asked(row)) for row in rows):
        group = [row for row in rows if (coder(row), asked(row)) == (codec, point)]
        table.add_row(f"mean of {len(group)}", codec, point, "", *figures(group))
    console.print(table)
    for clip, reason in skipped.items():
        console.print(f"left out: {clip}: {reason}", markup=False)


def coder(row):
    return f"{row['codec']}:{row['preset']}"


def asked(row):
    return f"{row['target_bpp']:g} bpp" if "target_bpp" in row else f"QP {row['qp']}"


def figures(rows):
    return f"{mean(row['bpp'] for row in rows):.4f}", f"{mean(row['psnr'] for row in rows):.2f}"


def store(arguments, console):
    """Fill the file of anchors; what is in it stays."""
    kept = Store(STORE)
    for clip in first_frames(arguments.source, FRAMES):
        for kind in KINDS:
            kept.curve(clip, kind, console.print)


def run():
    arguments = parse()
    if arguments.store:
        return store(arguments, Console(stderr=True, markup=False))
    rows, skipped = measure(arguments)
    show(rows, skipped, Console(stderr=True))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(run)
