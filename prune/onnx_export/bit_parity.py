"""The proof that bits carry over: coded by one codec with torch, decoded by another or a bundle."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lvc.bundle import BUNDLE, BundleNetworks
from lvc.errors import UserError
from lvc.pictures import padded
from lvc.program import Networks, decompress
from prune.onnx_export.bundle import level_folder
from vcodecs import VideoCodec
from vcodecs.coding import TorchNetworks, can_code, compress

LONGEST = 3
"""Frames of a clip that are coded: behind an I frame, and behind a P frame."""


def check_decodes(codec: VideoCodec, receiver: Networks, clip: Tensor, what: str) -> int:
    """Code `clip` (T, 3, H, W) in [0, 1] with `codec` and decode it with `receiver`.

    Returns how many frames were decoded. UserError where a symbol differs; `what` is decoding.
    """
    networks = TorchNetworks(codec)
    frames = [padded(frame[None].float().cpu().numpy(), codec.multiple) for frame in clip[:LONGEST]]
    alone = codes_pictures(networks)
    here = there = {} if alone else {"reference": frames[0]}
    rate = codec.rates()[0]
    for number, frame in enumerate(frames if alone else frames[1:]):
        coded = compress(networks, torch.from_numpy(frame), here, rate)
        try:
            size = (frame.shape[2], frame.shape[3])
            decoded = decompress(receiver, coded.payload, there, size, rate)
        except UserError as error:
            raise UserError(_refusal(what, number, str(error))) from error
        for name, symbols in coded.symbols.items():
            if not np.array_equal(decoded.symbols[name], symbols):
                raise UserError(_refusal(what, number, f"symbols of {name} differ"))
        if not alone:
            here, there = coded.following, decoded.following
    return len(frames) - (not alone)


def codes_pictures(networks: TorchNetworks) -> bool:
    """Whether no graph looks at anything of the frame before."""
    graphs = networks.codec.decoder_graphs(networks.multiple, networks.multiple)
    needed = {name for graph in graphs for name in graph.inputs}
    return not any(name == "reference" or name.startswith("previous_") for name in needed)


def check_bundle(codec: VideoCodec, folder: Path, clip: Tensor) -> int:
    """`check_decodes` for a bundle of `codec`; where it fails no bundle.json is left behind.

    Of a bundle of one frame size only one P frame is tried, which may be large. Returns 0 for a
    codec that has no real bits.
    """
    if not can_code(codec):
        return 0
    if codec.levels > 1:
        each = range(codec.levels)
        return sum(check_bundle(codec.at_level(i), folder / level_folder(i), clip) for i in each)
    try:
        networks = BundleNetworks(folder)
        if size := networks.bundle["size"]:
            clip = F.interpolate(clip[:2], size, mode="bilinear")
        return check_decodes(codec, networks, clip, f"bundle {folder}")
    except UserError:
        with contextlib.suppress(OSError):
            (folder / BUNDLE).unlink()
        raise
    finally:
        torch.set_flush_denormal(False)


def _refusal(what: str, number: int, problem: str) -> str:
    return (
        f"{what} cannot decode what torch codes (frame {number}: {problem}): the networks differ "
        "by more than the margin of 1/8192 of a level, so its weights lead to huge values"
    )
