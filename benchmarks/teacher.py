"""A dense codec on real clips, beside x265 at a like rate: the table of a teacher's card.

    python benchmarks/teacher.py dcvc small dcvc_small --source FOLDER [--p-frames 8]

Closed loop: one I frame, then P frames that each reference the last reconstruction. The rate of
the codec is its estimate plus the real bits of the I frame; x265 (medium, low delay P) codes the
same frames with the QP whose real rate comes nearest.
"""

import argparse

import vcodecs
from prune.cli import main
from prune.data import open_source
from prune.evaluate import evaluate_clip
from vcodecs.anchor import anchor
from vcodecs.intra import create_intra


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
    source = open_source(arguments.source)
    intra = create_intra(arguments.intra)
    frames = arguments.p_frames + 1
    print("| clip | P frames: bpp | PSNR | last P: PSNR | all: bpp | PSNR | x265: bpp | PSNR |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for index in range(len(source)):
        info = source.info(index)
        clip = source.read(index, 0, frames)
        result = evaluate_clip(codec, clip, intra, codec.rates()[0], frames)
        hevc = anchor(clip, info.fps, "hevc", target_bpp=result.bpp)
        p_frames = (result.p_bpp, result.p_psnr, result.frame_psnr[-1])
        rows.append((*p_frames, result.bpp, result.psnr, hevc.bpp, hevc.psnr))
        print(line(info.name, rows[-1]), flush=True)
    print(line("**average**", [sum(column) / len(rows) for column in zip(*rows, strict=True)]))


def line(name, figures):
    forms = (".3f", ".2f", ".2f", ".3f", ".2f", ".3f", ".2f")
    cells = [f"{value:{form}}" for value, form in zip(figures, forms, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main(command)
