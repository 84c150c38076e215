"""`python -m vcodecs encode`, `decode` and `info`: real bits on the command line."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lvc.container import Header
from lvc.decode import (
    INTRA_FOLDER,
    add_commands,
    add_setting,
    bundle_at,
    check_arithmetic,
    decode_file,
    exit_status,
    info,
    open_bundle,
    opened,
    setting_of,
)
from lvc.errors import UserError
from lvc.indices import MARGIN
from lvc.intra import IntraDecoder
from lvc.levels import open_networks
from lvc.program import Levels
from lvc.runtimes import Setting
from vcodecs import VideoCodec, registry
from vcodecs.coding import TorchNetworks, can_code
from vcodecs.control import LeastPsnr, MostBits
from vcodecs.encode import Coded, Encoder, encode_file
from vcodecs.intra import IntraCodec, NetworkIntra, create_intra


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit status."""
    given = _parser().parse_args(arguments)
    command = {"encode": _encode, "decode": _decode, "info": _info}[given.command]
    return exit_status(lambda: command(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vcodecs", description="Code video.")
    commands = parser.add_subparsers(dest="command", required=True)
    encode = commands.add_parser("encode", help="encode a video to an .lvc file")
    encode.add_argument("source", type=Path, metavar="IN", help="a video, or a folder of pictures")
    encode.add_argument("target", type=Path, metavar="OUT.lvc")
    encode.add_argument("--weights", required=True, help="a checkpoint, or bundled weights' name")
    encode.add_argument("--rate", type=float, help="of codecs of many rates, such as 1.5")
    control = encode.add_mutually_exclusive_group()
    control.add_argument(
        "--most-bits", type=float, metavar="BPP", help="a P frame's bits per pixel at most"
    )
    control.add_argument(
        "--least-psnr", type=float, metavar="DB", help="a P frame's PSNR at least; --rate: I frames"
    )
    encode.add_argument(
        "--intra",
        default="hevc:qp=22",
        help="codes I frames: such as hevc:qp=22, lossless, or network:checkpoint=WEIGHTS "
        "(default %(default)s)",
    )
    encode.add_argument("--intra-period", type=int, default=32, help="frames (default 32)")
    encode.add_argument("--frames", type=int, help="at most so many")
    encode.add_argument(
        "--bundle", type=Path, help="the receiver's graphs: what it computes is by these"
    )
    add_setting(encode)
    encode.add_argument(
        "--margin", type=float, default=MARGIN, help="how far decoders may differ (default 2^-13)"
    )
    decode = add_commands(commands)
    decode.add_argument("--weights", help="a checkpoint, or bundled weights' name, run by torch")
    decode.add_argument("--intra-weights", help="of the I frames, where a network has coded them")
    return parser


def _encode(given: argparse.Namespace) -> None:
    codec = open_codec(given.weights)
    rate = _rate(codec, given.rate)
    if given.intra_period < 1 or (given.frames is not None and given.frames < 1):
        raise UserError("--intra-period and --frames: give 1 or more")
    if not 0 < given.margin < 0.25:
        raise UserError(f"--margin {given.margin:g}: give a number above 0 and below 0.25")
    networks = TorchNetworks(codec, given.margin)
    if given.bundle is None and (given.runtime or given.precision):
        raise UserError("--runtime, --precision: they are of a bundle, so give --bundle as well")
    setting = setting_of(given)
    inside = given.bundle and bundle_at(given.bundle, setting)
    receiver = _receiver(inside, networks, setting)
    encoder = Encoder(networks, _intra(given), given.intra_period, rate, receiver)
    encode_file(given.source, given.target, encoder, given.frames, _control(given, codec))


def _control(
    given: argparse.Namespace, codec: VideoCodec
) -> Callable[[Encoder, np.ndarray], Coded]:
    if given.most_bits is None and given.least_psnr is None:
        return Encoder.code
    if len(codec.rates()) == 1:
        raise UserError(
            f"--most-bits, --least-psnr: {codec.name} has one rate, that of its weights"
        )
    return LeastPsnr(given.least_psnr) if given.most_bits is None else MostBits(given.most_bits)


def _intra(given: argparse.Namespace) -> IntraCodec:
    intra = create_intra(given.intra)
    if isinstance(intra, NetworkIntra):
        networks = TorchNetworks(_placed(intra.network, given.intra), given.margin)
        inside = given.bundle and given.bundle / INTRA_FOLDER
        learned = replace(setting_of(given), precision="fp32")
        intra.code_by(networks, _receiver(inside, networks, learned))
    return intra


def _receiver(folder: Path | None, networks: TorchNetworks, setting: Setting) -> Levels | None:
    """The bundle of these weights, where there is to be one.

    A file is made for the setting: its graphs run so whether they decide how bits are read or not.
    """
    if folder is None:
        return None
    bundle = open_networks(folder, networks.margin, setting, bound=True)
    if bundle.identity != networks.identity:
        raise UserError(f"--bundle {folder}: was exported from other weights than are given")
    return bundle


def _decode(given: argparse.Namespace) -> None:
    if (given.bundle is None) == (given.weights is None):
        raise UserError("give --weights (torch) or --bundle (onnxruntime), one of both")

    def by_torch(header: Header, weights: str | None) -> tuple[Levels, str]:
        if weights is None:
            raise UserError(
                f"--intra-weights: give those of {header.intra['codec']}, which coded the I frames"
            )
        return TorchNetworks(open_codec(weights), header.margin), weights

    def opener(header: Header) -> tuple[Levels, IntraDecoder]:
        if given.bundle is None:
            check_arithmetic(header, None)
        else:
            return open_bundle(given.bundle, header, setting_of(given, header.arithmetic))
        return opened(
            header,
            lambda: by_torch(header, given.weights),
            lambda: by_torch(header, given.intra_weights),
        )

    decode_file(given.source, given.target, opener, given)


def _info(given: argparse.Namespace) -> None:
    print(info(given.source))


def open_codec(weights: str) -> VideoCodec:
    """The codec of a checkpoint of ours, on the GPU where there is one. UserError where there is
    no such file or its codec has no real bits."""
    return _placed(registry.codec_of(weights), weights)


def _placed(codec: VideoCodec, what: str) -> VideoCodec:
    if not can_code(codec):
        raise UserError(f"{what}: codec {codec.name} has no real bits, only estimates")
    return codec.to("cuda" if torch.cuda.is_available() else "cpu")


def _rate(codec: VideoCodec, rate: float | None) -> float | None:
    points = codec.rates()
    if len(points) == 1:
        if rate is not None:
            raise UserError(f"--rate: {codec.name} has one rate, that of its weights; leave it out")
        return None
    if rate is None or not points[0] <= rate <= points[-1]:
        raise UserError(f"--rate: give a number from {points[0]:g} to {points[-1]:g}")
    return rate


if __name__ == "__main__":
    sys.exit(main())
