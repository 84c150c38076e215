"""DCVC-HEM in tests: codecs with lively weights, smooth pictures, a look into a coded frame."""

from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import pytest
import torch
from reference_fill import fill_codec, needs
from torch import Tensor

import vcodecs
from vcodecs import CodedFrame

VIDEO, INTRA = "dcvc_hem", "dcvc_hem_intra"
both_codecs = pytest.mark.parametrize("name", [VIDEO, INTRA])

needs_reference = needs("dcvc_hem_parity.npz")


def lively(name, preset="tiny"):
    """A codec with latents, motion and pictures that are far from zero."""
    codec = fill_codec(vcodecs.create(name, preset)).eval()
    if name == VIDEO and preset == "tiny":
        # Eight channels are too few for the motion's hyper latent to survive the rounding.
        codec.mv_hyper_prior_encoder[-1].weight.data.mul_(10)
    return codec


@cache
def official(name):
    """The official preset with made-up weights. Nobody changes it."""
    return lively(name, "official")


@dataclass(frozen=True)
class Record:
    """A coded frame and how it came about: what went into and out of every module, by its name;
    symbols and scales of the latents as they were charged, motion first."""

    coded: CodedFrame
    inputs: dict[str, tuple]
    outputs: dict[str, object]
    symbols: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]


def record(codec, frame, reference, rate):
    """Code one frame and look on."""
    inputs, outputs = {}, {}

    def keep(name):
        def hook(module, given, made):
            inputs[name], outputs[name] = given, made

        return hook

    hooks = [child.register_forward_hook(keep(name)) for name, child in codec.named_children()]
    model = codec.gaussian if codec.name == INTRA else codec.laplace
    with patch.object(model, "of_symbols", wraps=model.of_symbols) as charged, torch.no_grad():
        coded = codec(frame, reference, rate)
    for hook in hooks:
        hook.remove()
    symbols, scales = zip(*(call.args for call in charged.call_args_list), strict=True)
    return Record(coded, inputs, outputs, symbols, scales)
