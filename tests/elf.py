"""ELF-VC in tests: codecs with lively weights, and codecs without any."""

import torch
from reference_fill import fill_codec

import vcodecs

NAME = "elf_vc"


def lively(preset="tiny"):
    """A codec with latents, motion and pictures that are far from zero."""
    return fill_codec(vcodecs.create(NAME, preset)).eval()


def on_shapes(preset):
    """A codec without any weights."""
    with torch.device("meta"):
        return vcodecs.create(NAME, preset)
