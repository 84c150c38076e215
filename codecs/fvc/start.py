"""Initial weights of small presets, with which a short training gets somewhere.

What passes a network keeps its variance, as in `vcodecs.copier`. Features begin with the first
stage of a classical transform, the residual's coder is its other stages, and the picture that is
decoded at first is the reference with this residual. (Our own; docs/decisions.md.)
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcodecs.copier import ACTIVATED, DIFFERENCE_GAIN, keep_variance, silence, zero
from vcodecs.deform import DeformableConv
from vcodecs.fvc.networks import (
    Analysis,
    FeatureBlock,
    FeatureEncoder,
    ParameterNetwork,
    Synthesis,
)
from vcodecs.klt import FAINT, RESIDUAL, analyse, cascade, synthesise
from vcodecs.layers import bias_of

if TYPE_CHECKING:
    from vcodecs.fvc.video import FVC

HALVED = 0.5
"""Gain of a layer in front of (or behind) `Resblocks`, whose outer skip doubles what passes."""
GAIN = 12.0
"""Gain of the residual's latent: quantised by 1/12, which is about right at lambda 2048."""


@torch.no_grad()
def start_as_hybrid(codec: "FVC") -> None:
    """Weights of a classical codec without motion."""
    _draw(codec)
    feature = codec.Decoder.deconv1.in_channels
    deviation, carried = _transform(codec)
    for block in (codec.Encoder.feature_extraction, codec.Decoder.recon_trunk):
        for part in (block.res1, block.res2, block.res3):
            silence(part.conv2, carried)
    # Every channel, so that the residual is a difference in all of them.
    _copy(codec.aligner.deformable_convolution)
    codec.aligner.refine_conv2.weight.mul_(0.1)
    silence(codec.aligner.refine_conv2, carried)
    if codec.fusion is not None:
        _copy(codec.fusion.deformable_convolution)
        codec.fusion.merge.weight.mul_(0.1)
        silence(codec.fusion.merge, carried)
    first = codec.aligner.offset_conv1.weight
    first[:, feature:] = -first[:, :feature]
    first.mul_(DIFFERENCE_GAIN)
    _start_parameters(codec.EntropyCoding_offsetf.parameters_net)
    _start_parameters(codec.EntropyCoding_residualf.parameters_net, RESIDUAL * GAIN * deviation)


def _transform(codec: "FVC") -> tuple[Tensor, int]:
    """Picture to features and back, their residual to its latent and back.

    Returns the latent's deviations for colours of deviation 1, and how many features are used.
    """
    coder, decoder = codec.resEncoder, codec.resDecoder
    convs = (codec.Encoder.conv1, coder.conv1, coder.conv2, coder.conv3)
    steps = cascade(tuple(layer.out_channels for layer in convs))
    first, second, third, last = (step.basis for step in steps)
    scaled = (HALVED * first, HALVED * second, HALVED * third, GAIN * last)
    for layer, basis in zip(convs, scaled, strict=True):
        analyse(layer, basis)
    out = codec.Decoder.deconv1
    out.weight.normal_(0, 0.0005)
    synthesise(out, HALVED * first)
    ups = (decoder.deconv1, decoder.deconv2, decoder.deconv3)
    for up, basis in zip(ups, (HALVED * last / GAIN, HALVED * third, second), strict=True):
        synthesise(up, basis)
    for block in (*coder.modules(), *decoder.modules()):
        if isinstance(block, FeatureBlock):
            block.conv2.weight.mul_(FAINT)
    return steps[-1].deviation, len(first)


def _draw(codec: nn.Module) -> None:
    """Variance-preserving weights; what is added to a skip starts small."""
    for layer in codec.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            keep_variance(layer, ACTIVATED)
    for block in codec.modules():
        if isinstance(block, FeatureBlock):
            block.conv2.weight.mul_(0.2)
        elif isinstance(block, FeatureEncoder):
            keep_variance(block.conv1, HALVED)
        elif isinstance(block, Analysis):
            for layer, gain in ((block.conv1, HALVED), (block.conv2, HALVED), (block.conv3, 1.0)):
                keep_variance(layer, gain)
        elif isinstance(block, Synthesis):
            halved = (block.deconv1, block.deconv2)
            for up, gain in (*((x, HALVED) for x in halved), (block.deconv3, 1.0)):
                keep_variance(up, gain)
        elif isinstance(block, DeformableConv):
            zero(block.conv_offset)


def _copy(layer: DeformableConv) -> None:
    """A layer that moves its input and leaves it otherwise as it is."""
    nn.init.dirac_(layer.weight)


def _start_parameters(network: ParameterNetwork, deviation: Tensor | None = None) -> None:
    """Means of zero, deviations of one or of a transform's coefficients (C,)."""
    network.conv2.weight.mul_(HALVED)
    network.conv3.weight.mul_(0.1)
    means: Tensor
    means, roots = bias_of(network.conv3).chunk(2)
    means.zero_()
    roots.fill_(1)
    if deviation is not None:
        roots[: len(deviation)] = deviation.clamp_min(0.3).sqrt()
