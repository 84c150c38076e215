"""What x265 and x264 need on the same clips: rate and RGB-PSNR, with real bits.

    python benchmarks/anchors.py --source CLIPS --frames 9
    python benchmarks/anchors.py --source CLIPS --frames 9 --bpp 0.05 0.1 0.2 > anchors.json

Both run at preset medium, tuned for PSNR, low delay P: the first frame I, all others P. `--qp`
measures fixed QPs; `--bpp` searches each clip's QP whose bits are nearest to the ones given. The
table goes to standard error, the JSON list of all results to standard output.
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
from prune.evaluate import read_clips
from prune.quality import mean

CODECS = ("hevc", "h264")
QPS = (22, 27, 32, 37)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="a clip, a folder, or procedural")
    parser.add_argument("--frames", type=int, default=9, help="first frames of each clip")
    parser.add_argument("--clips", type=int, help="at most so many clips")
    parser.add_argument("--codec", nargs="+", choices=CODECS, default=CODECS)
    points = parser.add_mutually_exclusive_group()
    points.add_argument("--qp", nargs="+", type=int, default=QPS, help="0 (best) to 51")
    points.add_argument("--bpp", nargs="+", type=float, help="bits per pixel to come near to")
    parser.add_argument("--matrix", default="bt709", help="bt709 or bt601")
    parser.add_argument("--range", default="limited", help="limited or full")
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
        for codec in arguments.codec:
            for point in points:
                result = anchor(frames, info.fps, codec, colour=colour, **point)
                rows.append({"clip": info.name, **asdict(result), **point})
    return rows, source.skipped | skipped


def show(rows, skipped, console):
    table = Table(title="anchors, averages over all frames, I frame included")
    for heading in ("clip", "codec", "asked for"):
        table.add_column(heading)
    for heading in ("QP", "bpp", "PSNR, dB"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            escape(row["clip"]), row["codec"], asked(row), str(row["qp"]), *figures([row])
        )
    table.add_section()
    for codec, point in dict.fromkeys((row["codec"], asked(row)) for row in rows):
        group = [row for row in rows if (row["codec"], asked(row)) == (codec, point)]
        table.add_row(f"mean of {len(group)}", codec, point, "", *figures(group))
    console.print(table)
    for clip, reason in skipped.items():
        console.print(f"left out: {clip}: {reason}", markup=False)


def asked(row):
    return f"{row['target_bpp']:g} bpp" if "target_bpp" in row else f"QP {row['qp']}"


def figures(rows):
    return f"{mean(row['bpp'] for row in rows):.4f}", f"{mean(row['psnr'] for row in rows):.2f}"


def run():
    rows, skipped = measure(parse())
    show(rows, skipped, Console(stderr=True))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(run)
