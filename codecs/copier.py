"""Initial weights with which DCVC is a classical codec before it is trained."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcodecs.klt import FAINT, RESIDUAL, add_colours, transform_residual
from vcodecs.layers import GDN, ActivatedResBlock, ResBlock, SubpelConv, bias_of, layer_of
from vcodecs.motion import FlowLevel, SpyNet

if TYPE_CHECKING:
    from vcodecs.dcvc import DCVC

DIFFERENCE_GAIN = 6.0
"""Makes the difference of frame and prediction, a few hundredths, a signal of about one."""
ACTIVATED = 2**0.5
"""Gain of a layer in front of an activation, which cuts half."""
GAINS = {
    "mvEncoder": 1.0,
    "temporalPriorEncoder": 1.0,
    "contextualEncoder": 1.0,
    "mvDecoder_part1": 0.6,
    "contextualDecoder_part1": 0.6,
}
"""Gain of a layer; `ACTIVATED` where nothing is said. IGDN multiplies what is large, so
chains of it have to start below one."""
LATENT_GAIN = 10.0
"""Gain of the latent: its coefficients are quantised by 1/10, about right at a lambda of 1024."""
NORMALISATION = 0.01
"""The diagonal of GDN's gamma where a transform passes: what is small passes unchanged."""


@torch.no_grad()
def start_as_copier(codec: "DCVC") -> None:
    """Initial weights with which the decoded picture is the reference and the residual to it.

    The flow starts at zero, the first three feature channels carry the colours of the reference
    through to the picture, and both analysis networks see a difference: the flow network that of
    the pictures, the contextual encoder that of frame and context, which it takes through the
    stages of a classical transform. All other layers keep the variance of what passes them.
    Training then begins at the quality of a codec without motion instead of at noise, and every
    step is spent on what moves. (Our own; docs/decisions.md.)
    """
    for name, network in codec.named_children():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                keep_variance(layer, GAINS.get(name, ACTIVATED))
    start_flow(codec.opticFlow)
    zero(layer_of(codec.mvDecoder_part2, -1, nn.Conv2d))

    copy_channels(layer_of(codec.feature_extract, 0, nn.Conv2d), 0, 3)
    zero(layer_of(codec.feature_extract, 1, ResBlock).conv2)
    zero(layer_of(codec.context_refine, 0, ResBlock).conv2)
    copy_channels(layer_of(codec.context_refine, 1, nn.Conv2d), 0, 3)
    mixer = layer_of(codec.contextualDecoder_part2, 0, nn.Conv2d)
    copy_channels(mixer, mixer.in_channels // 2, 3)
    for i in (1, 2):
        zero(layer_of(codec.contextualDecoder_part2, i, ResBlock).conv2)
    show_colours(layer_of(codec.contextualDecoder_part2, 3, nn.Conv2d))
    see_difference(layer_of(codec.contextualEncoder, 0, nn.Conv2d))
    deviation = RESIDUAL * LATENT_GAIN * _transform_residual(codec)
    _start_parameters(codec.entropy_parameters_mv)
    _start_parameters(codec.entropy_parameters, deviation)


def _transform_residual(codec: "DCVC") -> Tensor:
    """The frame less the context's colours to its latent and back, through GDNs that let it pass.

    Returns the latent's deviations for colours of deviation 1.
    """
    encoder, decoder = codec.contextualEncoder, codec.contextualDecoder_part1
    downs = [layer for layer in encoder if isinstance(layer, nn.Conv2d)]
    ups = [layer for layer in decoder if isinstance(layer, SubpelConv)]
    deviation = transform_residual(downs, ups, LATENT_GAIN)
    for layer in (*encoder, *decoder):
        if isinstance(layer, GDN):
            diagonal = NORMALISATION * torch.eye(len(layer.beta))
            layer.gamma.copy_(layer.gamma_reparam.init(diagonal))
        elif isinstance(layer, ActivatedResBlock):
            layer_of(layer.conv, 2, nn.Conv2d).weight.mul_(FAINT)
    add_colours(layer_of(codec.contextualDecoder_part2, 0, nn.Conv2d))
    return deviation


def _start_parameters(network: nn.Sequential, deviation: Tensor | None = None) -> None:
    """Means of zero, scales of one or of a transform's coefficients (C,)."""
    last = layer_of(network, -1, nn.Conv2d)
    last.weight.mul_(0.1)
    means, scales = bias_of(last).chunk(2)
    means.zero_()
    scales.fill_(1)
    if deviation is not None:
        scales[: len(deviation)] = deviation.clamp_min(0.3)


def start_flow(flow: SpyNet) -> None:
    """No motion at first, and every level looks at the difference of its pictures."""
    for i in range(len(flow.moduleBasic)):
        level = layer_of(flow.moduleBasic, i, FlowLevel)
        level.conv1.weight[:, 3:6] = -level.conv1.weight[:, 0:3]
        zero(level.conv5)


def see_difference(layer: nn.Conv2d) -> None:
    """Make a layer over (frame, context) look at how the frame differs from the colours."""
    first = layer.weight
    first[:, 3:6] = -first[:, 0:3]
    first[:, 0:6] *= DIFFERENCE_GAIN
    first[:, 6:] *= 0.1


def show_colours(layer: nn.Conv2d) -> None:
    """Make a layer's picture its first three inputs."""
    copy_channels(layer, 0, 3)
    # Not zero, so that gradients pass from the first step on; at 0.01 the noise of so many
    # channels would drown the copied picture.
    layer.weight[:, 3:].normal_(0, 0.0005)


def keep_variance(layer: nn.Conv2d | nn.ConvTranspose2d, gain: float) -> None:
    """Weights with which outputs vary `gain` times as much as inputs; biases zero."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    inputs = layer.weight.shape[0] if transposed else layer.weight.shape[1]
    taps: float = layer.kernel_size[0] * layer.kernel_size[1]
    if transposed:
        taps /= layer.stride[0] * layer.stride[1]
    nn.init.normal_(layer.weight, 0, gain / (inputs * taps) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(bias_of(layer))


def silence(layer: nn.Conv2d, count: int) -> None:
    """Make outputs 0 ... count - 1 zero, so that nothing is added to what they carry."""
    layer.weight[:count] = 0
    bias_of(layer)[:count] = 0


def copy_channels(layer: nn.Conv2d, first_input: int, count: int) -> None:
    """Make outputs 0 ... count - 1 copies of the inputs from `first_input` on."""
    silence(layer, count)
    centre = layer.kernel_size[0] // 2
    for i in range(count):
        layer.weight[i, first_input + i, centre, centre] = 1
