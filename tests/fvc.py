"""FVC in tests: codecs with lively weights, a look into a coded frame."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import torch
from reference_fill import fill_codec, needs, picture
from torch import Tensor

from vcodecs import CodedFrame, Reference
from vcodecs.fvc import FVC

needs_reference = needs("fvc_parity.npz")


def lively(preset="tiny"):
    """A codec with latents, offsets and pictures that are far from zero."""
    codec = fill_codec(FVC(preset)).eval()
    if preset != "official":
        # So few channels leave little for the latents to survive the rounding with.
        for network in (codec.OffsetPriorEncoder, codec.resPriorEncoder):
            network.conv3.weight.data.mul_(4)
        for network in (codec.aligner.offset_encoder, codec.resEncoder):
            network.conv3.weight.data.mul_(3)
    return codec


@cache
def official():
    """The official preset with made-up weights. Nobody changes it."""
    return lively("official")


@dataclass(frozen=True)
class Record:
    """A coded frame and how it came about: what went into and out of every module, by its name
    and then call by call."""

    coded: CodedFrame
    inputs: dict[str, list[tuple]]
    outputs: dict[str, list]

    def into(self, name):
        """The only tensor that a module was called with, once."""
        ((tensor,),) = self.inputs[name]
        return tensor

    def out(self, name) -> Tensor:
        """What a module made, which was called once."""
        (made,) = self.outputs[name]
        return made


def record(codec, frame, reference):
    """Code one frame and look on."""
    inputs, outputs = defaultdict(list), defaultdict(list)

    def keep(name):
        def hook(module, given, made):
            inputs[name].append(given)
            outputs[name].append(made)

        return hook

    hooks = [
        module.register_forward_hook(keep(name)) for name, module in codec.named_modules() if name
    ]
    with torch.no_grad():
        coded = codec(frame, reference)
    for hook in hooks:
        hook.remove()
    return Record(coded, inputs, outputs)


def pictures(codec, height, width, count):
    """Records of P frames behind a first picture, and that picture."""
    first = picture(height, width)
    seen, reference = [], Reference(first)
    for t in range(count):
        seen.append(record(codec, picture(height, width, 1.0 + t), reference))
        reference = seen[-1].coded.reference
    return seen, first
