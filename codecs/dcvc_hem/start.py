"""Initial weights of small presets, with which a short training gets somewhere.

What passes a network keeps its variance, as in `vcodecs.copier`; the intra network is a transform
codec before it is trained, and the P-frame network one of its reference's differences. (Our own;
docs/decisions.md.)
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcodecs.copier import (
    ACTIVATED,
    copy_channels,
    keep_variance,
    show_colours,
    silence,
    start_flow,
    zero,
)
from vcodecs.dcvc_hem.blocks import DownBlock, GatedBlock, ResidualBlock, UNet, UpBlock
from vcodecs.klt import (
    COLOURS,
    FAINT,
    PICTURE,
    RESIDUAL,
    TransformStep,
    add_colours,
    analyse,
    cascade,
    synthesise,
    transform_residual,
)
from vcodecs.layers import ResBlock, SubpelConv, bias_of, layer_of

if TYPE_CHECKING:
    from vcodecs.dcvc_hem.intra import DCVCHEMIntra
    from vcodecs.dcvc_hem.video import DCVCHEM

GAIN = 6.0
"""Gain of latents: with the first steps of the rate points, 1.8 to 0.6, a coefficient of the
transform is quantised by 0.3 to 0.1, which is about right for the official lambdas."""


@torch.no_grad()
def start_as_hybrid(codec: "DCVCHEM") -> None:
    """Weights of a classical codec: the reference, and the transform of what it leaves over."""
    draw(codec)
    for network in (codec.feature_extractor, codec.context_fusion_net):
        unactivated(network, 0.7)
    unactivated(codec.contextual_encoder, 1.0)
    unactivated(codec.contextual_decoder, 0.5)
    keep_variance(codec.feature_adaptor_P, 1.0)
    keep_variance(codec.recon_generation_net.first_conv, 1.0)
    start_flow(codec.optic_flow)
    zero(layer_of(codec.mv_decoder, -1, SubpelConv).inner)
    _copy_through(codec)
    _start_priors(codec.mv_y_prior_fusion, codec.mv_y_spatial_prior)
    deviation = RESIDUAL * _transform_residual(codec)
    _start_priors(codec.y_prior_fusion, codec.y_spatial_prior, deviation)


@torch.no_grad()
def start_intra(codec: "DCVCHEMIntra") -> None:
    """Weights of a transform codec."""
    draw(codec)
    deviation = PICTURE * _transform_picture(codec)
    _start_priors(codec.y_prior_fusion, codec.y_spatial_prior, deviation)


def _transform_picture(codec: "DCVCHEMIntra") -> Tensor:
    """Picture to latent and back; returns the latent's deviations for colours of deviation 1."""
    downs = [block for block in codec.enc if isinstance(block, DownBlock)]
    ups = [block for block in codec.dec if isinstance(block, UpBlock)]
    latent = layer_of(codec.enc, -1, nn.Conv2d)
    widths = (*(block.conv1.out_channels for block in downs), latent.out_channels)
    steps = cascade(widths)
    lifted = torch.full((COLOURS,), 0.5)
    for down, step in zip(downs, steps[:-1], strict=True):
        lifted = _analyse_lifted(down, step, lifted)
    basis = GAIN * steps[-1].basis
    analyse(latent, basis)
    bias_of(latent)[: len(basis)] = -basis.sum((2, 3)) @ lifted

    undone = [steps[-1].basis / GAIN, *(step.basis for step in steps[-2::-1])]
    for up, basis in zip(ups, undone[:-1], strict=True):
        synthesise(up.upsample, basis)
        up.conv.weight.mul_(FAINT)
    synthesise(layer_of(codec.dec, -1, SubpelConv), undone[-1])
    for block in (*codec.enc, *codec.dec):
        if isinstance(block, ResidualBlock):
            block.conv2.weight.mul_(FAINT)
    _copy_through_unet(layer_of(codec.refine, 0, UNet))
    last = layer_of(codec.refine, 1, nn.Conv2d)
    show_colours(last)
    bias_of(last).fill_(0.5)
    return steps[-1].deviation


