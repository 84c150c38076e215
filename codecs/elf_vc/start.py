"""Initial weights: paper presets copy the reference, small ones are a classical codec.

As in `vcodecs.klt`, with blocks of 4x4 and then 2x2 twice. A delayed merge passes values through
its activation in pairs of either sign, whose difference is linear. (Our own; docs/decisions.md.)
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcodecs.copier import ACTIVATED, DIFFERENCE_GAIN, keep_variance, silence, zero
from vcodecs.elf_vc.blocks import CELL, SLOPE, DelayedMerge
from vcodecs.elf_vc.networks import PICTURE, Decoder, Encoder
from vcodecs.klt import FAINT, RESIDUAL, analyse, cascade, synthesise
from vcodecs.layers import SubpelConv, bias_of, layer_of

if TYPE_CHECKING:
    from vcodecs.elf_vc.video import ELFVC

STRIDES = (CELL, 2, 2)
MERGED = 0.6
"""Gain of a merge, whose inputs have added up."""
LEAST_DEVIATION = 0.02
"""Of a coefficient, where colours are 0 to 1."""


@torch.no_grad()
def start_as_copier(codec: "ELFVC") -> None:
    """No motion and no residue before training: the picture is the reference."""
    zero(codec.flow_decoder.head)
    zero(codec.residue_decoder.head)
    if codec.flow_predictor is not None:
        zero(codec.flow_predictor.head)


@torch.no_grad()
def start_as_hybrid(codec: "ELFVC") -> None:
    """Weights of a classical codec without motion: the transform of what the reference leaves."""
    for layer in codec.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            keep_variance(layer, ACTIVATED)
        if isinstance(layer, DelayedMerge):
            keep_variance(layer.merge, MERGED)
        elif isinstance(layer, SubpelConv):
            keep_variance(layer.inner, 1.0)
    start_as_copier(codec)
    _see_difference(codec.flow_encoder)
    deviation = RESIDUAL * _transform(codec.residue_encoder, codec.residue_decoder)
    _start_parameters(codec.flow_hyper_decoder, torch.ones(0))
    _start_parameters(codec.residue_hyper_decoder, deviation)


def _see_difference(encoder: Encoder) -> None:
    first = layer_of(encoder.blocks, 0, DelayedMerge).convs[0]
    assert isinstance(first, nn.Conv2d)
    first.weight[:, :PICTURE] *= DIFFERENCE_GAIN
    first.weight[:, PICTURE : 2 * PICTURE] = -first.weight[:, :PICTURE]
    keep_variance(layer_of(encoder.blocks, -1, nn.Conv2d), 0.01)


def _transform(encoder: Encoder, decoder: Decoder) -> Tensor:
    """The residual to the latent and back.

    Returns the latent's deviations for colours of deviation 1.
    """
    inside = (layer_of(encoder.blocks, 2, DelayedMerge), layer_of(decoder.blocks, 2, DelayedMerge))
    passed = min(*(_passes(block) for block in inside), decoder.head.in_channels)
    steps = cascade((passed,) * len(STRIDES), STRIDES)
    first, second, last = (step.basis for step in steps)
    cells = first.flatten(1)
    _pass(layer_of(encoder.blocks, 0, DelayedMerge), cells)
    analyse(layer_of(encoder.blocks, 1, nn.Conv2d), second)
    _pass(layer_of(encoder.blocks, 2, DelayedMerge), torch.eye(len(second)))
    analyse(layer_of(encoder.blocks, 3, nn.Conv2d), last)
    _pass(layer_of(encoder.blocks, 4, DelayedMerge), torch.eye(len(last)))
    out = layer_of(encoder.blocks, 5, nn.Conv2d)
    out.weight.mul_(FAINT)
    silence(out, len(last))
    out.weight[range(len(last)), range(len(last)), 1, 1] = 1
    _pass(layer_of(decoder.blocks, 0, DelayedMerge), torch.eye(len(last)))
    synthesise(layer_of(decoder.blocks, 1, SubpelConv), last)
    _pass(layer_of(decoder.blocks, 2, DelayedMerge), torch.eye(len(second)))
    synthesise(layer_of(decoder.blocks, 3, SubpelConv), second)
    _pass(decoder.last, torch.eye(len(first)))
    decoder.head.weight.normal_(0, 0.0005)
    decoder.head.weight[:, : len(first), 1, 1] = cells.T
    return steps[-1].deviation


def _passes(block: DelayedMerge) -> int:
    """How many values a block can pass unchanged."""
    return block.merge.in_channels // len(block.convs) // 2


def _pass(block: DelayedMerge, matrix: Tensor) -> None:
    """Let a block's first outputs be `matrix` (outputs, first inputs) times its first inputs."""
    first = block.convs[0]
    assert isinstance(first, nn.Conv2d)
    outputs, inputs = matrix.shape
    for sign, start in ((1, 0), (-1, outputs)):
        first.weight[start : start + outputs] = 0
        first.weight[start : start + outputs, :inputs, 1, 1] = sign * matrix
    silence(block.merge, outputs)
    # lrelu(x) - lrelu(-x) is x, and the slope's share of x once more.
    for sign, start in ((1, 0), (-1, outputs)):
        places = range(start, start + outputs)
        block.merge.weight[range(outputs), places, 0, 0] = sign / (1 + SLOPE)


def _start_parameters(network: nn.Sequential, deviation: Tensor) -> None:
    """Means of zero, scales of one or, where known, of a transform's coefficients (C,)."""
    last = layer_of(network, -1, nn.Conv2d)
    last.weight.mul_(0.01 if len(deviation) else 0.1)
    means, scales = bias_of(last).chunk(2)
    means.zero_()
    scales.fill_(LEAST_DEVIATION if len(deviation) else 1)
    scales[: len(deviation)] = deviation.clamp_min(LEAST_DEVIATION)
