"""Initial weights of small presets, with which a short training gets somewhere.

As in `vcodecs.copier`: what passes a network keeps its variance, the P-frame network shows its
reference before it is trained, and its encoders see differences. (Our own; docs/decisions.md.)
"""

import torch
from torch import nn

from vcodecs.copier import (
    copy_channels,
    keep_variance,
    see_difference,
    show_colours,
    start_flow,
    zero,
)
from vcodecs.dcvc_hem.blocks import DownBlock, GatedBlock, ResidualBlock, UNet, UpBlock
from vcodecs.layers import ResBlock, SubpelConv

ACTIVATED = 2**0.5
"""Gain of a layer in front of an activation, which cuts half."""
COLOURS = 3


@torch.no_grad()
def start_as_copier(codec: nn.Module) -> None:
    """Weights with which the decoded picture is the reference itself."""
    _draw(codec)
    for network in (codec.feature_extractor, codec.context_fusion_net):
        _unactivated(network, 0.7)
    _unactivated(codec.contextual_encoder, 1.0)
    _unactivated(codec.contextual_decoder, 0.5)
    keep_variance(codec.feature_adaptor_P, 1.0)
    keep_variance(codec.recon_generation_net.first_conv, 1.0)
    start_flow(codec.optic_flow)
    zero(codec.mv_decoder[-1][0])
    _copy_through(codec)
    see_difference(codec.contextual_encoder.conv1)
    codec.contextual_encoder.conv4.weight.mul_(3)
    _start_priors(codec.mv_y_prior_fusion, codec.mv_y_spatial_prior)
    _start_priors(codec.y_prior_fusion, codec.y_spatial_prior)


@torch.no_grad()
def start_intra(codec: nn.Module) -> None:
    """Weights with which latents are about one and the first picture is grey."""
    _draw(codec)
    codec.enc[0].conv1.weight.mul_(1.5)
    codec.enc[0].downsample.weight.mul_(1.5)
    codec.refine[1].weight.mul_(0.02)
    codec.refine[1].bias.fill_(0.5)
    _start_priors(codec.y_prior_fusion, codec.y_spatial_prior)


def _copy_through(codec: nn.Module) -> None:
    """Carry the reference's colours in the first three channels of everything up to the picture."""
    copy_channels(codec.feature_adaptor_I, 0, COLOURS)
    copy_channels(codec.feature_adaptor_P, 0, COLOURS)
    copy_channels(codec.feature_extractor.conv1, 0, COLOURS)
    _silence(codec.feature_extractor.res_block1.conv2)
    fusion = codec.context_fusion_net
    _silence(fusion.conv1_out)
    _silence(fusion.res_block1_out.conv2)
    reconstruction = codec.recon_generation_net
    first = reconstruction.first_conv
    copy_channels(first, codec.contextual_decoder.up4.outputs, COLOURS)
    for unet in (reconstruction.unet_1, reconstruction.unet_2):
        for block in (unet.conv1, unet.up_conv2):
            copy_channels(block.up_dim, 0, COLOURS)
            _silence(block.conv[2])
    show_colours(reconstruction.recon_conv)


def _silence(layer: nn.Conv2d) -> None:
    """Nothing is added to the colours."""
    layer.weight[:COLOURS] = 0
    layer.bias[:COLOURS] = 0


def _draw(codec: nn.Module) -> None:
    """Variance-preserving weights; what is added to a skip starts small."""
    for layer in codec.modules():
        if isinstance(layer, nn.Conv2d):
            keep_variance(layer, ACTIVATED)
    for block in codec.modules():
        if isinstance(block, ResBlock | ResidualBlock):
            block.conv2.weight.mul_(0.2)
        elif isinstance(block, DownBlock):
            block.conv2.weight.mul_(0.3)
            keep_variance(block.downsample, 1.0)
        elif isinstance(block, UpBlock):
            block.conv.weight.mul_(0.3)
            keep_variance(block.upsample[0], 1.0)
        elif isinstance(block, GatedBlock):
            block.conv[2].weight.mul_(0.3)
            keep_variance(block.up_dim, 1.0)
        elif isinstance(block, UNet):
            for layer in (block.up3, block.up2):
                keep_variance(layer[0], 0.7)


def _unactivated(network: nn.Module, gain: float) -> None:
    """Weights of the layers right below, which are sums of several tensors and no activation."""
    for layer in network.children():
        if isinstance(layer, nn.Conv2d | SubpelConv):
            keep_variance(layer[0] if isinstance(layer, SubpelConv) else layer, gain)


def _start_priors(fusion: nn.Sequential, spatial: nn.Sequential) -> None:
    """Steps and scales of one, means of zero."""
    for network, offsets in ((fusion, (1.0, 1.0, 0.0)), (spatial, (1.0, 0.0, 1.0, 0.0))):
        last = network[-1]
        last.weight.mul_(0.1)
        for bias, offset in zip(last.bias.chunk(len(offsets)), offsets, strict=True):
            bias.fill_(offset)
