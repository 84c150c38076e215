"""A small parity vector of our own making: what official presets make of two frames.

Outputs of the authors' code cannot be shipped. Our networks were compared with them tensor by
tensor (`pytest -m parity`, with the reference data), and this is what the networks that had passed
made of made-up weights and pictures. So whoever has no reference data tests against them all the
same. `python tests/parity_vector.py` writes it anew: only where the comparison has just passed.
"""

from pathlib import Path

import numpy as np
import torch
from reference_fill import fill_codec, picture

import vcodecs
from vcodecs import Reference

PATH = Path(__file__).parent / "vectors" / "official.npz"
RATES = {"dcvc": None, "dcvc_hem": 1.5, "dcvc_hem_intra": 1.5, "fvc": None}
PHASES = {1: 1.1, 2: 1.7}
"""Of the P frames; phases at which no latent is so near a tie that another machine rounds it
otherwise (weights that are off by rounding errors show the same pictures, see below)."""


@torch.no_grad()
def made(name, error=0.0):
    """Every other pixel of both P frames, and their bits by stream.

    `error`: relative, of every weight, as if another machine had rounded otherwise.
    """
    codec = fill_codec(vcodecs.create(name)).eval()
    for seed, weight in enumerate(codec.parameters()):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        weight.mul_(1 + error * noise)
    reference, arrays = Reference(picture(64, 64)), {}
    for number, phase in PHASES.items():
        coded = codec(picture(64, 64, phase), reference, RATES[name])
        arrays[f"{name}/p{number}/frame"] = coded.frame[0, :, ::2, ::2].numpy()
        for stream, bits in coded.bits.items():
            arrays[f"{name}/p{number}/bits/{stream}"] = bits.numpy()
        reference = coded.reference
    return arrays


if __name__ == "__main__":
    arrays = {}
    for name in RATES:
        arrays |= (exact := made(name))
        other = made(name, 1e-6)
        for key, value in exact.items():
            print(f"{key}: {np.abs(value - other[key]).max() / max(1, np.abs(value).max()):.1e}")
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, **arrays)
