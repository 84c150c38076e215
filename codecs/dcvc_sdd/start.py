"""Initial weights of small presets, with which a short training gets somewhere.

As in `vcodecs.dcvc_hem.start`: before training the P-frame network is a classical codec without
motion, which sends a transform of what differs from the reference. (Our own; docs/decisions.md.)
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcodecs.copier import copy_channels, keep_variance, show_colours, silence, start_flow, zero
from vcodecs.dcvc_hem.blocks import UNet
from vcodecs.dcvc_hem.networks import BottleneckBlock, ContextFusion, FeatureExtractor
from vcodecs.dcvc_hem.start import GAIN, draw, unactivated
from vcodecs.dcvc_sdd.blocks import ConvLSTM, DepthConvBlock, OffsetDiversity
from vcodecs.klt import COLOURS, FAINT, RESIDUAL, add_colours, transform_residual
from vcodecs.layers import bias_of, layer_of

if TYPE_CHECKING:
    from vcodecs.dcvc_sdd.video import DCVCSDD

SMALL = 0.1
"""Scale of what priors add at first to what their skips pass."""
LIFT = 20.0
"""Above most values of a latent."""


@torch.no_grad()
def start_as_hybrid(codec: "DCVCSDD") -> None:
    """Weights of a classical codec: the reference, and the transform of what it leaves over."""
    draw(codec)
    _draw_blocks(codec)
    start_flow(codec.optic_flow)
    for picture_part in (codec.mv_decoder.out_s, codec.mv_decoder.out_d):
        zero(picture_part.inner)
    _copy_through(codec)
    _start_motion_prior(codec)
    _start_prior(codec, RESIDUAL * _transform(codec))


def _draw_blocks(codec: nn.Module) -> None:
    """Variance-preserving weights of this codec's own blocks."""
    for block in codec.modules():
        if isinstance(block, DepthConvBlock):
            depthwise, pointwise = block.halves()
            keep_variance(depthwise.depth_conv, 1.0)
            depthwise.conv2.weight.mul_(0.3)
            layer_of(pointwise.conv, 2, nn.Conv2d).weight.mul_(0.3)
            if depthwise.adaptor is not None:
                keep_variance(depthwise.adaptor, 1.0)
        elif isinstance(block, ConvLSTM):
            keep_variance(block.conv, 1.0)
            # What the cell knows stays for a while.
            bias_of(block.conv).chunk(4)[1].fill_(1)
        elif isinstance(block, OffsetDiversity):
            zero(layer_of(block.conv_offset, -1, nn.Conv2d))
            keep_variance(block.fusion, 1.0)
        elif isinstance(block, FeatureExtractor | ContextFusion):
            unactivated(block, 0.7)


def _copy_through(codec: "DCVCSDD") -> None:
    """Carry the reference's colours in the first three channels of everything up to the picture."""
    for adaptor in (codec.feature_adaptor, codec.feature_adaptor2, codec.feature_adaptor3):
        keep_variance(adaptor, 1.0)
        copy_channels(adaptor, 0, COLOURS)
    copy_channels(codec.feature_adaptor_I, 0, COLOURS)
    copy_channels(codec.feature_extractor.conv1, 0, COLOURS)
    silence(codec.feature_extractor.res_block1.conv2, COLOURS)
    for alignment in (codec.align_s, codec.align_d):
        copy_channels(alignment.fusion, 0, COLOURS)
        # Gates begin at one half.
        alignment.fusion.weight[:COLOURS] *= 2
    silence(codec.context_fusion_net.conv1_out, COLOURS)
    silence(codec.context_fusion_net.res_block1_out.conv2, COLOURS)
    for fusion in (
        codec.context_hidden_fusion1,
        codec.context_hidden_fusion2,
        codec.context_hidden_fusion3,
    ):
        assert isinstance(fusion, nn.Conv2d)
        _pass_contexts(fusion)
    reconstruction = codec.recon_generation_net
    keep_variance(reconstruction.first_conv, 1.0)
    copy_channels(reconstruction.first_conv, codec.contextual_decoder.up4.outputs, COLOURS)
    for unet in (reconstruction.unet_1, reconstruction.unet_2):
        assert isinstance(unet, UNet)
        for block in (unet.conv1, unet.up_conv2):
            _copy_through_block(block)
    show_colours(reconstruction.recon_conv)


def _pass_contexts(fusion: nn.Conv2d) -> None:
    """Contexts as they are, and a little of the long-term ones beside the colours."""
    width = fusion.out_channels
    lasting = 0.3 * fusion.weight[:, width:]
    copy_channels(fusion, 0, width)
    fusion.weight[COLOURS:, width:] = lasting[COLOURS:]


def _copy_through_block(block: nn.Module) -> None:
    assert isinstance(block, DepthConvBlock)
    depthwise, pointwise = block.halves()
    if depthwise.adaptor is not None:
        copy_channels(depthwise.adaptor, 0, COLOURS)
    silence(depthwise.conv2, COLOURS)
    silence(layer_of(pointwise.conv, 2, nn.Conv2d), COLOURS)


