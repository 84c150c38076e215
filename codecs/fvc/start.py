"""Initial weights of small presets, with which a short training gets somewhere.

As in `vcodecs.copier`: what passes a network keeps its variance, the codec shows its reference
before it is trained, and its encoders see differences. (Our own; docs/decisions.md.)
"""

import torch
from torch import Tensor, nn

from vcodecs.copier import DIFFERENCE_GAIN, keep_variance, zero
from vcodecs.deform import DeformableConv
from vcodecs.fvc.networks import Analysis, FeatureEncoder, ResidualBlock, Synthesis

ACTIVATED = 2**0.5
"""Gain of a layer in front of an activation, which cuts half."""
HALVED = 0.5
"""Gain of a layer in front of (or behind) `Resblocks`, whose outer skip doubles what passes."""
COLOURS = 3
PIXELS = ((2, 2), (2, 3), (3, 2), (3, 3))
"""Where in a 5x5 kernel of stride 2 the four pixels are that share one position."""


@torch.no_grad()
def start_as_copier(codec: nn.Module) -> None:
    """Weights with which the decoded picture is the reference itself.

    The first 12 channels of the features carry the colours of four pixels through; where there
    are not so many, the first three carry their means.
    """
    _draw(codec)
    feature = codec.Decoder.deconv1.in_channels
    pixels = [(pixel,) for pixel in PIXELS] if feature >= COLOURS * len(PIXELS) else [PIXELS]
    carried = COLOURS * len(pixels)
    _carry(codec, pixels, carried)
    for block in (codec.Encoder.feature_extraction, codec.Decoder.recon_trunk):
        for part in (block.res1, block.res2, block.res3):
            _silence(part.conv2, carried)
    # Every channel, so that the residual is a difference in all of them.
    _copy(codec.aligner.deformable_convolution)
    codec.aligner.refine_conv2.weight.mul_(0.1)
    _silence(codec.aligner.refine_conv2, carried)
    # Not zero, so that gradients pass from the first step on.
    codec.resDecoder.deconv3.weight[:, :carried].mul_(0.001)
    if codec.fusion is not None:
        _copy(codec.fusion.deformable_convolution)
        codec.fusion.merge.weight.mul_(0.1)
        _silence(codec.fusion.merge, carried)
    first = codec.aligner.offset_conv1.weight
    first[:, feature:] = -first[:, :feature]
    first.mul_(DIFFERENCE_GAIN)
    codec.resEncoder.conv1.weight.mul_(DIFFERENCE_GAIN)
    for network in (codec.EntropyCoding_offsetf, codec.EntropyCoding_residualf):
        _start_parameters(network.parameters_net)


def _draw(codec: nn.Module) -> None:
    """Variance-preserving weights; what is added to a skip starts small."""
    for layer in codec.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            keep_variance(layer, ACTIVATED)
    for block in codec.modules():
        if isinstance(block, ResidualBlock):
            block.conv2.weight.mul_(0.2)
        elif isinstance(block, FeatureEncoder):
            keep_variance(block.conv1, HALVED)
        elif isinstance(block, Analysis):
            for layer, gain in ((block.conv1, HALVED), (block.conv2, HALVED), (block.conv3, 1.0)):
                keep_variance(layer, gain)
        elif isinstance(block, Synthesis):
            halved = (block.deconv1, block.deconv2)
            for layer, gain in (*((x, HALVED) for x in halved), (block.deconv3, 1.0)):
                keep_variance(layer, gain)
        elif isinstance(block, DeformableConv):
            zero(block.conv_offset)


def _carry(codec: nn.Module, pixels: list[tuple], carried: int) -> None:
    """Picture to features and back."""
    into, out = codec.Encoder.conv1, codec.Decoder.deconv1
    into.weight[:carried] = 0
    out.weight[:carried] = 0
    out.weight[carried:].normal_(0, 0.0005)
    for i, group in enumerate(pixels):
        for colour in range(COLOURS):
            for row, column in group:
                into.weight[COLOURS * i + colour, colour, row, column] = HALVED / len(group)
                out.weight[COLOURS * i + colour, colour, row, column] = HALVED


def _copy(layer: DeformableConv) -> None:
    """A layer that moves its input and leaves it otherwise as it is."""
    nn.init.dirac_(layer.weight)


def _silence(layer: nn.Conv2d, carried: int) -> None:
    """Nothing is added to what is carried."""
    layer.weight[:carried] = 0
    layer.bias[:carried] = 0


def _start_parameters(network: nn.Module) -> None:
    """Means of zero and deviations of one."""
    network.conv2.weight.mul_(HALVED)
    network.conv3.weight.mul_(0.1)
    means: Tensor
    means, roots = network.conv3.bias.chunk(2)
    means.zero_()
    roots.fill_(1)
