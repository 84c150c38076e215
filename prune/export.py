"""`python -m prune.export CHECKPOINT FOLDER`: a codec's decoder as a bundle of ONNX graphs."""

import argparse
from pathlib import Path
from typing import get_args

import torch

from lvc.pictures import SIZE_MULTIPLE
from prune import make_callable
from prune.cli import main
from prune.data import open_source
from prune.onnx_export.bit_parity import LONGEST, check_bundle
from prune.onnx_export.bundle import LARGEST, Size, export_bundle
from prune.progress import console
from vcodecs import UserError, registry
from vcodecs.deform import Operator


def command() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m prune.export", description="Export a codec's decoder to ONNX."
    )
    parser.add_argument("checkpoint", help="a .safetensors of ours, dense or shrunk")
    parser.add_argument("folder", help="where the bundle goes")
    parser.add_argument("--size", default="448x256", help="WIDTHxHEIGHT (default %(default)s)")
    parser.add_argument("--fixed", action="store_true", help="this size alone")
    parser.add_argument(
        "--deformable",
        choices=get_args(Operator),
        default="DeformConv",
        help="operator of deformable convolutions (default %(default)s)",
    )
    arguments = parser.parse_args()
    width, _, height = arguments.size.partition("x")
    largest = LARGEST * SIZE_MULTIPLE
    if not all(side.isdecimal() and 0 < int(side[:9]) <= largest for side in (width, height)):
        raise UserError(
            f"--size {arguments.size}: write it as WIDTHxHEIGHT, in pixels, at most {largest} each"
        )
    codec = registry.codec_of(arguments.checkpoint)
    size = Size(int(height), int(width), not arguments.fixed)
    worst = export_bundle(codec, arguments.folder, size, arguments.deformable)
    clip = open_source("procedural").read(0, 0, LONGEST)
    frames = check_bundle(codec, Path(arguments.folder), torch.from_numpy(clip).float() / 255)
    decoded = f", and decodes {frames} frames that torch coded" if frames else ""
    console.print(
        f"bundle: {arguments.folder} (onnxruntime agrees with torch to {worst:.1e}{decoded})"
    )


if __name__ == "__main__":
    main(command)
else:
    make_callable(__name__)