def _analyse_lifted(block: DownBlock, step: TransformStep, before: Tensor) -> Tensor:
    """Apply `step` to inputs that are `before` too large; returns by how much the outputs are.

    Lifted by far more than they vary, they pass activations unchanged: these are linear there.
    """
    count = len(step.basis)
    after = 4 * PICTURE * step.deviation + 1
    analyse(block.conv1, step.basis)
    bias_of(block.conv1)[:count] = after - step.basis.sum((2, 3)) @ before
    copy_channels(block.conv2, 0, count)
    block.downsample.weight[:count] = 0
    return after


def _transform_residual(codec: "DCVCHEM") -> Tensor:
    """As `_transform_picture`, of the frame less the context's colours; nothing here activates."""
    encoder, decoder = codec.contextual_encoder, codec.contextual_decoder
    downs = (encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4)
    ups = (decoder.up1, decoder.up2, decoder.up3, decoder.up4)
    deviation = transform_residual(downs, ups, GAIN)
    for block in (encoder.res1, encoder.res2, decoder.res1, decoder.res2):
        block.conv2.weight.mul_(FAINT)
    add_colours(codec.recon_generation_net.first_conv)
    return deviation


def _copy_through(codec: "DCVCHEM") -> None:
    """Carry the reference's colours in the first three channels of everything up to the picture."""
    copy_channels(codec.feature_adaptor_I, 0, COLOURS)
    copy_channels(codec.feature_adaptor_P, 0, COLOURS)
    copy_channels(codec.feature_extractor.conv1, 0, COLOURS)
    silence(codec.feature_extractor.res_block1.conv2, COLOURS)
    fusion = codec.context_fusion_net
    silence(fusion.conv1_out, COLOURS)
    silence(fusion.res_block1_out.conv2, COLOURS)
    reconstruction = codec.recon_generation_net
    first = reconstruction.first_conv
    copy_channels(first, codec.contextual_decoder.up4.outputs, COLOURS)
    for unet in (reconstruction.unet_1, reconstruction.unet_2):
        _copy_through_unet(unet)
    show_colours(reconstruction.recon_conv)


def _copy_through_unet(unet: nn.Module) -> None:
    assert isinstance(unet, UNet)
    for block in (unet.conv1, unet.up_conv2):
        assert isinstance(block, GatedBlock)
        copy_channels(block.up_dim, 0, COLOURS)
        silence(layer_of(block.conv, 2, nn.Conv2d), COLOURS)


def draw(codec: nn.Module) -> None:
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
            keep_variance(block.upsample.inner, 1.0)
        elif isinstance(block, GatedBlock):
            layer_of(block.conv, 2, nn.Conv2d).weight.mul_(0.3)
            keep_variance(block.up_dim, 1.0)
        elif isinstance(block, UNet):
            for up in (block.up3, block.up2):
                keep_variance(up.inner, 0.7)


def unactivated(network: nn.Module, gain: float) -> None:
    """Weights of the layers right below, which are sums of several tensors and no activation."""
    for layer in network.children():
        if isinstance(layer, nn.Conv2d | SubpelConv):
            keep_variance(layer.inner if isinstance(layer, SubpelConv) else layer, gain)


def _start_priors(
    fusion: nn.Sequential, spatial: nn.Sequential, deviation: Tensor | None = None
) -> None:
    """Steps of one, means of zero, scales of one or of a transform's coefficients (C,)."""
    channels = layer_of(fusion, -1, nn.Conv2d).out_channels // 3
    scale = torch.ones(channels)
    if deviation is not None:
        scale[: len(deviation)] = (GAIN * deviation).clamp_min(0.5)
    mean, (first, second) = torch.zeros(channels), scale.chunk(2)
    halves = (first, mean[: len(first)], second, mean[: len(second)])
    for network, start in ((fusion, (torch.ones(channels), scale, mean)), (spatial, halves)):
        last = layer_of(network, -1, nn.Conv2d)
        last.weight.mul_(0.1)
        bias_of(last).copy_(torch.cat(start))
