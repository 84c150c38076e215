"""DCVC-SDD in tests: codecs with lively weights, and the smooth clip that they code."""

import torch
from reference_fill import fill_codec, picture

import vcodecs

NAME = "dcvc_sdd"


def lively(preset="tiny"):
    """A codec with latents, motion and pictures that are far from zero."""
    return fill_codec(vcodecs.create(NAME, preset)).eval()


def clip(frames, height=64, width=64):
    """(frames, 3, height, width) of a picture that moves and changes."""
    return torch.cat([picture(height, width, 0.2 * i) for i in range(frames)])


def on_shapes(preset):
    """A codec without any weights."""
    with torch.device("meta"):
        return vcodecs.create(NAME, preset)