def _transform(codec: "DCVCSDD") -> Tensor:
    """The frame less the contexts' colours to the latent and back.

    Returns the latent's deviations for colours of deviation 1.
    """
    encoder, decoder = codec.contextual_encoder, codec.contextual_decoder
    unactivated(encoder, 1.0)
    unactivated(decoder, 0.5)
    downs = (encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4)
    deviation = transform_residual(
        downs, (decoder.up1, decoder.up2, decoder.up3, decoder.up4), GAIN
    )
    for block in (*encoder.modules(), *decoder.modules()):
        if isinstance(block, BottleneckBlock):
            block.conv2.weight.mul_(FAINT)
    add_colours(codec.recon_generation_net.first_conv)
    return deviation


def _start_motion_prior(codec: "DCVCSDD") -> None:
    """Steps of one, scales as the hyper latent says (one), means as the last latent, faintly."""
    first = codec.mv_y_prior_fusion_adaptor_0
    channels = first.halves()[0].conv2.in_channels
    _quieten(
        first, codec.mv_y_prior_fusion_adaptor_1, codec.mv_y_prior_fusion, codec.mv_y_spatial_prior
    )
    _pass(first, [(0, channels, 1.0)])
    step, fused = torch.ones(channels), layer_of(codec.mv_y_prior_fusion, 0, DepthConvBlock)
    _pass(fused, [(None, channels, 0.0), (0, channels, 1.0), (channels, channels, SMALL)])
    adaptor = fused.halves()[0].adaptor
    assert adaptor is not None
    bias_of(adaptor)[:channels] = step
    _start_hyper_decoder(codec.mv_hyper_prior_decoder, torch.ones(channels))
    _start_spatial(codec, "mv_y", channels)


def _start_prior(codec: "DCVCSDD", deviation: Tensor) -> None:
    """Steps from the temporal prior (one), scales from the hyper latent (a transform's), means 0.

    The blocks' skips pass what enters them in this order; what passes for the mean is the last
    latent, of which the first block lets a little through.
    """
    first, second = codec.y_prior_fusion_adaptor_0, codec.y_prior_fusion_adaptor_1
    channels = first.halves()[0].conv2.in_channels // 2
    _quieten(first, second, codec.y_prior_fusion, codec.y_spatial_prior)
    _pass(first, [(0, 2 * channels, 1.0)])
    _take_away(second, 2 * channels, channels)
    temporal = layer_of(codec.temporal_prior_encoder, -1, nn.Conv2d)
    temporal.weight.mul_(SMALL)
    bias_of(temporal).fill_(1)
    scale = torch.ones(channels)
    scale[: len(deviation)] = (GAIN * deviation).clamp_min(0.5)
    _start_hyper_decoder(codec.contextual_hyper_prior_decoder, scale)
    _start_spatial(codec, "y", channels)


def _start_hyper_decoder(network: nn.Sequential, scale: Tensor) -> None:
    last = layer_of(network, -1, nn.Conv2d)
    last.weight.mul_(SMALL)
    bias_of(last).copy_(scale)


def _start_spatial(codec: "DCVCSDD", stream: str, channels: int) -> None:
    """The later steps expect what the first did."""
    for step in (1, 2, 3):
        adaptor = codec.get_submodule(f"{stream}_spatial_prior_adaptor_{step}")
        assert isinstance(adaptor, nn.Conv2d)
        # Of what is known and the three parts of the first expectation: scale, mean, what is known.
        copy_channels(adaptor, 2 * channels, 2 * channels)
        adaptor.weight[2 * channels :] = 0
        adaptor.weight[2 * channels :, :channels, 0, 0] = torch.eye(channels)
    spatial = codec.get_submodule(f"{stream}_spatial_prior")
    assert isinstance(spatial, nn.Sequential)
    _pass(layer_of(spatial, -1, DepthConvBlock), [(0, 2 * channels, 1.0)])


def _quieten(*networks: nn.Module) -> None:
    """Let blocks add little to what their skips pass."""
    for network in networks:
        for block in network.modules():
            if isinstance(block, DepthConvBlock):
                depthwise, pointwise = block.halves()
                depthwise.conv2.weight.mul_(SMALL)
                layer_of(pointwise.conv, 2, nn.Conv2d).weight.mul_(SMALL)


def _pass(block: DepthConvBlock, parts: list[tuple[int | None, int, float]]) -> None:
    """Let the skip of a block that changes the width pass parts: (first input, channels, gain)."""
    adaptor = block.halves()[0].adaptor
    assert adaptor is not None
    zero(adaptor)
    output = 0
    for first, count, gain in parts:
        if first is not None:
            here = range(output, output + count), range(first, first + count)
            adaptor.weight[here[0], here[1], 0, 0] = gain
        output += count


def _take_away(block: DepthConvBlock, first: int, count: int) -> None:
    """Let a block of one width take most of some channels away from what its skip passes."""
    depthwise, _ = block.halves()
    own = range(first, first + count)
    expand = layer_of(depthwise.conv1, 0, nn.Conv2d)
    for layer in (expand, depthwise.conv2):
        layer.weight[own] = 0
    # Lifted by more than they vary, they pass the activation unchanged.
    expand.weight[own, own, 0, 0] = 1
    bias_of(expand)[own] = LIFT
    depthwise.depth_conv.weight[own] = 0
    depthwise.depth_conv.weight[own, 0, 1, 1] = 1
    depthwise.conv2.weight[:, own] = 0
    depthwise.conv2.weight[own, own, 0, 0] = SMALL - 1
    bias_of(depthwise.conv2)[own] = (1 - SMALL) * LIFT
